"""--mode=attack: how much of a model's accuracy is left where a few words of each text are changed."""

import json
from typing import Any

import jax
import numpy as np

from jaxft import config
from jaxft.attack import outcome
from jaxft.attack.options import Options
from jaxft.attack.search import attacked
from jaxft.data.order import permutation
from jaxft.data.splits import STREAMS
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.modes import measured
from jaxft.modes.explaining import PAGE, checked_suffix
from jaxft.modes.predicting import opened
from jaxft.predict.predictor import Predictor, run_in
from jaxft.report.tables import grid
from jaxft.tables.labels import ids


def attack(
    workdir: str,
    inputs: str = "",
    output: str = "",
    options: Options = Options(),  # noqa: B008 (frozen)
) -> dict[str, Any]:
    """Attacks labelled rows, says what that costs, and writes what became of each row.

    Args:
      workdir: of a run, or the directory of a trained model; see `Predictor.open`.
      inputs: a labelled file; empty: the run's validation split.
      output: FILE.html, a page that needs nothing else, or FILE.jsonl, a JSON line for each row, see
        `jaxft.attack.search.Attacked`; written whole or not at all. Empty: lines on standard output.
      options: how.

    Returns:
      See `jaxft.attack.outcome.summed`.

    Raises:
      UserError: a method, a file, a model or a row that cannot be used, or an output that cannot be written.
    """
    options = options.check()
    suffix = checked_suffix(output)
    if jax.process_count() > 1:
        raise UserError("--mode=attack is for one process; start it with --processes=1")
    predictor = Predictor.open(workdir)
    task = predictor.table.options
    if not isinstance(task, config.SequenceClassification) or task.problem != "single_label" or task.windows:
        kind = f"{type(task).__name__} {getattr(task, 'problem', '')}".strip()
        windows = " in windows" if getattr(task, "windows", "") else ""
        raise UserError(
            "--mode=attack is for SequenceClassification with a class a text (problem single_label), read without "
            f"windows; this is {kind}{windows}"
        )
    split = measured.of_model(workdir, run_in(workdir) is not None, inputs, predictor.experiment, predictor.table)
    count = split.table.num_rows
    split = split.take(np.sort(permutation(count, options.seed, STREAMS["attack"])[: options.rows or count]))
    rows = list(attacked(predictor, split, ids(task, split), options))
    found = outcome.summed(rows)
    with opened(output) as out:
        if suffix in PAGE:
            out.write(outcome.made_page(rows, found, options, workdir.rstrip("/"), split.origin))
        else:
            out.writelines(json.dumps(one.to_json(), ensure_ascii=False) + "\n" for one in rows)
    say(grid(outcome.lines(found)))
    return found
