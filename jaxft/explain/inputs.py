"""Rows as their model reads them, and which of its outputs are asked for."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxft import config
from jaxft.data import truncation
from jaxft.data.rows import Rows
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.explain import guesses, pairs, targets
from jaxft.explain.targets import Aim
from jaxft.explain.units import Reading, check_units, reading
from jaxft.metrics.probabilities import softmax
from jaxft.predict.predictor import Inputs, Predictor
from jaxft.tables.sequence_classification import SequenceClassification
from jaxft.tables.words import STARTS, TEXT


def task_of(predictor: Predictor) -> targets.Options:
    """Returns the options of a task whose answers can be explained.

    Raises:
      UserError: it is another task, or reads texts in windows.
    """
    options = predictor.table.options
    if not isinstance(options, targets.Options) or isinstance(options, config.NextSentence):
        raise UserError(
            f"the model's task is {type(options).__name__}; what can be explained is SequenceClassification (a class, "
            "labels or a score of a text or of two), TokenClassification (the tag of a word), QuestionAnswering "
            "(both ends of the answer), SentenceEmbedding (the similarity of two texts), CausalLM (the next word) and "
            "MaskedLM (the word at [MASK])"
        )
    if isinstance(options, config.SequenceClassification | config.SentenceEmbedding) and options.windows:
        raise UserError(
            f"the model reads long texts in windows (config.task.windows={options.windows}), which cannot be explained "
            "yet; give it the passage that matters, by a run without windows"
        )
    return options


def read(
    predictor: Predictor, data: Split | Sequence[str] | Rows, kind: str, target: str = ""
) -> tuple[Inputs, list[Reading]]:
    """Returns the rows, tokenized, and of each the units of this kind that the model reads.

    Args:
      predictor: of a language model what `guesses.guessing` makes of it.
      target: the words that a language model is asked for, see `guesses.read`; other models do not heed it.

    Raises:
      UserError: a row that cannot be read, or that has no unit; names it.
    """
    if isinstance(predictor.table.options, config.SentenceEmbedding):
        return pairs.read(predictor, data, kind)
    if isinstance(predictor.table.options, guesses.Options):
        return guesses.read(predictor, data, kind, target)
    inputs = predictor.tokenized(data)
    split, features = inputs
    names, columns = predictor.table.inputs, texts_of(predictor, split)
    given = {"is_split_into_words": True} if predictor.table.words else {}
    with predictor.tokenizer() as tokenizer:
        asked = [split.table.column(name).to_pylist() for name in names]
        encodings = tokenizer(*asked, truncation=False, max_length=None, verbose=False, **given).encodings
    starts = split.table.column(STARTS).to_pylist() if predictor.table.words else None
    found, data_options, options = [], predictor.experiment.data, predictor.table.options
    for row, encoding in enumerate(encodings):
        places: Sequence[int] = range(len(encoding.ids))
        asking = isinstance(options, config.QuestionAnswering)
        if asking and encoding.sequence_ids.count(0) > options.question_length:
            raise UserError(
                f"{split.where(row)}: its question has {encoding.sequence_ids.count(0):,} tokens, of which "
                f"config.task.question_length {options.question_length} are read; shorten it"
            )
        if len(places) > data_options.max_length:
            if predictor.table.words or asking:
                raise UserError(
                    f"{split.where(row)}: it has {len(places):,} tokens, and {data_options.max_length:,} are read at "
                    "once; what is read in windows cannot be explained yet: give the passage that matters"
                )
            places = truncation.kept(encoding.sequence_ids, data_options.max_length, data_options.truncate)
        texts = {name: values[row] for name, values in columns.items()}
        one = reading(texts, encoding, places, kind, starts[row] if starts else None)
        check_units(one, split.where(row), columns)
        start, stop = features.offsets[row : row + 2]
        if not np.array_equal(one.ids, features.tokens["input_ids"][start:stop]):
            raise UserError(f"{split.where(row)}: its tokens cannot be told apart; please report this text")
        found.append(one)
    return inputs, found


def columns_of(predictor: Predictor) -> Sequence[str]:
    """Returns the columns whose words have numbers."""
    options = predictor.table.options
    return options.texts[:2] if isinstance(options, config.SentenceEmbedding) else predictor.table.inputs


def answers(predictor: Predictor, inputs: Inputs, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Returns what the model answers to each row; of two texts how alike they are, of a text the best guess."""
    if isinstance(predictor.table.options, config.SentenceEmbedding):
        return [{targets.SIMILARITY: float(one)} for one in targets.logits_of(outputs)[:, 0]]
    if isinstance(predictor.table.options, guesses.Options):
        return guesses.answers(predictor, outputs)
    return list(predictor.answers_of(inputs, outputs))


