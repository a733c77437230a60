"""What is computed: one file an architecture, and this registry of them."""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from types import ModuleType
from typing import Any

import jax.numpy as jnp

from jaxft.errors import UserError, nearest
from jaxft.models import (
    albert,
    bert,
    deberta_v2,
    distilbert,
    electra,
    eurobert,
    gemma3,
    gpt2,
    gte,
    jina_embeddings_v3,
    llama,
    modernbert,
    modernbert_decoder,
    mpnet,
    nn,
    nomic_bert,
    roberta,
)
from jaxft.models.interface import PURPOSES, Facts, Head
from jaxft.types import Array, Batch, Float, Int, Params

ARCHITECTURES: dict[str, ModuleType] = {
    "bert": bert,
    "roberta": roberta,
    "xlm-roberta": roberta,
    "camembert": roberta,
    "distilbert": distilbert,
    "modernbert": modernbert,
    "deberta-v2": deberta_v2,
    "electra": electra,
    "albert": albert,
    "mpnet": mpnet,
    "eurobert": eurobert,
    "nomic_bert": nomic_bert,
    "gte": gte,
    "new": gte,
    "jina_embeddings_v3": jina_embeddings_v3,
    "gpt2": gpt2,
    "llama": llama,
    "qwen2": llama,
    "qwen3": llama,
    "mistral": llama,
    "smollm3": llama,
    "gemma3_text": gemma3,
    "modernbert-decoder": modernbert_decoder,
}
"""`model_type` of config.json -> the module that computes it; what it has is in `jaxft.models.interface`."""

HEAD_SITE = 2**16
"""A head's part number for dropout, beyond any layer's."""


