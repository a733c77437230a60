"""Tags of words and the entities that they spell, in the schemes IOB1, IOB2 and BIOES; BILOU and BMES are read.

A tag is `O` or a prefix (B begins, I is inside, E ends, S is alone) and a type, as in B-PER. Sequences that no scheme
allows are read as conlleval.pl (CoNLL-2000) and the default mode of seqeval read them.
"""

import re
from collections.abc import Iterable, Sequence

TAG = re.compile("O|[BIES]-.+", re.DOTALL)

SCHEMES = ("IOB1", "IOB2", "BIOES")

OTHERS = {"L": "E", "U": "S", "M": "I"}
"""Prefixes of BILOU (last, unit) and BMES (middle) -> those of BIOES."""

NEAR = (
    (re.compile("[bielsmuBIELSMU]-.+", re.DOTALL), lambda tag: tag.upper()),
    (re.compile("[bielsmuBIELSMU]_.+", re.DOTALL), lambda tag: f"{tag[0].upper()}-{tag[2:]}"),
    (re.compile(".+[-_][bielsmuBIELSMU]", re.DOTALL), lambda tag: f"{tag[-1].upper()}-{tag[:-2]}"),
    (re.compile("[BIES]"), lambda tag: f"{tag}-X"),
)
"""What is nearly a tag of an entity, and the tag that it nearly is."""

Entity = tuple[str, int, int]
"""Type, first word, last word plus one."""


def bioes(tag: str) -> str:
    """Returns a tag of BILOU or BMES as BIOES writes it; any other as it is."""
    return OTHERS[tag[0]] + tag[1:] if tag[:1] in OTHERS and tag[1:2] == "-" and len(tag) > 2 else tag


def some_entity(tags: Iterable[str]) -> bool:
    """Whether tags have those of entities among them, in a scheme of ours, or are all such in one that is read."""
    different = set(tags) - {"O"}
    ours = any(TAG.fullmatch(tag) for tag in different)
    return ours or (bool(different) and all(TAG.fullmatch(bioes(tag)) for tag in different))


def nearly(tags: Iterable[str]) -> tuple[str, str] | None:
    """Returns a tag, and what it should be, where tags other than O are nearly those of entities: b-per, B_PER, PER-B.

    None: they are, or nothing like it.
    """
    different = sorted(set(tags) - {"O", "o"})
    if not different or any(TAG.fullmatch(bioes(tag)) for tag in different):
        return None
    for pattern, meant in NEAR:
        if all(pattern.fullmatch(tag) for tag in different):
            return different[0], meant(different[0])
    return None


def read(tags: Sequence[str]) -> list[Entity]:
    """The entities that a sequence of tags spells, in whichever of the schemes it is.

    A tag goes on with the entity before it if it is I or E, and the one before it B or I of the same type.
    """
    found: list[Entity] = []
    open_type = None
    for at, tag in enumerate(map(bioes, tags)):
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