def texts_of(predictor: Predictor, split: Split) -> dict[str, list[str]]:
    """Returns the texts of the rows that the table has read, by the column that they are of."""
    columns = {name: TEXT if predictor.table.words else name for name in columns_of(predictor)}
    return {name: split.table.column(column).to_pylist() for name, column in columns.items()}


def aims(
    predictor: Predictor,
    target: str,
    inputs: Inputs,
    readings: Sequence[Reading],
    logits: Sequence[np.ndarray],
    answers: Sequence[Any],
) -> list[list[Aim]]:
    """Returns of each row the targets that are asked for.

    Args:
      inputs, readings: as `read` returns them, by the same target.
      target: see `jaxft.explain.options.Options`.
      logits: of each row, `[labels]`, or of its tokens, `[tokens, labels]`.
      answers: of each row.

    Raises:
      UserError: a label that there is not, or no row has what is asked for.
    """
    options = task_of(predictor)
    if isinstance(options, config.SequenceClassification):
        return [targets.of_row(target, options, one) for one in logits]
    if isinstance(options, config.SentenceEmbedding):
        return [targets.of_pair(target) for _ in logits]
    if isinstance(options, guesses.Options):
        return guesses.aims(predictor, readings)
    if isinstance(options, config.QuestionAnswering):
        offsets, ends = inputs.features.offsets, [inputs.features.tokens[name] for name in ("first", "last")]
        parts = [slice(*offsets[row : row + 2]) for row in range(len(answers))]
        return [
            targets.of_answer(target, answer, (ends[0][part], ends[1][part]), one)
            for answer, part, one in zip(answers, parts, logits, strict=True)
        ]
    words, offsets = inputs.features.tokens["words"], inputs.features.offsets
    found = []
    for row, answer in enumerate(answers):
        place = {int(word): at for at, word in enumerate(words[offsets[row] : offsets[row + 1]]) if word >= 0}
        found.append(targets.of_words(target, options, answer, [place.get(n) for n in range(len(answer["words"]))]))
    if target and not any(found):
        raise UserError(f"explain.target {target!r}: no row has such a word; leave it out, or take all")
    return found


def likely(predictor: Predictor) -> bool:
    """Returns whether targets have a probability, beside their logit."""
    options = predictor.table.options
    return bool(getattr(options, "labels", ())) or isinstance(options, guesses.Options)


def probabilities(predictor: Predictor, logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities of the labels, `[n, labels]`, as answers have them; of a score, the score itself.

    Of the ends of answers, which are chosen together, they are their logits; of a similarity they are itself.
    """
    table = predictor.table
    if isinstance(table.options, guesses.Options):
        return guesses.probabilities(logits)
    if isinstance(table.options, config.QuestionAnswering | config.SentenceEmbedding):
        return logits.astype(np.float64)
    if isinstance(table, SequenceClassification):
        return table.probabilities(logits) if table.options.labels else logits.astype(np.float64)
    return softmax(logits)


def stand_in(tokenizer: Any, baseline: str) -> int:
    """Returns the token that stands in the place of a word.

    Raises:
      UserError: the tokenizer has none.
    """
    token = {"mask": tokenizer.mask_token_id, "pad": tokenizer.pad_token_id}[baseline]
    if token is None:
        raise UserError(f"explain.baseline {baseline!r}: the model's tokenizer has no token for it; take another one")
    return int(token)
