"""How well the entities found in texts agree with the true ones."""

from collections.abc import Sequence

from jaxft.data.tags import Entity


def scores(true: Sequence[Sequence[Entity]], predicted: Sequence[Sequence[Entity]]) -> dict[str, float]:
    """Precision, recall and F1 of entities, which count as found where type and both ends agree.

    Args:
      true: the entities of each sentence.
      predicted: those found in it.

    Returns:
      `precision`, `recall`, `f1` over all entities, `f1_macro`, its mean over the types that occur, and
      `{precision,recall,f1,support}/TYPE`, as seqeval's precision_recall_fscore_support gives them; 0/0 counts as 0.
    """
    there, here = ({(i, *e) for i, found in enumerate(part) for e in found} for part in (true, predicted))
    kinds = sorted({e[1] for e in there | here})

    def measured(there: set, here: set) -> tuple[float, float, float]:
        right = len(there & here)
        precision, recall = right / max(len(here), 1), right / max(len(there), 1)
        return precision, recall, 2 * precision * recall / max(precision + recall, 1e-300)

    each = {kind: [{e for e in part if e[1] == kind} for part in (there, here)] for kind in kinds}
    results: dict[str, float] = {}
    results["precision"], results["recall"], results["f1"] = measured(there, here)
    types = {kind: measured(*sets) for kind, sets in each.items()}
    results["f1_macro"] = sum(f1 for *_, f1 in types.values()) / max(len(kinds), 1)
    for at, name in enumerate(("precision", "recall", "f1")):
        results |= {f"{name}/{kind}": types[kind][at] for kind in kinds}
    return results | {f"support/{kind}": len(each[kind][0]) for kind in kinds}
