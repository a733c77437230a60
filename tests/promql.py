"""What a PromQL expression names: as much of the language as it takes to find that."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

TOKEN = re.compile(r"\s+|\"(?:[^\"\\]|\\.)*\"|\[[^\]]*\]|[a-zA-Z_:][\w:]*|\d[\w.]*|=~|!~|!=|==|<=|>=|[-+*/%^<>=(){},]")

LISTS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
"""Words after which labels stand in brackets."""

WORDS = {"and", "or", "unless", "offset", "bool"}

FUNCTIONS = {"abs", "avg_over_time", "count", "histogram_quantile", "increase", "max", "min", "rate", "sum", "time"}
"""Those that the project's expressions use: a misspelt one is found."""


@dataclass
class Named:
    """Metrics, each with the labels that it is selected by, and the labels that it is grouped or matched by."""

    metrics: dict[str, set[str]] = field(default_factory=dict)
    labels: set[str] = field(default_factory=set)


def named(expression: str) -> Named:
    """What an expression names; raises ValueError where it holds anything else than `TOKEN` and `FUNCTIONS`."""
    tokens, at = [], 0
    while at < len(expression):
        if not (match := TOKEN.match(expression, at)):
            raise ValueError(f"{expression[at : at + 20]!r} is no token")
        tokens += [match[0]] if match[0].strip() else []
        at = match.end()
    found, rest = Named(), iter(range(len(tokens)))
    tokens.append("")
    for i in rest:
        word = tokens[i]
        if not re.match(r"[a-zA-Z_:]", word) or word in WORDS:
            continue
        if word in LISTS:
            if tokens[i + 1] == "(":
                found.labels |= {token for token in _until(")", tokens, rest) if re.match(r"\w", token)}
        elif tokens[i + 1] == "(" and word not in FUNCTIONS:
            raise ValueError(f"{word} is no function")
        elif word not in FUNCTIONS:
            selected = found.metrics.setdefault(word, set())
            if tokens[i + 1] == "{":
                selected |= {token for token in _until("}", tokens, rest) if re.match(r"[a-z_]", token)}
    return found


def _until(end: str, tokens: list[str], rest: Iterator[int]) -> list[str]:
    """The tokens up to a bracket, which `rest` passes over."""
    found = []
    for i in rest:
        if tokens[i] == end:
            return found
        found.append(tokens[i])
    raise ValueError(f"{end} is lacking")
