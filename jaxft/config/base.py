"""How a knob is declared, and what a group of them is."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from jaxft.errors import nearest

T = TypeVar("T")


def knob(
    default: T,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple = (),
    since: str = "",
) -> T:
    """A documented dataclass field with bounds (inclusive) or choices.

    Args:
      since: the version that it came with, unless it was there in the first; at its default it then says nothing, so
        that runs of older versions resume.
    """
    meta = {"doc": doc, "low": low, "high": high, "choices": choices, "since": since}
    return dataclasses.field(default=default, metadata=meta)  # pyright: ignore[reportReturnType]


@dataclass(kw_only=True)
class Section:
    """A group of knobs: plain attributes until `lock`, read-only afterwards."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in {f.name for f in dataclasses.fields(self)}:
            raise AttributeError(f"no key {name!r}; {nearest(name, keys(self))}")
        if self.__dict__.get("_frozen"):
            raise AttributeError(f"the experiment is frozen; make a changed copy: dataclasses.replace(..., {name}=...)")
        object.__setattr__(self, name, value)

    def lock(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Section):
                value.lock()
        object.__setattr__(self, "_frozen", True)


def walk(section: Section, prefix: str = "") -> Iterator[tuple[str, Section, dataclasses.Field]]:
    """Every knob as `(dotted key, the section that holds it, its field)`."""
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if isinstance(value, Section):
            yield from walk(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, section, field


def keys(section: Section) -> list[str]:
    return [key for key, _, _ in walk(section)]
