"""The function of a trained model that is given away: token ids and masks in, what a Hugging Face class gives out.

One example a row, padded at its end, of any number of rows and any length: other programs know no packed rows.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxft import config, hub, tasks
from jaxft.batch import padded
from jaxft.errors import UserError
from jaxft.job import Body
from jaxft.models import Model, nn
from jaxft.predict import directory as predicting
from jaxft.tasks import Task
from jaxft.types import Array, Float, Int, Outputs, Params


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """`answers(params, inputs) -> outputs`, pure; both are arrays by name.

    Attributes:
      task, model: what is computed.
    """

    task: Task
    model: Model

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs, in the order of Hugging Face: token types are none where the model has one alone."""
        types = ("token_type_ids",) if self.model.facts.segment_types > 1 else ()
        return ("input_ids", "attention_mask", *types)

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of the axes of an input."""
        return self.task.axes

    def __call__(self, params: Params, inputs: Mapping[str, Int[Array, "*lead length"]]) -> Outputs:
        """Computes the outputs, of the names that the Hugging Face class has for them."""
        *lead, length = inputs["input_ids"].shape
        flat = {name: x.reshape(-1, length) for name, x in inputs.items()}
        outputs = self.task.padded(params, self.model, padded(**flat), nn.Run(attention=attention))
        return {name: x.reshape(*lead, *x.shape[1:]) for name, x in outputs.items()}


def attention(
    query: Float[Array, "rows queries heads dim"],
    key: Float[Array, "rows length heads dim"],
    value: Float[Array, "rows length heads dim"],
    see: nn.See,
    drop: nn.PairDropout | None,
) -> Float[Array, "rows queries heads dim"]:
    """Computes attention to the tokens that are there, `see.told` being 0 at padding, in operators that are common.

    As `nn.attention` of rows of one example, but that padding sees the tokens too, as in Hugging Face: what it computes
    counts for nothing.
    """
    assert drop is None, "nothing drops out where nothing is learned"
    there, placed = see.told[:, None, None, :] > 0, see.placed()
    there = there if placed is None else there & placed
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    scores = query * query.shape[-1] ** -0.5 @ key.swapaxes(2, 3)
    scores = scores if see.bias is None else scores + see.bias
    return (softmax(scores + jnp.where(there, 0.0, LOWEST)) @ value).swapaxes(1, 2)


LOWEST = -1e30
"""Is added to scores that do not count; finite, so that a row of padding alone is."""


@nn.operator
def softmax(scores: Float[Array, "*lead length"]) -> Float[Array, "*lead length"]:
    """Computes the softmax over the last axis."""
    powers = jnp.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def of_directory(directory: Path, task: config.Task | None = None) -> tuple[Answers, Params]:
    """Returns the function of a trained model's directory and its parameters, float32 on the host.

    Args:
      task: what it was trained on; None: its config.json says that.

    Raises:
      UserError: it is no trained model's directory, or has no head for the task.
    """
    experiment = predicting.experiment(str(directory)) if task is None else config.Experiment(task=task)
    body = Body.of(config.Model(path=str(directory)), 0)
    answers = Answers(tasks.build(experiment.task), body.model)
    loaded, accounting = hub.load_parameters(
        directory, answers.task.param_spec(body.model), key=jax.random.key(0), base_prefix=body.model.prefix
    )
    if new := accounting.new:
        raise UserError(f"{directory}: the weights have no {', '.join(new[:3])} of the shape that config.json says")
    return answers, jax.tree.map(np.asarray, loaded)


def abstract_params(answers: Answers) -> Params:
    """Returns the parameters that the answers take, abstract, float32."""
    spec = answers.task.param_spec(answers.model)
    is_leaf = lambda leaf: isinstance(leaf, nn.Leaf)  # noqa: E731
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), spec, is_leaf=is_leaf)


def abstract_inputs(answers: Answers) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the inputs, abstract: int32 of sizes that are symbols named as the axes are, up to what the model has."""
    bounds = [f"{axis} >= 1" for axis in answers.axes]
    sizes = jax.export.symbolic_shape(
        ", ".join(answers.axes), constraints=(*bounds, f"{answers.axes[-1]} <= {answers.model.facts.longest}")
    )
    return {name: jax.ShapeDtypeStruct(sizes, jnp.int32) for name in answers.inputs}
