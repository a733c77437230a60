"""A plan as text for a terminal."""

from collections.abc import Mapping
from typing import Any

from jaxft.plan.search import Ranked, Setting
from jaxft.report.tables import grid, summary

UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def amount(value: float, unit: str) -> str:
    """`1.31 GB`, `33.5 TFLOP`: three digits and a decimal prefix."""
    scale, prefix = next((pair for pair in UNITS if abs(value) >= pair[0]), (1, ""))
    return f"{value / scale:.3g} {prefix}{unit}"


def size(value: float) -> str:
    """Bytes of memory, by a binary prefix."""
    unit = next((n for n in (3, 2, 1) if value >= 1024**n), 0)
    return f"{value / 1024**unit:.2f} {('B', 'KiB', 'MiB', 'GiB')[unit]}" if unit else f"{value:.0f} B"


def milliseconds(value: float) -> str:
    return f"{1000 * value:.3g} ms"


def mesh(sizes: Mapping[str, int]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1) or "1 device"


def verdict(facts: Mapping[str, Any]) -> str:
    """Whether it compiles and fits, in one line."""
    held = facts["memory"]
    if "message" in facts and not held["short"]:
        return f"does not compile: {facts['message'].splitlines()[0]}"
    if not held["limit"]:
        return f"needs {size(held['needed'])} a device; how much a {facts['device']} has is not known"
    if held["fits"]:
        return f"fits: {size(held['needed'])} of {size(held['limit'])} a device"
    return f"does not fit: {size(held['short'])} a device short ({size(held['needed'])} of {size(held['limit'])})"


def head(facts: Mapping[str, Any]) -> dict[str, str]:
    """What was planned, and the verdict."""
    if "shape" not in facts:  # the best of a search, none of which has been compiled
        return {"plan": facts["topology"], "verdict": verdict(facts)}
    rows, length, slots = facts["shape"].values()
    assumed = {"assumed": ", ".join(facts["assumed"])} if facts.get("assumed") else {}
    return {
        "plan": f"{facts['topology']}: {facts['devices']:,} devices ({facts['device']}), {mesh(facts['mesh'])}",
        "batch": f"{facts['examples']:,} examples of {facts['tokens']:,} tokens in {rows:,} x {length} "
        f"(up to {slots} a row), {facts['dtype']}",
        **assumed,
        "verdict": verdict(facts),
        "compiled": "before, from the cache" if facts["cached"] else f"in {facts['compile_seconds']:.0f} s",
    }


def sections(facts: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """The tables of a plan, each with its title."""
    parts = [("Memory of a device", _memory(facts["memory"]))] if facts["memory"]["needed"] else []
    if "flops" in facts:
        largest = [[row["array"], size(row["bytes"]), row["source"][-60:]] for row in facts["largest"][:5]]
        parts += [
            ("A step on one device", _work(facts)),
            ("Collectives of a step", _collectives(facts["collectives"])),
            ("Largest arrays that a step makes", largest),
        ]
    if "estimate" in facts:
        parts.append(("Estimate by the roofline model: no step is faster", _speed(facts["estimate"])))
    return parts


def text(facts: Mapping[str, Any]) -> str:
    """The whole plan."""
    return "\n\n".join([summary(head(facts)), *(f"{title}\n{grid(rows)}" for title, rows in sections(facts))])


def ranking(ranked: Ranked, start: Setting) -> str:
    """The settings of a search, the quickest first, and the best as flags to paste."""
    rows = [["", "mesh", "parts", "remat", "scan", "needs", "step", "utilization"]]
    for i, (one, facts) in enumerate(ranked, 1):
        held, found = facts["memory"], facts.get("estimate", {})
        sizes = {axis: getattr(one, axis) for axis in ("data", "fsdp", "tensor")}
        how = [str(one.accumulate), *("yes" if on else "no" for on in (one.remat, one.scan))]
        needs = size(held["needed"]) if held["needed"] else "does not compile"
        speed = (
            [milliseconds(found["step_seconds"]), f"{100 * found['utilization']:.1f}%"] if held["fits"] else ["", ""]
        )
        needs += ", does not fit" * (held["short"] > 0)
        rows.append([f"{i}{'*' * (one == start)}", mesh(sizes), *how, needs, *speed])
    best, facts = ranked[0]
    notes = ["* the experiment as it is"] + ["1 compiled as a run does, the others in less time"] * facts.get(
        "exact", False
    )
    chosen = f"best: {best.flags()}" if facts["memory"]["fits"] else "none of these fits; give more devices"
    return "\n".join([grid(rows), *(f"  {line}" for line in notes), chosen])


def _memory(held: Mapping[str, Any]) -> list[list[str]]:
    return [[name, size(value)] for name, value in held.items() if name not in ("fits", "short") and value]


def _work(facts: Mapping[str, Any]) -> list[list[str]]:
    return [
        ["model FLOPs", amount(facts["model_flops"], "FLOP")],
        ["executed in matrix products", amount(facts["flops"], "FLOP")],
        ["of them on float32", f"{100 * facts['float32_share']:.1f}%"],
        ["memory traffic", amount(facts["hbm_bytes"], "B")],
    ]


def _collectives(rows: list[dict[str, Any]]) -> list[list[str]]:
    if not rows:
        return [["none"]]
    table = [["kind", "axes", "dtype", "arrays", "bytes", "sent", "hidden"]]
    for row in rows:
        sizes = [amount(row["bytes"], "B"), amount(row["wire"], "B")]
        hidden = "yes" if row["hidden"] else "no"
        table.append([row["kind"], "+".join(row["axes"]), row["dtype"], f"{row['count']:,}", *sizes, hidden])
    return table


def _speed(found: Mapping[str, float]) -> list[list[str]]:
    return [
        ["arithmetic", milliseconds(found["compute_seconds"])],
        ["memory", milliseconds(found["memory_seconds"])],
        ["communication", milliseconds(found["communication_seconds"])],
        ["  of it not hidden", milliseconds(found["exposed_seconds"])],
        ["step", milliseconds(found["step_seconds"])],
        ["model FLOPs utilization", f"{100 * found['utilization']:.1f}%"],
        ["examples a second", f"{found['examples_per_second']:,.0f}"],
        ["tokens a day", amount(found["tokens_per_day"], "")],
    ]
