"""Small faults: where code can be changed in one place, and the module with that change.

A change is one that a slip could have made: a comparison that includes its bound or not, an index off by one, a sign, a
condition the other way round, an argument that is left out. What only people read is left alone: docstrings, errors,
lines for the log, annotations. So is what stands outside functions.
"""

import ast
import copy
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

SWAPPED: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Continue: ast.Break,
    ast.Break: ast.Continue,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "argmax": "argmin", "argmin": "argmax"}
SAID = {"say", "note", "noting", "warn", "print", "log", "notes", "lines", "hint", "doubts", "said", "listed"}
"""Names of what is said to people: calls of these, and what is put in them, are left alone."""

SEEN = "_jaxft_functions_seen"

Change = Callable[[Any], Any]


class Mutant(NamedTuple):
    """A change: the function that it is in, its line, what it does, and its number among all of the module."""

    function: str
    line: int
    what: str
    number: int
    span: tuple[int, int]
    """The first and the last line of the function, decorators included; of one inside another, those of the other."""


def mutants(source: str) -> list[Mutant]:
    """Returns every change of a module."""
    tree = ast.parse(source)
    spans = dict(_spans(tree, ""))
    found: list[Mutant] = []
    seen: Counter[tuple[str, str]] = Counter()
    for i, (function, node, what, _) in enumerate(_places(tree)):
        seen[function, what] += 1
        again = f" ({seen[function, what]})" if seen[function, what] > 1 else ""
        found.append(Mutant(function, node.lineno, what + again, i, spans[function]))
    return found


def mutated(source: str, number: int) -> str:
    """Returns the module with the change of that number."""
    tree = ast.parse(source)
    for i, (_, node, _, change) in enumerate(_places(tree)):
        if i == number:
            change(node)
            return ast.unparse(ast.fix_missing_locations(tree))
    raise IndexError(number)


