"""Heads that several architectures share."""

from collections.abc import Mapping
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.models import nn
from jaxft.models.interface import Head
from jaxft.types import Array, Float, Params


def linear(path: str, width: int, outputs: int, stddev: float, drops: str = "classifier", bias: bool = True) -> Head:
    """Returns a dense layer at `path`, behind dropout at the rate that `drops` names; empty: behind none."""

    def apply(params: Params, x: Array, run: nn.Run) -> Array:
        return nn.dense(at(params, path), run.drop(x, drops) if drops else x).astype(jnp.float32)

    return Head(nn.unflatten({path: nn.dense_spec(width, outputs, ("embed", None), stddev, bias)}), apply)


def rate_of(hf: Mapping[str, Any], default: float) -> float:
    """Returns the dropout rate of a decoder's head for tokens: its own, or that of hidden states, or else the default.

    As GenericForTokenClassification finds it (transformers/modeling_layers.py).
    """
    rates = (hf.get(key) for key in ("classifier_dropout", "hidden_dropout"))
    return next((rate for rate in rates if rate is not None), default)


def over(below: Head, top: Head) -> Head:
    """Returns one head on top of what another computes."""

    def apply(params: Params, x: Array, run: nn.Run) -> Array:
        return top.apply(params, below.apply(params, x, run), run)

    return Head(nn.merged(top.spec, below.spec), apply, top.pooling)


def beside(head: Head) -> Head:
    """Returns a head whose outputs are another's and, behind them, what that is applied to, in float32."""

    def apply(params: Params, x: Array, run: nn.Run) -> Array:
        return jnp.concatenate([head.apply(params, x, run), x.astype(jnp.float32)], axis=-1)

    return head._replace(apply=apply)


def behind(path: str, act: str, top: Head, width: int, stddev: float, drops: str = "") -> Head:
    """Returns a head on top of act(dense(.)) by the dense layer at `path` (of BERT: its pooler, act being tanh).

    Args:
      drops: name of the rate of dropout before it; empty: none.
    """

    def apply(params: Params, x: Array, run: nn.Run) -> Array:
        with jax.named_scope("pooler"):
            x = run.drop(x, drops, site=1) if drops else x
            return nn.ACTIVATIONS[act](nn.dense(at(params, path), x))

    return over(Head(nn.unflatten({path: nn.dense_spec(width, width, ("embed", None), stddev)}), apply), top)


def transformed(
    dense: str, norm: str, act: str, sizes: tuple[int, int], stddev: float, eps: float, biases: tuple[bool, bool]
) -> Head:
    """Returns norm(act(dense(.))), which no more than prepares for what is on top.

    Args:
      dense, norm: the paths of both.
      sizes: of what goes in and what comes out.
      biases: whether dense layer and normalization have one.
    """
    spec = {
        dense: nn.dense_spec(*sizes, ("embed", None), stddev, biases[0]),
        norm: nn.layer_norm_spec(sizes[1], biases[1]),
    }

    def apply(params: Params, x: Array, run: nn.Run) -> Array:
        return nn.layer_norm(at(params, norm), nn.ACTIVATIONS[act](nn.dense(at(params, dense), x)), eps)

    return Head(nn.unflatten(spec), apply)


def words(below: Head | None, table: str, sizes: tuple[int, int], bias: str, tied: bool = True, own: str = "") -> Head:
    """Returns the scores of words by their embeddings, x E^T + b for x of `below` (Devlin et al. 2019).

    Args:
      below: None: hidden states as they are.
      table: path of the embeddings.
      sizes: of E: words, and numbers of each.
      bias: path of b, which ends in /bias; empty: there is none.
      tied: else E is no table of embeddings, but `own`, a path with the bias beside it.
    """
    spec = {}
    if not tied:
        table, bias = own, f"{own}/bias" if bias else ""
        spec[f"{table}/embedding"] = nn.Leaf(sizes, ("vocab", "embed"))
    if bias:
        spec[bias] = nn.Leaf(sizes[:1], ("vocab",), "zeros")

    def apply(params: Params, x: Array, run: nn.Run) -> Array:
        return word_scores(x, at(params, table)["embedding"], at(params, bias) if bias else jnp.zeros(sizes[0]))

    top = Head(nn.unflatten(spec), apply)
    return top if below is None else over(below, top)


def word_scores(
    x: Float[Array, "rows places width"], table: Float[Array, "words width"], bias: Float[Array, " words"]
) -> Float[Array, "rows places words"]:
    """Computes x E^T + b for a table E of word embeddings, the products summed in float32.

    Of one place a row, as an answer is written, it is (E x^T)^T: XLA on CPU copies the right side of a product first,
    which takes longer than the product where that is the table. Without the barrier XLA makes x E^T of it again.
    """
    table = table.astype(x.dtype)
    if x.shape[1] == 1:
        scores = jnp.einsum("ve,re->vr", table, x[:, 0], preferred_element_type=jnp.float32)
        return jax.lax.optimization_barrier(scores).T[:, None] + bias
    return jnp.einsum("rce,ve->rcv", x, table, preferred_element_type=jnp.float32) + bias


def at(params: Params, path: str) -> Any:
    """Returns what lies at a path: a parameter, or a tree of several."""
    return reduce(lambda tree, name: tree[name], path.split("/"), params)
