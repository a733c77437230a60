"""Attention rollout: where a model looks, through all of its layers (Abnar and Zuidema 2020, section 3).

Let W be the attention weights of a layer, `[asking, told]`, their mean over its heads. What a token of the layer has of
those below it, the residual beside it, is A = (W + 1) / 2, and of the words at the bottom the product of all layers' A.
It is the same for every answer: it says what the model could have used, not what it made of it.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxft import config, program
from jaxft.errors import UserError
from jaxft.explain.targets import Aim, per_token
from jaxft.explain.units import Reading
from jaxft.models import nn
from jaxft.predict.engine import CompiledEngine
from jaxft.predict.predictor import Predictor
from jaxft.types import Array, Float

NAME = "explain.method 'attention_rollout'"


def check(predictor: Predictor) -> CompiledEngine:
    """Returns the engine whose attention there is.

    Raises:
      UserError: there is none, or tokens look at more than each other.
    """
    engine = predictor.engine
    if not isinstance(engine, CompiledEngine):
        raise UserError(f"{NAME} needs the attention of one model; open one alone, by --engine=jax")
    method = engine.composed.adaptation
    if method.tokens or method.positions:
        raise UserError(f"{NAME}: tokens look at virtual ones too (adapt=prompt or prefix); take occlusion or shap")
    return engine


def shares(predictor: Predictor, reading: Reading, aims: Sequence[Aim]) -> np.ndarray:
    """Returns what the place of each target's answer has of each token of a row, `[targets, tokens]`.

    They add up to 1; of two texts that are read each by itself those of either do.

    Raises:
      UserError: attention is not computed of all tokens at once.
    """
    engine = check(predictor)
    parts = [slice(0, reading.second), slice(reading.second, None)] if reading.second else [slice(None)]
    found = []
    for part in parts:
        ids = reading.ids[part]
        rolled = rollout(attended(engine, ids, reading.types[part]))
        found.append(np.stack([place(engine, reading, aim, ids) @ rolled for aim in aims]))
    return np.concatenate(found, axis=1)


def attended(engine: CompiledEngine, ids: np.ndarray, types: np.ndarray) -> np.ndarray:
    """Returns the attention weights of each layer of a text, the mean over its heads, `[layers, tokens, tokens]`.

    The model is computed without jit, so that each layer hands its weights over.
    """
    composed, size = engine.composed, len(ids)
    found: list[Array] = []

    def record(query: Array, key: Array, value: Array, see: nn.See, drop: nn.PairDropout | None) -> Array:
        if query.shape[1] != size or key.shape[1] != size:
            raise UserError(
                f"{NAME}: {composed.model.cfg.hf_name} computes the attention of a text of {size:,} tokens in parts; "
                "take occlusion or shap, or a shorter text"
            )
        found.append(weights(query, key, see).mean(1)[0])
        return nn.attention(query, key, value, see, drop)

    same = program.unchanged
    plain = dataclasses.replace(
        composed.run, attention=record, scan=False, remat=False, constrain=lambda x, _: x, gather=same
    )
    row = {"input_ids": ids, "token_type_ids": types, "positions": np.arange(size), "segment_ids": np.ones(size)}
    example = {"starts": [0], "weights": [1], "order": [0]}
    batch = {name: jnp.asarray(x, jnp.int32)[None] for name, x in {**row, **example}.items()}
    with jax.disable_jit():
        composed.model.encode(composed.computed(*engine.weights), batch, plain)
    return np.stack([np.asarray(x, np.float64) for x in found])


def weights(
    query: Float[Array, "rows queries heads dim"], key: Float[Array, "rows length heads dim"], see: nn.See
) -> Float[Array, "rows heads queries length"]:
    """Computes softmax(Q K^T / sqrt(dim) + bias) over what is seen, as `nn.attention` does."""
    scores = jnp.einsum("rqhd,rkhd->rhqk", query * query.shape[-1] ** -0.5, key).astype(jnp.float32)
    scores = scores if see.bias is None else scores + see.bias.astype(jnp.float32)
    return jax.nn.softmax(jnp.where(see.mask(), scores, -jnp.inf), axis=-1)


def rollout(layers: np.ndarray) -> np.ndarray:
    """Returns what each token at the top has of each at the bottom, `[tokens, tokens]`.

    Args:
      layers: the attention weights of each, the lowest first, `[layers, tokens, tokens]`.
    """
    one = np.eye(layers.shape[1])
    rolled = one
    for layer in layers:
        rolled = (layer + one) / 2 @ rolled
    return rolled


def place(engine: CompiledEngine, reading: Reading, aim: Aim, ids: np.ndarray) -> np.ndarray:
    """Returns how much each token of a text at the top counts in the answer, `[tokens]`: one of them, or all alike."""
    options, first, last = engine.task.options, 0, len(ids) - 1
    pooling = ""
    if isinstance(options, config.SentenceEmbedding):
        pooling = {"cls": "first"}.get(options.pooling, options.pooling)
    elif isinstance(options, config.SequenceClassification):
        pooling = engine.model.head("text", outputs=max(len(options.labels), 1)).pooling
        last = int(np.flatnonzero(ids != engine.model.facts.padding).max(initial=0))  # as `Model.ends`
    if pooling in ("mean", "late"):
        return np.full(len(ids), 1 / len(ids))
    token = aim.token if per_token(engine.task.outputs) else reading.place
    return np.eye(len(ids))[{"first": first, "last": last}.get(pooling, token)]
