"""--mode=export --format=int8: the graph with int8 weights, once its answers have been measured."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxft import config, tables, tasks
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.job import Body
from jaxft.modes import measured
from jaxft.out import quantize
from jaxft.out.files import GRAPHS
from jaxft.predict import graph, reference
from jaxft.predict.graph import GraphEngine
from jaxft.report.tables import number
from jaxft.storage.workdir import Workdir

ABOUT = "int8.json"
"""Beside the graph: what was measured, and what stayed float32."""


class Answered(NamedTuple):
    """What a graph says of labelled rows: its metrics, and its answers."""

    metrics: Mapping[str, float]
    answers: list[dict[str, Any]]


class Rows(NamedTuple):
    """Labelled rows, and their tokens."""

    table: tables.Table
    split: Split
    features: Features

    def answered(self, engine: GraphEngine) -> Answered:
        found = engine.evaluate(self.features)
        metrics = {"loss": found.loss} | self.table.metrics(found.outputs, self.features, self.split)
        decided = self.table.decide(self.table.undecided())
        return Answered(metrics, list(decided.predictions(found.outputs, self.features, self.split)))


def write(folder: Workdir | None, path: str, inputs: str, max_loss: float) -> Path:
    """Writes the int8 graph beside the float32 one, and int8.json; returns where.

    Of several graphs, with ever more of it in float32, it is the first whose metric is good enough.

    Args:
      folder: the run that `path` is; None: it is a trained model's directory.
      inputs: a labelled file; empty: the run's validation split.
      max_loss: so much worse than float32 the metric may be.

    Raises:
      UserError: there is nothing to measure on, or no graph is good enough; what is there stays.
    """
    experiment, body, engine = graph.opened(folder, path, None, "onnx")
    rows = _rows(path, folder is not None, inputs, experiment, body)
    metric = (experiment.train.metric if folder else "") or rows.table.metric
    before, file = rows.answered(engine), engine.file
    target = file.with_name(GRAPHS["int8"])
    new, tried = target.with_name(f".{target.name}"), []
    by_word = isinstance(experiment.task, config.TokenClassification)
    try:
        for part in quantize.parts(file, body.model):
            quantize.quantize(file, new, part)
            after = rows.answered(GraphEngine(experiment, engine.task, body.model, new))
            agreement = quantize.agreement(before.answers, after.answers, by_word)
            good, better = (rows.table.score(metric, one.metrics[metric]) for one in (after, before))
            tried.append(f"{metric} {number(after.metrics[metric])} with {part.what} in float32")
            agreed = "" if math.isnan(agreement) else f", {agreement:.2%} of answers the same"
            say(f"int8: {tried[-1]}, {number(before.metrics[metric])} in float32{agreed}")
            if better - good <= max_loss:
                break
        else:
            raise UserError(
                f"no int8 graph: {metric} is {number(before.metrics[metric])} in float32, and {'; '.join(tried)}: "
                f"each is worse by more than --max_loss={max_loss:g}"
            )
        os.replace(new, target)
    finally:
        new.unlink(missing_ok=True)
    about = {
        "measured_on": f"{rows.split.origin} ({rows.split.table.num_rows} rows)",
        "metric": metric,
        "float32": dict(before.metrics),
        "int8": dict(after.metrics),
        "agreement": None if math.isnan(agreement) else agreement,
        "in_float32": part.what,
        "bytes": {"float32": file.stat().st_size, "int8": target.stat().st_size},
    }
    target.with_name(ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return target


def _rows(path: str, of_run: bool, inputs: str, experiment: config.Experiment, body: Body) -> Rows:
    """What is measured on."""
    table = tables.build(experiment.task).decide(body.hf.get("thresholds", {}))
    split = measured.of_model(path, of_run, inputs, experiment, table)
    features = body.features(split, table, experiment.data)
    task = tasks.build(experiment.task)
    return Rows(table, split, reference.of_rows(features, task, Workdir(path) if of_run else None))