def watched(source: str, file: str) -> str:
    """Returns the module, each function of which notes (file, its line) in the builtin set `SEEN` when it is called."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            at = int(ast.get_docstring(node) is not None)
            node.body.insert(at, ast.parse(f"{SEEN}.add(({file!r}, {node.lineno}))").body[0])
    return ast.unparse(ast.fix_missing_locations(tree))


def _places(tree: ast.Module) -> Iterator[tuple[str, Any, str, Change]]:
    """Each function, node, what is done to the node, and what does it, in the order of the source."""

    def inside(node: ast.AST, function: str) -> Iterator[tuple[str, Any, str, Change]]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = f"{function}.{node.name}" if function else node.name
            for child in node.body:
                yield from inside(child, name)
            return
        if _for_people(node):
            return
        if function and not isinstance(node, ast.Module):
            yield from ((function, node, what, change) for what, change in _changes(node))
        for child in ast.iter_child_nodes(node):
            if not (_annotation(node, child) or _of_zip(node, child) or _of_reshape(node, child)):
                yield from inside(child, function)

    yield from inside(tree, "")


def _spans(node: ast.AST, function: str, outer: tuple[int, int] | None = None) -> Iterator[tuple[str, tuple[int, int]]]:
    """Of each function and class by its name, the lines of it, or of the function that it is inside of."""
    for child in ast.iter_child_nodes(node):
        name, lines = function, outer
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            name = f"{function}.{child.name}" if function else child.name
            first = min(one.lineno for one in (child, *child.decorator_list))
            here = outer or (first, child.end_lineno or first)
            yield name, here
            lines = here if isinstance(child, ast.FunctionDef) else outer
        yield from _spans(child, name, lines)


def _for_people(node: ast.AST) -> bool:
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert):
        return True
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) or _for_people(node.value)  # a docstring, or what is said
    if isinstance(node, ast.Call):
        return bool({_name(node.func), _name(getattr(node.func, "value", None))} & SAID)
    if isinstance(node, ast.Assign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return any(_name(target) in SAID for target in targets)
    return False


def _name(node: Any) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _annotation(node: ast.AST, child: ast.AST) -> bool:
    return child in (getattr(node, "annotation", None), getattr(node, "returns", None))


def _of_zip(node: ast.AST, child: ast.AST) -> bool:
    """Whether this is the `strict` of a zip, which is an assertion."""
    return isinstance(node, ast.Call) and _name(node.func) == "zip" and isinstance(child, ast.keyword)


def _of_reshape(node: ast.AST, child: ast.AST) -> bool:
    """Whether this is the -1 of a reshape, for which numpy takes any number below zero."""
    return isinstance(node, ast.Call) and _name(node.func) == "reshape" and ast.unparse(child) == "-1"


def _changes(node: ast.AST) -> Iterator[tuple[str, Change]]:
    """What can be done to a node by itself."""
    if isinstance(node, ast.Compare):
        yield from (_operator(node, i) for i, operator in enumerate(node.ops) if type(operator) in SWAPPED)
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in SWAPPED and not _text(node):
        yield _replaced(node, "op")
    elif isinstance(node, ast.BoolOp):
        yield _replaced(node, "op")
        yield f"`{_short(node)}` without its last part", lambda n: n.values.pop()
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        yield f"`if {_short(node.test)}` the other way round", _negated
    elif isinstance(node, ast.Constant):
        yield from _constants(node)
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, ast.Dict) and len(node.keys) > 1:
        for i, key in enumerate(node.keys):
            yield f"a dict without `{_short(key) if key else '**'}`", lambda n, i=i: (n.keys.pop(i), n.values.pop(i))
    elif isinstance(node, ast.Continue | ast.Break):
        other = SWAPPED[type(node)]
        yield f"`{_short(node)}` -> `{_short(other())}`", lambda n: _become(n, other())
    elif (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)) or isinstance(node, ast.AugAssign):
        yield f"without `{_short(node)}`", lambda n: _become(n, ast.Pass())


def _operator(node: ast.Compare, at: int) -> tuple[str, Change]:
    changed = copy.deepcopy(node)
    changed.ops[at] = SWAPPED[type(node.ops[at])]()
    return f"`{_short(node)}` -> `{_short(changed)}`", lambda n: n.ops.__setitem__(at, changed.ops[at])


def _replaced(node: Any, field: str) -> tuple[str, Change]:
    changed = copy.deepcopy(node)
    setattr(changed, field, SWAPPED[type(getattr(node, field))]())
    return f"`{_short(node)}` -> `{_short(changed)}`", lambda n: setattr(n, field, getattr(changed, field))


def _text(node: Any) -> bool:
    """Whether a sum is one of texts."""
    parts = [getattr(node, name, None) for name in ("left", "right", "value")]
    return any(
        isinstance(p, ast.JoinedStr) or (isinstance(p, ast.Constant) and isinstance(p.value, str)) for p in parts
    )


def _negated(node: Any) -> None:
    node.test = ast.UnaryOp(ast.Not(), node.test)


def _constants(node: ast.Constant) -> Iterator[tuple[str, Change]]:
    if isinstance(node.value, bool):
        yield f"`{node.value}` -> `{not node.value}`", lambda n: setattr(n, "value", not n.value)
    elif isinstance(node.value, int):
        yield f"`{node.value}` -> `{node.value + 1}`", lambda n: setattr(n, "value", n.value + 1)


def _calls(node: ast.Call) -> Iterator[tuple[str, Change]]:
    name = _name(node.func)
    if name in NAMES:
        field = "attr" if isinstance(node.func, ast.Attribute) else "id"
        yield f"`{name}` -> `{NAMES[name]}` in `{_short(node)}`", lambda n: setattr(n.func, field, NAMES[name])
    if name == "sorted":
        yield f"`{_short(node)}` the other way round", _reversed
    keywords = [] if name == "zip" else node.keywords  # `strict` is an assertion
    for i, keyword in enumerate(keywords):
        yield f"`{_short(node)}` without `{keyword.arg or '**'}`", lambda n, i=i: n.keywords.pop(i)
    first, second = [
        _short(one) if isinstance(one, ast.Name | ast.Attribute) else "" for one in (*node.args, None, None)
    ][:2]
    if first and second and first != second and name not in ("isinstance", "zip"):
        yield f"`{_short(node)}` with its first two arguments swapped", _arguments_swapped


def _reversed(node: Any) -> None:
    inner = copy.deepcopy(node)
    _become(node, ast.Subscript(inner, ast.Slice(step=ast.UnaryOp(ast.USub(), ast.Constant(1))), ast.Load()))


def _arguments_swapped(node: Any) -> None:
    node.args[0], node.args[1] = node.args[1], node.args[0]


def _become(node: ast.AST, other: ast.AST) -> None:
    """Makes a node another one where it stands."""
    place = {name: getattr(node, name) for name in ("lineno", "col_offset")}
    node.__class__ = other.__class__
    node.__dict__.clear()
    node.__dict__.update(other.__dict__ | place)


def _short(node: Any) -> str:
    text = " ".join(ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
