"""Where a model looks, and what it makes of what is there: attention rollout and AttCAT.

Let W be the attention weights of a layer, `[asking, told]`, their mean over its heads.

Attention rollout (Abnar and Zuidema 2020, section 3): what a token of the layer has of those below it, the residual
beside it, is A = (W + 1) / 2, and of the words at the bottom the product of all layers' A. It is the same for every
answer: it says what the model could have used, not what it made of it.

AttCAT (Qiang et al. 2022, Attentive Class Activation Tokens): of each layer the hidden state h of a token that the
layer reads, times the gradient of the target's logit by h, summed over its numbers; times how much the tokens of the
text attend to it there, the mean of W over those that ask; summed over the layers. Where the layer reads a_t h_t of
token t, the derivative of the logit by a_t at 1 is that product of h and gradient: no hidden state is kept.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft import config, program
from jaxft.errors import UserError
from jaxft.explain.targets import Aim, logits_of, per_token
from jaxft.explain.units import Reading
from jaxft.models import nn
from jaxft.objectives import layers
from jaxft.predict.engine import CompiledEngine
from jaxft.predict.predictor import Predictor
from jaxft.types import Array, Batch, Float

ATTCAT = "attcat"


def check(predictor: Predictor, method: str) -> CompiledEngine:
    """Returns the engine whose attention there is.

    Raises:
      UserError: there is none, or tokens look at more than each other.
    """
    engine, name = predictor.engine, f"explain.method {method!r}"
    if not isinstance(engine, CompiledEngine):
        raise UserError(f"{name} needs the attention of one model; open one alone, by --engine=jax")
    adaptation = engine.composed.adaptation
    if adaptation.tokens or adaptation.positions:
        raise UserError(f"{name}: tokens look at virtual ones too (adapt=prompt or prefix); take occlusion or shap")
    return engine


def of_tokens(predictor: Predictor, reading: Reading, aims: Sequence[Aim], method: str) -> np.ndarray:
    """Returns of each target what each token of a row has, `[targets, tokens]`, by one of the two methods.

    Rollout's are parts of 1; of two texts that are read each by itself those of either add up to 1.

    Raises:
      UserError: attention is not computed of all tokens at once.
    """
    inside = Inside(check(predictor, method), reading, method)
    if method == ATTCAT:
        slopes, looks = inside.slopes(aims)
        received = looks.sum(1) / inside.lengths[inside.segments - 1]
        return (slopes * received).sum(1)
    rolled = rollout(inside.looks())
    return np.stack([inside.place(aim) @ rolled for aim in aims])


def rollout(looks: np.ndarray) -> np.ndarray:
    """Returns what each token at the top has of each at the bottom, `[tokens, tokens]`.

    Args:
      looks: the attention weights of each layer, the lowest first, `[layers, tokens, tokens]`.
    """
    one = np.eye(looks.shape[1])
    rolled = one
    for layer in looks:
        rolled = (layer + one) / 2 @ rolled
    return rolled


class Inside:
    """A row alone, computed without jit, so that each layer hands its attention weights over.

    Attributes:
      lengths: tokens of each text that is read by itself, `[texts]`.
      segments: which of them each token is of, from 1, `[tokens]`.
    """

    def __init__(self, engine: CompiledEngine, reading: Reading, method: str):
        self._engine, self._reading, self._method = engine, reading, method
        every = np.ones((1, len(reading.ids)), bool)
        self.lengths = reading.lengths(every)
        self.segments = np.repeat(np.arange(1, reading.texts + 1), self.lengths)
        row = {
            "input_ids": reading.ids,
            "token_type_ids": reading.types,
            "positions": np.concatenate([np.arange(size) for size in self.lengths]),
            "segment_ids": self.segments,
        }
        examples = {
            "starts": np.cumsum([0, *self.lengths])[:-1],
            "weights": np.ones(reading.texts),
            "order": np.arange(reading.texts),
        }
        arrays = row | examples | reading.examples(every)
        self._batch: Batch = {name: jnp.asarray(x, jnp.int32)[None] for name, x in arrays.items()}

    def looks(self) -> np.ndarray:
        """Returns the attention weights of each layer, the mean over its heads, `[layers, tokens, tokens]`."""
        found: list[Array] = []
        run = dataclasses.replace(self._run(found))
        with jax.disable_jit():
            self._engine.model.encode(self._params(), self._batch, run)
        return np.stack([np.asarray(x, np.float64) for x in found])

    def slopes(self, aims: Sequence[Aim]) -> tuple[np.ndarray, np.ndarray]:
        """Returns of targets, layers and tokens hidden state times gradient, `[targets, layers, tokens]`; and `looks`.

        The gradient is that of the target's logit, or score.
        """
        engine, params = self._engine, self._params()
        asked = [aim.token for aim in aims], [aim.entry for aim in aims]

        def targets(scales: Float[Array, "layers tokens"]) -> tuple[Array, list[Array]]:
            found: list[Array] = []
            scale = iter(scales)
            tap = lambda name, x: x * next(scale)[None, :, None] if name == "read" else x  # noqa: E731
            run = dataclasses.replace(self._run(found), tap=tap)
            outputs = engine.task.forward(params, engine.model, self._batch, run)
            logits = logits_of({name: x[0] for name, x in outputs.items()}, jnp.stack)
            return logits[asked], found

        ones = jnp.ones((layers.depth(engine.model), len(self._reading.ids)))
        with jax.disable_jit():
            _, pull, looks = jax.vjp(targets, ones, has_aux=True)
            found = [pull(one)[0] for one in jnp.eye(len(aims))]
        return np.asarray(found, np.float64), np.stack([np.asarray(x, np.float64) for x in looks])

    def place(self, aim: Aim) -> np.ndarray:
        """Returns how much each token at the top counts in the answer, `[tokens]`: one of a text, or all alike."""
        ends = np.cumsum(self.lengths)
        parts = zip(ends - self.lengths, ends, strict=True)
        return np.concatenate([self._place(aim, self._reading.ids[start:end]) for start, end in parts])

    def _place(self, aim: Aim, ids: np.ndarray) -> np.ndarray:
        engine, first, last = self._engine, 0, len(ids) - 1
        options, pooling = engine.task.options, ""
        if isinstance(options, config.SentenceEmbedding):
            pooling = {"cls": "first"}.get(options.pooling, options.pooling)
        elif isinstance(options, config.SequenceClassification):
            pooling = engine.model.head("text", outputs=max(len(options.labels), 1)).pooling
            last = int(np.flatnonzero(ids != engine.model.facts.padding).max(initial=0))  # as `Model.ends`
        if pooling in ("mean", "late"):
            return np.full(len(ids), 1 / len(ids))
        token = aim.token if per_token(engine.task.outputs) else self._reading.place
        return np.eye(len(ids))[{"first": first, "last": last}.get(pooling, token)]

    def _params(self) -> Any:
        return self._engine.composed.computed(*self._engine.weights)

    def _run(self, found: list[Array]) -> nn.Run:
        """How the model is computed, so that each layer's attention weights are put into a list."""
        size = len(self._reading.ids)

        def record(query: Array, key: Array, value: Array, see: nn.See, drop: nn.PairDropout | None) -> Array:
            if query.shape[1] != size or key.shape[1] != size:
                raise UserError(
                    f"explain.method {self._method!r}: {self._engine.model.cfg.hf_name} computes the attention of a "
                    f"text of {size:,} tokens in parts; take occlusion or shap, or a shorter text"
                )
            found.append(jax.lax.stop_gradient(weights(query, key, see).mean(1)[0]))
            return nn.attention(query, key, value, see, drop)

        same, run = program.unchanged, self._engine.composed.run
        place = lambda x, _: x  # noqa: E731
        return dataclasses.replace(run, attention=record, scan=False, remat=False, constrain=place, gather=same)


def weights(
    query: Float[Array, "rows queries heads dim"], key: Float[Array, "rows length heads dim"], see: nn.See
) -> Float[Array, "rows heads queries length"]:
    """Computes softmax(Q K^T / sqrt(dim) + bias) over what is seen, as `nn.attention` does."""
    scores = jnp.einsum("rqhd,rkhd->rhqk", query * query.shape[-1] ** -0.5, key).astype(jnp.float32)
    scores = scores if see.bias is None else scores + see.bias.astype(jnp.float32)
    return jax.nn.softmax(jnp.where(see.mask(), scores, -jnp.inf), axis=-1)
