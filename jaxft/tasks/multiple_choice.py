"""Choose the best of several continuations of a text, or answers to a question about it.

Head and loss are those of BertForMultipleChoice (transformers, modeling_bert.py), but that questions may
have different numbers of choices.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft import config
from jaxft.batch import Target
from jaxft.models import Model, nn
from jaxft.tasks.base import Host, Steady, softmax
from jaxft.types import Array, Batch, Outputs, Params

if TYPE_CHECKING:
    from jaxft.data.features import Features
    from jaxft.data.sources import Split


@dataclasses.dataclass(frozen=True)
class MultipleChoice(Steady):
    """See `jaxft.tasks.base.Task`. Its tables are as `jaxft.data.choices.read` makes them; an example is a choice."""

    options: config.MultipleChoice
    head: str = "ForMultipleChoice"
    pipeline: str = "multiple-choice"
    together: bool = True
    metric: str = "accuracy"
    usage: str = """from transformers import AutoModelForMultipleChoice, AutoTokenizer

path = "path/to/this/directory"
tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForMultipleChoice.from_pretrained(path)
text, choices = "A text.", ["A continuation.", "Another one."]
inputs = tokenizer([text] * len(choices), choices, padding=True, return_tensors="pt")
print(choices[model(**{name: array[None] for name, array in inputs.items()}).logits.argmax()])"""

    @property
    def targets(self) -> Mapping[str, Target]:
        """`labels` is 1 for the right choice of its question and 0 for the others; `row` tells questions apart."""
        return {"labels": Target("example", np.float32), "row": Target("example", np.int32, -1)}

    @property
    def outputs(self) -> Mapping[str, str]:
        return {"logits": "example"}

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.options.context, self.options.question, *self.options.choices)))

    def param_spec(self, model: Model) -> nn.Spec:
        return model.param_spec(model.head("choice", outputs=1))

    def forward(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs:
        return {"logits": model.of_examples(model.head("choice", outputs=1), params, batch, run)[..., 0]}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """-log softmax(logits)[right], the softmax over the choices of a question; and the number of questions."""
        logits, row = outputs["logits"], batch["row"]  # [rows, slots]
        same = row[:, :, None] == row[:, None, :]
        norm = jax.nn.logsumexp(jnp.where(same, logits[:, None, :], -1e30), axis=-1)
        right = batch["weights"] * batch["labels"]
        return (right * (norm - logits)).sum(), right.sum()

    def features(self, split: Split, tokenizer: Any, max_length: int, labelled: bool = True) -> dict[str, Any]:
        from jaxft.data.choices import CHOICES, RIGHT

        contexts, choices = (split.table[name].to_pylist() for name in (self.options.context, CHOICES))
        questions = split.table[self.options.question].to_pylist() if self.options.question else [""] * len(contexts)
        rows = np.repeat(np.arange(len(choices)), [len(part) for part in choices])
        first = [contexts[row] for row in rows]
        second = [f"{q} {one}" if q else one for q, part in zip(questions, choices, strict=True) for one in part]
        encoded = tokenizer(
            first,
            second,
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=True,
        )
        columns = {name: encoded[name] for name in ("input_ids", "token_type_ids")} | {"row": rows}
        if not labelled:
            return columns
        right = split.table[RIGHT].to_pylist()
        ids = [at == r for part, r in zip(choices, right, strict=True) for at in range(len(part))]
        return columns | {"labels": np.asarray(ids, np.float32)}

    def _probabilities(self, outputs: Host, features: Features) -> list[np.ndarray]:
        """Of each choice, question by question."""
        bounds = itertools.pairwise(features.bounds)
        return [softmax(outputs["logits"][None, low:high])[0] for low, high in bounds]

    def metrics(self, outputs: Host, features: Features, split: Split) -> dict[str, float]:
        from jaxft.data.choices import RIGHT

        best = [int(part.argmax()) for part in self._probabilities(outputs, features)]
        return {"accuracy": float(np.mean(np.asarray(best) == np.asarray(split.table[RIGHT].to_pylist())))}

    def predictions(self, outputs: Host, features: Features, split: Split) -> Iterator[dict[str, Any]]:
        """`prediction` is the number of the choice, from 0, and `choice` its text."""
        from jaxft.data.choices import CHOICES

        choices = split.table[CHOICES].to_pylist()
        for part, probabilities in zip(choices, self._probabilities(outputs, features), strict=True):
            best = int(probabilities.argmax())
            answer = {"prediction": best, "choice": part[best], "probability": float(probabilities[best])}
            yield answer | {"probabilities": probabilities.tolist()}

    def plots(self, outputs: Host, features: Features, split: Split) -> dict[str, Any]:
        return {}

    def hf_config(self) -> dict[str, Any]:
        return {}


def build(options: config.MultipleChoice) -> MultipleChoice:
    return MultipleChoice(options)


def read(options: config.MultipleChoice, split: Split, labelled: bool) -> Split:
    from jaxft.data import choices

    return choices.read(options, split, labelled)


def resolve(options: config.MultipleChoice, splits: Mapping[str, Split]) -> config.MultipleChoice:
    return options
