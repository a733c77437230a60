"""Changes of a word's spelling that a person reads over. Its first and last letter stay where letters change."""

import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
"""Each row lies half a key to the right of the one above it."""

MARKS = ".,;:!?"


def beside(letter: str) -> str:
    """Returns the letters next to one on the keyboard, as a capital has capitals; empty: it is not there."""
    small = letter.lower()
    row = next((number for number, keys in enumerate(KEYBOARD) if small in keys), None)
    if row is None:
        return ""
    at = KEYBOARD[row].index(small)
    places = ((row, at - 1), (row, at + 1), (row - 1, at), (row - 1, at + 1), (row + 1, at - 1), (row + 1, at))
    found = (KEYBOARD[r][c] for r, c in places if 0 <= r < len(KEYBOARD) and 0 <= c < len(KEYBOARD[r]))
    return "".join(one.upper() if letter.isupper() else one for one in found)


def typos(word: str) -> list[str]:
    """Returns the word with an inner letter hit beside its key."""
    return [word[:at] + other + word[at + 1 :] for at in range(1, len(word) - 1) for other in beside(word[at])]


def swaps(word: str) -> list[str]:
    """Returns the word with two inner letters side by side exchanged."""
    return [word[:at] + word[at + 1] + word[at] + word[at + 2 :] for at in range(1, len(word) - 2)]


def deletions(word: str) -> list[str]:
    """Returns the word without an inner letter."""
    return [word[:at] + word[at + 1 :] for at in range(1, len(word) - 1)]


def cases(word: str) -> list[str]:
    """Returns the word in small letters, in capitals, with a capital first, and with each letter the other way."""
    return [word.lower(), word.upper(), word.capitalize(), word.swapcase()]


def marked(word: str) -> list[str]:
    """Returns the word with a mark behind it, in quotation marks, in parentheses, and with a hyphen in its middle."""
    half = len(word) // 2
    return [
        *(word + mark for mark in MARKS),
        f'"{word}"',
        f"({word})",
        *([f"{word[:half]}-{word[half:]}"] * (half > 1)),
    ]


EDITS: Mapping[str, Callable[[str], Sequence[str]]] = {
    "typo": typos,
    "swap": swaps,
    "delete": deletions,
    "case": cases,
    "punctuation": marked,
}
"""Name of a method -> the words that it makes of one."""


def some(word: str, made: Sequence[str], most: int, seed: int) -> list[str]:
    """Returns at most so many different words among those made of one, none of them the word itself.

    Which ones is a function of the word and the seed: other words of a text do not matter.
    """
    found = [one for one in dict.fromkeys(made) if one != word]
    if len(found) <= most:
        return found
    rng = np.random.default_rng([seed, zlib.crc32(word.encode())])
    return [found[at] for at in sorted(rng.choice(len(found), most, replace=False))]
