"""The rows of a table as prompts: what `--mode=predict` and `--mode=evaluate` have a model write."""

from collections.abc import Iterator
from typing import Any

from jaxft import config
from jaxft.data.columns import with_text
from jaxft.data.sources import Split, require_columns
from jaxft.errors import UserError
from jaxft.generate.answers import Answer, answers
from jaxft.generate.options import Options
from jaxft.metrics import texts
from jaxft.predict.predictor import Predictor, require_inputs


def of_rows(predictor: Predictor, split: Split, options: Options) -> list[Answer]:
    """Returns what the model continues the text of each row with.

    Args:
      options: as `Options.check` returns them.

    Raises:
      UserError: a column is lacking, or a row or a model that cannot be continued; names it.
    """
    if type(predictor.table.options) is not config.CausalLM:
        name = type(predictor.table.options).__name__
        raise UserError(f"--generate.max_new_tokens continues texts, those of the task CausalLM; this one is {name}")
    require_inputs(split, predictor.table)
    read = predictor.table.read(split, labelled=False)
    (column,) = predictor.table.inputs
    return answers(predictor, read.table[column].to_pylist(), options, split.where)


def completions(predictor: Predictor, split: Split, options: Options) -> Iterator[dict[str, Any]]:
    """Yields the same as parts of rows of JSON."""
    for one in of_rows(predictor, split, options):
        yield one._asdict()


def measured(predictor: Predictor, split: Split, options: Options, reference: str) -> dict[str, float]:
    """Returns how near what the model continues rows with is to their references; see `jaxft.metrics.texts.measured`.

    Args:
      reference: the column of what a row should be continued with.

    Raises:
      UserError: as `of_rows`; or that column is not there, or a row has nothing in it.
    """
    require_columns(split, {"generate.reference": reference})
    asked = with_text(split, reference)
    found = of_rows(predictor, split, options)
    return texts.measured([one.completion for one in found], asked.table[reference].to_pylist())
