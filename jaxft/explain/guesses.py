"""What word comes next, or stands at [MASK]: scores of a few words at one place of each text."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft import config
from jaxft.batch import Target
from jaxft.data.columns import with_text
from jaxft.data.features import Features
from jaxft.data.rows import Rows
from jaxft.data.sources import INPUT, Split, require_columns
from jaxft.errors import UserError
from jaxft.explain import ablation
from jaxft.explain.targets import Aim, listed
from jaxft.explain.units import MOST_WORDS, Reading, check_units, reading
from jaxft.models import Head, Model, nn
from jaxft.predict.engine import CompiledEngine
from jaxft.predict.predictor import Inputs, Predictor
from jaxft.tasks.base import Task
from jaxft.types import Array, Batch, Outputs, Params

TOP = 16
"""Words that are found likeliest."""

Options = config.CausalLM | config.MaskedLM
"""Options of the tasks whose models guess words."""


@dataclasses.dataclass(frozen=True)
class Guess(Task):
    """Scores words at one place of each example: at its last token the word that follows, at [MASK] that one.

    `logits` are those of the words that are asked for, and then the log of the sum of the exponentials of all words';
    `top` are the `TOP` likeliest words, the best first.
    """

    options: Options
    reads: tuple[str, ...] = ("at", "asked")

    @property
    def targets(self) -> Mapping[str, Target]:
        return {"at": Target("example", np.int32), "asked": Target("example", np.int32, size=(MOST_WORDS,))}

    @property
    def outputs(self) -> Mapping[str, str]:
        return {"logits": "example", "top": "example"}

    def param_spec(self, model: Model) -> nn.Spec:
        return model.param_spec(self._head(model))

    def _head(self, model: Model) -> Head:
        return model.head("next" if _follows(self.options) else "word")

    def forward(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs:
        hidden = model.encode(params, batch, run, at=batch["starts"] + batch["at"])
        scores = self._head(model).apply(params, hidden, run)
        asked = jnp.take_along_axis(scores, batch["asked"], axis=-1)
        whole = jax.nn.logsumexp(scores, axis=-1, keepdims=True)
        return {"logits": jnp.concatenate([asked, whole], axis=-1), "top": jax.lax.top_k(scores, TOP)[1]}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Nothing is learned by it."""
        raise NotImplementedError


