"""--mode=soup: a model whose parameters are the mean of several runs' (Wortsman et al. 2022, Model soups)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxft import hub
from jaxft.devices.distributed import say
from jaxft.errors import UserError, nearest
from jaxft.models import nn
from jaxft.modes import measured, plain
from jaxft.modes.plain import Measure, Source
from jaxft.out import record
from jaxft.out.prune import Sized
from jaxft.predict.ensemble import check_runs
from jaxft.report.tables import grid, number
from jaxft.trained import thresholds
from jaxft.types import Params

RECORD = "soup.json"

HOW = ("greedy", "uniform")
"""Greedy: of the runs, the best first, each that does not make validation worse (algorithm 1); uniform: of all."""


class Found(NamedTuple):
    """A mean of runs: which, its parameters, and what validation says of it."""

    runs: tuple[str, ...]
    params: Params
    metrics: dict[str, float]


def soup(workdir: str, runs: Sequence[str], output: str, how: str = "greedy", inputs: str = "") -> dict[str, Any]:
    """Writes the mean of runs into a new folder, as a Hugging Face directory, and soup.json, what it is of.

    Args:
      workdir: of a finished run, or the directory of a trained model; whose validation split is measured on.
      runs: others, of the same model and labels; begun from the same pretrained parameters.
      output: the folder.
      how: one of `HOW`.
      inputs: a labelled file, instead of the validation split.

    Returns:
      What soup.json holds.

    Raises:
      UserError: there are no runs to take the mean of, they do not fit together, or there is nothing to measure on.
    """
    if how not in HOW:
        raise UserError(f"--soup.how is {how!r}; {nearest(how, HOW)}")
    if jax.process_count() > 1:
        raise UserError("--mode=soup is for one process; start it with --processes=1")
    paths = [workdir, *runs]
    check_runs(paths)
    target = plain.free(output)
    sources = [plain.opened(path) for path in paths]
    for other in sources[1:]:
        _check_alike(sources[0], other)
    first = sources[0]
    split = measured.of_model(first.path, first.of_run, inputs, first.experiment, first.table)
    measure = plain.measuring(first, split, first.sized.hf, first.body.directory)
    alone = [Found((one.path,), one.sized.params, measure(one.sized.params)) for one in sources]
    found, tried = _best(first, measure, alone, how)
    values = {
        "runs": list(found.runs),
        "how": how,
        "measured_on": split.origin,
        "metrics": found.metrics,
        "alone": {one.runs[0]: one.metrics for one in alone},
    }
    _write(target, first, found, values, tried)
    say(grid(tried))
    say(f"mean of {len(found.runs)} of {len(paths)} runs: {target}")
    return values


def _check_alike(first: Source, other: Source) -> None:
    """Makes sure that two models are the same but for the values of their parameters.

    Raises:
      UserError: they are not.
    """
    one, two = ({path: x.shape for path, x in nn.flatten(source.sized.params).items()} for source in (first, other))
    said = f"{other.path} cannot be averaged with {first.path}:"
    if different := sorted(path for path in {**one, **two} if one.get(path) != two.get(path)):
        raise UserError(f"{said} they are models of other sizes ({', '.join(different[:3])})")
    if first.body.model.cfg != other.body.model.cfg:
        raise UserError(f"{said} their config.json are of models that compute otherwise")
    tasks = [
        (type(one.experiment.task), *(getattr(one.experiment.task, key, None) for key in ("labels", "problem")))
        for one in (first, other)
    ]
    if tasks[0] != tasks[1]:
        raise UserError(f"{said} their tasks are not the same, or not their labels in the same order")
    if hub.tokenizer_fingerprint(first.body.directory) != hub.tokenizer_fingerprint(other.body.directory):
        raise UserError(f"{said} they have other tokenizers")


def _best(source: Source, measure: Measure, alone: list[Found], how: str) -> tuple[Found, list[list[str]]]:
    """The mean that is kept, and a table of what was measured on the way."""
    metric = source.experiment.train.metric or source.table.metric
    score = lambda one: source.table.score(metric, one.metrics[metric])  # noqa: E731
    heading = ["mean of", *dict.fromkeys(("loss", metric))]
    row = lambda one, runs: [runs, *(number(one.metrics[name]) for name in heading[1:])]  # noqa: E731
    tried = [heading, *(row(one, one.runs[0]) for one in alone)]

    def mean(several: list[Found]) -> Found:
        params = jax.tree.map(lambda *each: sum(each) / len(each), *(one.params for one in several))
        return Found(tuple(one.runs[0] for one in several), params, measure(params))

    if how == "uniform":
        found = mean(alone)
        return found, [*tried, row(found, f"all {len(alone)}")]
    first, *others = sorted(alone, key=score, reverse=True)
    found, members = first, [first]
    for other in others:
        more = mean([*members, other])
        tried.append(row(more, f"{len(members) + 1}, with {other.runs[0]}"))
        if score(more) >= score(found):
            found, members = more, [*members, other]
    return found, tried


def _write(target: Path, source: Source, found: Found, values: dict[str, Any], tried: list[list[str]]) -> None:
    hf = {key: value for key, value in source.sized.hf.items() if key != "thresholds"}
    chosen = thresholds(found.metrics)
    sized = Sized(hf | ({"thresholds": chosen} if chosen else {}), found.params)

    def card(about: record.About) -> str:
        text = (
            f"Measured on {about.measured}:\n\n{record.markdown(tried)}\n\nKept: the mean of {', '.join(found.runs)}."
        )
        return record.page(about, "A mean of the parameters of several runs, by jaxft", f"## Runs\n\n{text}")

    plain.write(target, source, sized, source.body.directory, {RECORD: values}, card)
