"""What Python and XLA of other versions than this one's would stumble over."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import ROOT
from xla_flags import understood

FILES = [file for folder in ("jaxft", "configs", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def hidden_names(source: str) -> Iterator[tuple[int, str]]:
    """Yields `(line, name)` where a function reads a global name that a comprehension in it uses as its variable.

    Python 3.12.1 takes such a name for an unbound local variable.
    """
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef | ast.Lambda):
            continue
        inside: dict[str, set[int]] = {}  # variable of a comprehension -> the nodes of that comprehension
        for node in ast.walk(function):
            if isinstance(node, COMPREHENSIONS):
                targets = (t for g in node.generators for t in ast.walk(g.target) if isinstance(t, ast.Name))
                for target in targets:
                    inside.setdefault(target.id, set()).update(map(id, ast.walk(node)))
        own = {argument.arg for argument in ast.walk(function) if isinstance(argument, ast.arg)}
        names = [n for n in ast.walk(function) if isinstance(n, ast.Name) and id(n) not in inside.get(n.id, ())]
        own |= {name.id for name in names if isinstance(name.ctx, ast.Store)}
        yield from ((name.lineno, name.id) for name in names if name.id in inside and name.id not in own)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_comprehension_hides_a_global(file: Path):
    assert list(hidden_names(file.read_text(encoding="utf-8"))) == []


def test_a_hidden_global_is_found():
    assert list(hidden_names("def f(x):\n    [name for name in x]\n    return name(x)")) == [(3, "name")]
    assert list(hidden_names("def f(x):\n    return [name(name) for name in x]")) == []


def test_flags_that_xla_does_not_know_are_left_out():
    assert understood("--xla_force_host_platform_device_count=8")
    assert not understood("--xla_cpu_no_such_flag=true")