@dataclasses.dataclass(frozen=True)
class Model:
    """An architecture together with its sizes: whoever does not compute it asks this, and reads no config of its."""

    module: ModuleType
    cfg: Any

    @property
    def prefix(self) -> str:
        """The path under which the pretrained body lies."""
        return self.cfg.prefix

    @cached_property
    def facts(self) -> Facts:
        """What there is to know of it: sizes, paths, dropout rates."""
        return self.module.facts(self.cfg)

    @cached_property
    def body(self) -> frozenset[str]:
        """The paths of the body's parameters, without what only heads need (a pooler)."""
        return frozenset(nn.flatten(self.module.param_spec(self.cfg)))

    def rates(self) -> dict[str, float]:
        """Returns the dropout rates that are above zero, by name."""
        return {name: rate for name, rate in self.facts.rates.items() if rate > 0}

    def hf_class(self, head: str) -> str:
        """Returns the name of the Hugging Face class: `head` is what follows the model's name; empty: the bare body."""
        called = {"": "Model", **getattr(self.cfg, "hf_heads", {})}
        return f"{self.cfg.hf_name}{called.get(head, head)}"

    def is_head(self, path: str) -> bool:
        """Tells whether one of the model's parameters is a head's: beside the body, or a pooler in it."""
        return path not in self.body

    def depth(self, path: str) -> int:
        """Returns how far below the head a parameter lies: 1 the last layer, 2 the one below, ...; 0 what is above.

        One that a method has added, `lora/PATH/a`, lies where the model's own at PATH does.
        """
        below = (*((layer,) for layer in reversed(self.facts.layers)), self.facts.embeddings)
        lies = lambda parts: any(f"/{part}/" in f"/{path}" for part in parts)  # noqa: E731
        return next((depth for depth, parts in enumerate(below, 1) if lies(parts)), 0)

    def part(self, key: str, part: str) -> tuple[str, ...]:
        """Returns patterns for the paths of the dense layers that are for something; see `interface.PARTS`.

        Args:
          key: of the experiment, that names others instead.

        Raises:
          UserError: the model has no layer for this alone.
        """
        if part not in self.facts.parts:
            raise UserError(f"{self.cfg.hf_name} has no dense layer for {part} alone; name layers in config.{key}")
        return self.facts.parts[part]

    def head(self, purpose: str, outputs: int = 0) -> Head:
        """Returns the head of one of `PURPOSES`; `outputs` is how many numbers a place gets, where that is free.

        Raises:
          UserError: the architecture has none of that purpose; or one of the last token, and no id is padding.
        """
        found = self.module.head(self.cfg, purpose, outputs)
        if found is None:
            have = [name for name in PURPOSES if self.module.head(self.cfg, name, 1) is not None]
            raise UserError(f"{self.cfg.hf_name} has no head for {purpose!r}; it has heads for {', '.join(have)}")
        if found.pooling == "last" and self.facts.padding is None:
            raise UserError(
                f"config.json: pad_token_id is missing, and {self.cfg.hf_name} answers at the last token that is no "
                "padding; set it to the tokenizer's, e.g. to eos_token_id"
            )
        return found

    def param_spec(self, *heads: Head) -> nn.Spec:
        """Declares every parameter of the body and of the given heads."""
        return nn.merged(self.module.param_spec(self.cfg), *(head.spec for head in heads))

    def encode(
        self, params: Params, batch: Batch, run: nn.Run, at: Int[Array, "rows places"] | None = None
    ) -> Float[Array, "rows places width"]:
        """Computes hidden states of the last layer, at every position or at the positions `at` of each row."""
        return self.module.encode(params, self.cfg, batch, run, at)

    def cache_spec(self, rows: int, places: int) -> nn.Spec:
        """Declares a cache for `decode`, of so many tokens a row: shapes and logical axes, as of parameters.

        Raises:
          UserError: the model is no decoder.
        """
        facts = self.facts
        if not facts.causal:
            raise UserError(
                f"{self.cfg.hf_name} writes no text, as each of its tokens sees those after it too; take a decoder, "
                "such as one of type llama, qwen3 or gpt2 (docs/models.md)"
            )
        size = facts.head_size or facts.width // facts.heads
        return nn.cache_spec(len(facts.layers) * facts.repeats, rows, facts.key_heads or facts.heads, places, size)

    def decode(
        self, params: Params, batch: Batch, run: nn.Run, cache: nn.Cache, at: Int[Array, "rows places"] | None = None
    ) -> tuple[Float[Array, "rows places width"], nn.Cache]:
        """Computes as `encode` the tokens that follow those in a cache, and puts these into it."""
        return self.module.decode(params, self.cfg, batch, run, cache, at)

    def of_examples(self, head: Head, params: Params, batch: Batch, run: nn.Run) -> Float[Array, "rows slots outputs"]:
        """Applies a head to each example: at one of its tokens, or to all of them, as `head.pooling` says."""
        of_examples = run.over(batch["order"]).fold(HEAD_SITE)
        if head.pooling in ("first", "last"):
            at = batch["starts"] if head.pooling == "first" else self.ends(batch)
            return head.apply(params, self.encode(params, batch, run, at=at), of_examples)
        mean = lambda x: nn.mean_pool(x, batch["segment_ids"], batch["starts"].shape[1])  # noqa: E731
        if head.pooling == "mean":
            return head.apply(params, mean(self.encode(params, batch, run)).astype(run.dtype), of_examples)
        return mean(self.of_tokens(head, params, batch, run))

    def ends(self, batch: Batch) -> Int[Array, "rows slots"]:
        """Returns where the last token of each example stands that is no padding by its id; if all are, its first.

        As transformers/modeling_layers.py finds it: a text may end with the token that stands for padding.
        """
        starts, counted = batch["starts"], batch["input_ids"] != self.facts.padding
        return jnp.maximum(nn.last_places(batch["segment_ids"], starts.shape[1], counted), starts)

    def of_tokens(self, head: Head, params: Params, batch: Batch, run: nn.Run) -> Float[Array, "rows length outputs"]:
        """Applies a head to each token."""
        numbers = nn.token_numbers(batch, self.facts.longest)
        return head.apply(params, self.encode(params, batch, run), run.over(numbers).fold(HEAD_SITE))


def build(hf: Mapping[str, Any], dropout: float | None = None) -> Model:
    """Builds the model that a Hugging Face config.json describes; `dropout` replaces all its dropout rates.

    Raises:
      UserError: a `model_type` that has no file here.
    """
    kind = hf.get("model_type")
    if kind not in ARCHITECTURES:
        raise UserError(f"config.json: model_type {kind!r} is not supported; {nearest(str(kind), ARCHITECTURES)}")
    module = ARCHITECTURES[kind]
    cfg = module.Config.from_hf(hf)
    return Model(module, cfg if dropout is None else cfg.with_dropout(dropout))