def guessing(predictor: Predictor) -> Predictor:
    """Returns the predictor of a language model, whose engine scores words at one place of each text.

    Raises:
      UserError: there is no engine of the parameters themselves, or there are virtual tokens among those of a text.
    """
    engine = predictor.engine
    if not isinstance(engine, CompiledEngine):
        raise UserError(
            "guesses of words are explained of one model by its parameters; open one alone, by --engine=jax"
        )
    if engine.composed.adaptation.tokens:
        raise UserError(
            "the model has virtual tokens before each text (adapt=prompt), among which places of words cannot be told; "
            "its guesses cannot be explained"
        )
    other = copy.copy(predictor)
    other.engine = engine.of_task(Guess(predictor.table.options))
    return other


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns the probability of each word that was asked for, `[n, MOST_WORDS]`, of the `Guess.outputs`."""
    logits = logits.astype(np.float64)
    return np.exp(logits[:, :-1] - logits[:, -1:])


def read(
    predictor: Predictor, data: Split | Sequence[str] | Rows, kind: str, target: str
) -> tuple[Inputs, list[Reading]]:
    """Returns texts, tokenized, and of each the units of this kind, the place of the guess and the words asked for.

    Args:
      predictor: as `guessing` returns it.
      target: words, set off by commas; empty: of each text the best guess.

    Raises:
      UserError: a text that cannot be read, or a word that the model has no token for.
    """
    column = predictor.table.options.text
    split = data if isinstance(data, Split) else predictor.split_of(data)
    if not split:
        raise UserError("there is no text and no row to answer; give one or more")
    split = split._replace(key=INPUT)
    require_columns(split, {"task.text": column})
    split = with_text(split, column)
    texts = split.table.column(column).to_pylist()
    with predictor.tokenizer() as tokenizer:
        encodings = tokenizer(texts, truncation=False, max_length=None, verbose=False).encodings
        readings = [
            _reading(predictor, tokenizer, split.where(row), {column: text}, encoding, kind)
            for row, (text, encoding) in enumerate(zip(texts, encodings, strict=True))
        ]
        for row, one in enumerate(readings):
            check_units(one, split.where(row), [column])
        words = tuple(_token(name, tokenizer) for name in listed(target))
    if len(words) > MOST_WORDS:
        raise UserError(f"explain.target names {len(words)} words; {MOST_WORDS} can be asked for at a time")
    if not words:
        best = predictor.compute(_whole(readings))["top"][:, 0]
        return _asking(split, [one._replace(asked=(int(word),)) for one, word in zip(readings, best, strict=True)])
    return _asking(split, [one._replace(asked=words) for one in readings])


def _asking(split: Split, readings: list[Reading]) -> tuple[Inputs, list[Reading]]:
    return Inputs(split, _whole(readings)), readings


def _whole(readings: Sequence[Reading]) -> Features:
    """An example for each text, of which nothing is hidden."""
    return Features.joined([ablation.features(one, np.ones((1, len(one.units)), bool), None) for one in readings])


def _reading(
    predictor: Predictor, tokenizer: Any, where: str, texts: Mapping[str, str], encoding: Any, kind: str
) -> Reading:
    """A text, without the token that ends texts, where the tokenizer puts it; [MASK] is no unit, and always stays."""
    size, longest, causal = len(encoding.ids), predictor.experiment.data.max_length, _follows(predictor.table.options)
    if causal and size > 1 and encoding.sequence_ids[-1] is None and encoding.ids[-1] == tokenizer.eos_token_id:
        size -= 1
    if size > longest:
        raise UserError(
            f"{where}: it has {size:,} tokens, and {longest:,} are read at once; give the passage that matters"
        )
    one = reading(texts, encoding, range(size), kind)._replace(cut=False)
    places = np.asarray([size - 1]) if causal else np.flatnonzero(one.ids == tokenizer.mask_token_id)
    if len(places) != 1:
        raise UserError(
            f"{where}: the word at {tokenizer.mask_token} is asked for, and it stands there {len(places)} times; write "
            "it once in each text"
        )
    one = one._replace(place=int(places[0]), asked=(0,))
    return one if causal else one.always(one.place)


def _follows(options: Options) -> bool:
    """Whether the word is asked for that follows a text."""
    return isinstance(options, config.CausalLM)


def _token(name: str, tokenizer: Any) -> int:
    """The token of a word, as it stands behind another word where there is such a one."""
    for form in (f" {name}", name):
        ids = tokenizer(form, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            return ids[0]
    raise UserError(f"explain.target {name!r}: the model has no token that is this word; give one that it has")


def word(token: int, tokenizer: Any) -> str:
    """Returns a token as a user reads it."""
    return tokenizer.decode([token]).strip() or tokenizer.convert_ids_to_tokens(token)


def aims(predictor: Predictor, readings: Sequence[Reading]) -> list[list[Aim]]:
    """Returns of each text the words that are asked for."""
    with predictor.tokenizer() as tokenizer:
        return [[Aim(word(token, tokenizer), n) for n, token in enumerate(one.asked)] for one in readings]


def answers(predictor: Predictor, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Returns of each text the best guess."""
    with predictor.tokenizer() as tokenizer:
        return [{"prediction": word(int(token), tokenizer)} for token in outputs["top"][:, 0]]


def likeliest(predictor: Predictor, texts: Sequence[str]) -> list[list[str]]:
    """Returns of each text the likeliest words at [MASK], the best first: of `TOP` tokens those that are words.

    Args:
      predictor: as `guessing` returns it, of a masked language model.

    Raises:
      UserError: a text that cannot be read.
    """
    column = predictor.table.options.text
    with predictor.tokenizer() as tokenizer:
        encodings = tokenizer(list(texts), truncation=False, max_length=None, verbose=False).encodings
        readings = [
            _reading(predictor, tokenizer, f"texts, row {row}", {column: text}, encoding, "words")
            for row, (text, encoding) in enumerate(zip(texts, encodings, strict=True), 1)
        ]
        top = predictor.compute(_whole(readings))["top"]
        return [[name for token in row if (name := _whole_word(int(token), tokenizer))] for row in top]


def _whole_word(token: int, tokenizer: Any) -> str:
    """A token that is a word behind another word, else nothing."""
    name = word(token, tokenizer)
    alone = name.isalpha() and tokenizer(f" {name}", add_special_tokens=False)["input_ids"] == [token]
    return name if alone else ""
