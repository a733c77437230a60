"""The rows of a table as prompts: what `--mode=predict` and `--mode=evaluate` have a model write."""

from collections.abc import Iterator
from typing import Any

from jaxft import config
from jaxft.data.chat_template import Conversation, Template, applied
from jaxft.data.columns import with_text
from jaxft.data.sources import Split, require_columns
from jaxft.errors import UserError
from jaxft.generate.answers import Answer, answers
from jaxft.generate.options import Options
from jaxft.predict.predictor import Predictor, require_inputs
from jaxft.tables.chat import Chat


def of_rows(predictor: Predictor, split: Split, options: Options) -> list[Answer]:
    """Returns what the model continues the text of each row with, or answers to its conversation.

    Args:
      options: as `Options.check` returns them.

    Raises:
      UserError: a column is lacking, or a row or a model that cannot be continued; names it.
    """
    table = predictor.table
    if isinstance(table, Chat):
        conversations, _ = table.asked(split)
        return answers(predictor, prompts(predictor, table, conversations, split), options, split.where, rendered=True)
    if type(table.options) is not config.CausalLM:
        name = type(table.options).__name__
        raise UserError(
            "--generate.max_new_tokens continues texts and conversations, those of the tasks CausalLM and Chat; "
            f"this one is {name}"
        )
    require_inputs(split, table)
    (column,) = table.inputs
    return answers(predictor, with_text(split, column).table[column].to_pylist(), options, split.where)


def prompts(predictor: Predictor, table: Chat, conversations: list[Conversation], split: Split) -> list[str]:
    """Returns the texts that the chat template makes of conversations, with the prompt for an answer behind each.

    Raises:
      UserError: there is no template, or it does not take one of them, and where.
    """
    found = []
    with predictor.tokenizer() as tokenizer:
        template = Template(tokenizer, table.options.template)
        for row, one in enumerate(conversations):
            with applied(split.where(row)):
                found.append(template.render(one, prompt=True))
    return found


def completions(predictor: Predictor, split: Split, options: Options) -> Iterator[dict[str, Any]]:
    """Yields the same as parts of rows of JSON; with `others`, a list, where several answers are asked for."""

    def parts(one: Answer) -> dict[str, Any]:
        return {name: value for name, value in one._asdict().items() if name != "others"}

    for one in of_rows(predictor, split, options):
        yield parts(one) | ({"others": [*map(parts, one.others)]} if options.answers > 1 else {})


def compared(predictor: Predictor, split: Split, options: Options, reference: str) -> tuple[list[str], list[str]]:
    """Returns what the model continues each row with, and what it should be continued with.

    Args:
      reference: the column of what a row should be continued with; of conversations it may be empty: what the assistant
        says last in each.

    Raises:
      UserError: as `of_rows`; or that column is not there, or a row has nothing in it.
    """
    wanted = references(predictor, split, reference)
    return [one.completion for one in of_rows(predictor, split, options)], wanted


def references(predictor: Predictor, split: Split, reference: str) -> list[str]:
    """Returns what each row should be continued with; see `compared`."""
    if reference:
        require_columns(split, {"generate.reference": reference})
        return with_text(split, reference).table[reference].to_pylist()
    if not isinstance(predictor.table, Chat):
        raise UserError(
            "--generate.max_new_tokens has texts continued and measured; give --generate.reference, the column of what "
            "answers should be"
        )
    said = predictor.table.asked(split)[1]
    if "" in said:
        raise UserError(
            f"{split.where(said.index(''))}: the assistant says nothing at the end, against which its answer could be "
            "held; add that, or name a column by --generate.reference"
        )
    return said
