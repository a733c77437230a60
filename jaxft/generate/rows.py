"""The rows of a table as prompts: what `--mode=predict` and `--mode=evaluate` have a model write."""

from collections.abc import Iterator
from typing import Any

from jaxft import config
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.generate.answers import Answer, answers
from jaxft.generate.options import Options
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
