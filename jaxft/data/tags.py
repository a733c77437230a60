"""Tags of words and the entities that they spell, in the schemes IOB1, IOB2 and BIOES.

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
