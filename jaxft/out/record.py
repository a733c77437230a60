"""What became of a model that another was made of: a table of the steps, and the page of the directory."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxft.hub.card import front_matter_of
from jaxft.report.tables import number


class Step(NamedTuple):
    """A model's sizes, and what validation says of it.

    Attributes:
      what: has been done to it.
      layers, inner, words: how many it computes one after the other; units of each feed-forward net; tokens.
      parameters: numbers in its weights, of 4 bytes each.
      metrics: by name; empty: there was nothing to measure on.
    """

    what: str
    layers: int
    inner: int
    words: int
    parameters: int
    metrics: Mapping[str, float]

    def values(self) -> dict[str, Any]:
        """Returns the same as compress.json has it."""
        sizes = {name: value for name, value in self._asdict().items() if name != "metrics"}
        return {**sizes, "bytes": 4 * self.parameters, **self.metrics}


def rows(steps: Sequence[Step], metric: str) -> list[list[str]]:
    """Returns a table with a heading: the sizes after each step, the loss and a metric."""
    shown = [name for name in dict.fromkeys(("loss", metric)) if name in steps[-1].metrics]

    def row(step: Step) -> list[str]:
        sizes = [step.what, str(step.layers), str(step.inner), f"{step.words:,}"]
        weights = [f"{step.parameters / 1e6:.2f}M", f"{4 * step.parameters / 1e6:.1f}"]
        return sizes + weights + [number(step.metrics[name]) for name in shown]

    return [["", "layers", "units", "tokens", "parameters", "MB", *shown], *map(row, steps)]


class About(NamedTuple):
    """What the page tells beside the table.

    Attributes:
      name: of the directory.
      source: the run or the directory that the model is from.
      measured: what it was measured on; empty: nothing.
      base: the front matter of the model's own page; see `jaxft.hub.card.front_matter`.
      pipeline, usage, library: as `jaxft.tables.base.Published` has them.
      command: that made it.
    """

    name: str
    source: str
    measured: str
    base: Mapping[str, Any]
    pipeline: str
    usage: str
    library: str
    command: str


def card(about: About, table: Sequence[Sequence[str]]) -> str:
    """Returns the text of README.md of a smaller model."""
    measured = f", measured on {about.measured}" if about.measured else ""
    text = f"""## Sizes

What was done to it, one after the other{measured}:

{markdown(table)}

Units are those of each feed-forward net; weights take 4 bytes a parameter. It can be fine-tuned further, which brings
back a part of what was lost."""
    return page(about, f"`{about.source}` made smaller by jaxft", text)


def markdown(table: Sequence[Sequence[str]]) -> str:
    """Returns a table, whose first row is its heading, as Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in table]
    lines.insert(1, "|---|" + "---:|" * (len(table[0]) - 1))
    return "\n".join(lines)


def page(about: About, what: str, text: str) -> str:
    """Returns the text of README.md. Of the model's own page it keeps what is true of the one that was made of it too.

    Args:
      what: the model is, without a full stop.
      text: what was done.
    """
    return f"""---
{front_matter_of(about.base, about.library, about.pipeline)}
---

# {about.name}

{what}, for {about.pipeline}.

{text}

## How to use

```python
{about.usage}
```

## Command

```sh
{about.command}
```
"""
