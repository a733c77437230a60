"""Tags of words and the entities that they spell, in the schemes IOB1, IOB2 and BIOES; and the entities' metrics.

A tag is `O` or a prefix (B begins, I is inside, E ends, S is alone) and a type, as in B-PER. Sequences that no scheme
allows are read as conlleval.pl (CoNLL-2000) and the default mode of seqeval read them.
"""

import re
from collections.abc import Iterable, Sequence

TAG = re.compile("O|[BIES]-.+", re.DOTALL)

SCHEMES = ("IOB1", "IOB2", "BIOES")

Entity = tuple[str, int, int]
"""Type, first word, last word plus one."""


def read(tags: Sequence[str]) -> list[Entity]:
    """The entities that a sequence of tags spells, in whichever of the schemes it is.

    A tag goes on with the entity before it if it is I or E, and the one before it B or I of the same type.
    """
    found: list[Entity] = []
    open_type = None
    for at, tag in enumerate(tags):
        prefix, _, kind = tag.partition("-")
        if prefix == "O":
            open_type = None
            continue
        if prefix in "IE" and kind == open_type:
            found[-1] = (kind, found[-1][1], at + 1)
        else:
            found.append((kind, at, at + 1))
        open_type = kind if prefix in "BI" else None
    return found


def write(entities: Iterable[Entity], words: int, scheme: str) -> list[str]:
    """The tags of so many words that spell these entities, in order and without overlap, in one of `SCHEMES`."""
    tags, last = ["O"] * words, ("", 0, 0)
    for kind, start, stop in entities:
        tags[start:stop] = [f"I-{kind}"] * (stop - start)
        if scheme != "IOB1" or (last[0], last[2]) == (kind, start):  # IOB1 marks only what would run together
            tags[start] = f"B-{kind}"
        if scheme == "BIOES":
            tags[stop - 1] = f"{'S' if stop - start == 1 else 'E'}-{kind}"
        last = (kind, start, stop)
    return tags


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
