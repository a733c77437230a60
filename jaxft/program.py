"""An experiment composed into pure functions: the extension point of the project.

The command line, the benchmarks, a notebook and a test all call `compose`, and replace what they want to change.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from jaxft import adapt, batch, config, kernels, objectives, sharding
from jaxft.batch import BatchShape
from jaxft.models import Model, nn
from jaxft.objectives import layers
from jaxft.sharding import Rules
from jaxft.tasks.base import Task
from jaxft.train import numbers, optimizer, step
from jaxft.train.gradient import Gradient, GradientTransform, accumulate, gradient_of
from jaxft.train.numbers import Numbers
from jaxft.train.objective import Objective, ObjectiveTransform
from jaxft.train.state import State, init
from jaxft.types import Array, Batch, Outputs, Params


def unchanged(x: Any) -> Any:
    return x


class Parts(NamedTuple):
    """What a program is put together from beside model and task, each a value that may be replaced.

    Attributes:
      optimizer: `(options, schedule, depth of a path) -> transformation`, whose update may take the extra argument
        `numbers`.
      adaptation: `(experiment, spec, model) -> Adaptation`.
      objective: changes what training makes small; see `jaxft.train.objective`.
      gradient: changes how its gradient is computed, each part of an accumulated batch; see `jaxft.train.gradient`.
    """

    optimizer: Callable[..., optax.GradientTransformation] = optimizer.make_optimizer
    adaptation: Callable[[config.Experiment, nn.Spec, Model], adapt.Adaptation] = adapt.build
    objective: ObjectiveTransform = unchanged
    gradient: GradientTransform = unchanged


DEFAULTS = Parts()

Loss = Callable[[Outputs, Batch], tuple[Array, Array]]
"""`(outputs of the task, batch) -> (sum of losses, sum of weights)`."""

COMPILER_OPTIONS = {"cpu": {"xla_cpu_copy_insertion_use_region_analysis": True}}
"""Of a platform, for the training step. On CPU: without it each donated parameter and moment is copied once a step."""
GENERATORS = {"hash": nn.hash_bits, "threefry": nn.threefry_bits}


def weights(state: State) -> tuple[Params, Params]:
    """Returns the parameters of a state that are evaluated and exported: those that learn, and those that do not.

    Of those that learn it is their average where the run keeps one; see `jaxft.objectives.average`.
    """
    return objectives.evaluated(state.trainable, state.opt_state), state.frozen


@dataclasses.dataclass(frozen=True)
class Program:
    """The functions of a run, jitted, and the shapes and places of what they take.

    Attributes:
      mesh, rules: where arrays live.
      init: `params -> State`; the parameters, those of `spec`, are donated where all are kept as they are.
      numbers: of the state, on the host.
      train_step: `(state, batch) -> (state, metrics)`; the state is donated.
      gradient_step, update_step: its halves, `(state, batch) -> (loss, gradient)` and `(state, loss, gradient) ->
        (state, metrics)`, to which the state is donated. The second is the same program for all shapes. Runs on CPU
        compute these, others `train_step`: who replaces one replaces all.
      eval_step: `((trainable, frozen), batch) -> step.Evaluated`, replicated.
      outputs: `((trainable, frozen), inputs) -> outputs`, replicated; `inputs` are what the model and the task's
        `forward` read of a batch, so that labels are not needed.
      computed: `(trainable, frozen) -> params`, those that the model computes with, to be traced.
      run: how it computes with them, without dropout.
      forward: `((trainable, frozen), inputs, change) -> outputs`, to be traced: the same, computed with what `change`
        makes of all parameters.
      told: `((trainable, frozen), inputs, asked) -> outputs`, to be traced: the same, and what is asked of layers; see
        `jaxft.objectives.layers.told`.
      spec: a `Leaf` for each parameter of the model and its head.
      declared: the same, and those of the adaptation, each in the form in which it is kept.
      dropped: `((trainable, frozen), inputs, key) -> outputs`, to be traced: the same with dropout, whose masks are a
        function of the key.
      adaptation: which of them learn, and what else does.
      split: `params -> (trainable, frozen)`; what the adaptation adds is at its initial values, which change nothing.
      merge: `(trainable, frozen) -> params`, those of `spec` alone, that compute the same; None: there are no such.
      state: abstract, with shardings.
    """

    mesh: Mesh
    rules: Rules
    model: Model
    task: Task
    spec: nn.Spec
    declared: nn.Spec
    init: Callable[[Params], State]
    numbers: Numbers
    train_step: step.TrainStep
    gradient_step: step.GradientStep
    update_step: step.UpdateStep
    eval_step: step.EvalStep
    outputs: Callable[[tuple[Params, Params], Batch], dict[str, Array]]
    computed: Callable[[Params, Params], Params]
    run: nn.Run
    forward: Callable[[tuple[Params, Params], Batch, Callable[[Params], Params]], dict[str, Array]]
    dropped: Callable[[tuple[Params, Params], Batch, Array], dict[str, Array]]
    told: Callable[[tuple[Params, Params], Batch, Iterable[tuple[str, int]]], dict[str, Array]]
    adaptation: adapt.Adaptation
    split: Callable[[Params], tuple[Params, Params]]
    merge: Callable[[Params, Params], Params] | None
    state: State
    unlabelled: Mapping[str, batch.Target]
    taught: Mapping[str, batch.Target]

    def abstract_batch(self, shape: BatchShape) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns a batch of that shape, abstract, with shardings."""
        return batch.abstract(shape, self.targets, self.batch_sharding)

    @property
    def targets(self) -> dict[str, batch.Target]:
        """The arrays of a batch beside its tokens: those of the task, what teachers say, what has no label."""
        return {**self.task.targets, **self.unlabelled, **self.taught}

    def abstract_gradient(self) -> tuple[jax.ShapeDtypeStruct, Any]:
        """Returns what `gradient_step` returns, abstract, with shardings."""
        return jax.ShapeDtypeStruct((), jnp.float32, sharding=sharding.replicated(self.mesh)), self.state.trainable

    def abstract_inputs(self, shape: BatchShape) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns what `outputs` takes of a batch of that shape, abstract, with shardings."""
        return batch.abstract(shape, {name: self.task.targets[name] for name in self.task.reads}, self.batch_sharding)

    def placed_numbers(self) -> Numbers:
        """Returns the numbers on the devices of the mesh."""

        def place(x: Any) -> Array:
            return jax.make_array_from_callback(x.shape, sharding.replicated(self.mesh), lambda index: np.asarray(x))

        return jax.tree.map(place, self.numbers)

    @property
    def param_shardings(self) -> Any:
        return sharding.param_shardings(self.spec, self.mesh, self.rules)

    @property
    def batch_sharding(self) -> NamedSharding:
        return sharding.batch_sharding(self.mesh, self.rules)

    @property
    def row_shards(self) -> int:
        return sharding.row_shards(self.mesh, self.rules)


def compose(
    experiment: config.Experiment,
    model: Model,
    task: Task,
    steps: int,
    *,
    mesh: Mesh | None = None,
    loss: Loss | None = None,
    parts: Parts = DEFAULTS,
    longest: int = 0,
) -> Program:
    """Returns the program of an experiment of so many steps.

    Args:
      mesh: instead of the experiment's over all devices.
      loss: instead of the task's own.
      parts: what else may be replaced.
      longest: tokens an example, at most, so that long rows cost less; 0: as many as the model has positions.

    Raises:
      UserError: a mesh that does not fit the devices, or sharding rules that do not fit the parameters. The steps of
        training raise it where transforms do not compose; see `jaxft.objectives.check`.
    """
    mesh = mesh or sharding.make_mesh(experiment.mesh)
    rules = sharding.read_rules(experiment.mesh.rules)
    spec = task.param_spec(model)
    method = objectives.projecting(parts.adaptation(experiment, spec, model), experiment, model)
    everything = nn.formed(spec | method.spec, method.learns, experiment.compute.frozen)
    sharding.check_rules(everything, rules)
    gather = sharding.gather(everything, mesh, rules, but=model.facts.layers if experiment.compute.scan else ())
    join = lambda trainable, frozen: gather(adapt.together(trainable, frozen))  # noqa: E731
    key = jax.random.key(experiment.seed)
    split = lambda params: method.split(method.extend(nn.narrowed(params, everything), key))  # noqa: E731
    run = _run(experiment.compute, mesh, rules, everything, model, longest + method.tokens if longest else 0)
    rates = {**model.rates(), **method.rates}
    transforms = objectives.Transforms.of(experiment, model, task, run.bits)
    forward = _forward(task, model, method)
    computed = lambda trainable, frozen: method.apply(join(trainable, frozen))  # noqa: E731
    changed = lambda pair, inputs, change: dict(forward(change(computed(*pair)), inputs, run))  # noqa: E731
    outputs = partial(changed, change=unchanged)
    telling = lambda pair, inputs, asked: dict(layers.told(forward, asked)(computed(*pair), inputs, run))  # noqa: E731
    training = layers.told(forward, transforms.states.names) if transforms.states.wanted else forward

    def objective(given: Mapping[str, Any], rates: Mapping[str, nn.Rate]) -> Objective:
        own = loss or task.with_numbers(given).loss
        return _objective(method, forward, training, own, dataclasses.replace(run, rates=rates))

    def gradient(numbers: Numbers) -> Gradient:
        learned = method.objective(objective(numbers.loss, numbers.dropout))
        slope = gradient_of(transforms.objective(parts.objective(learned), numbers.strengths, rates), join)
        part = parts.gradient(transforms.gradient(slope, numbers.strengths))
        return transforms.whole(accumulate(experiment.train.accumulate)(part), numbers.strengths)

    begin, update_step = _update(experiment, parts, method, model)
    values = numbers.of(experiment.optimizer, steps, task.numbers, rates, objectives.strengths(experiment))
    start = lambda params, values: begin(*split(params), values)  # noqa: E731
    noisy = lambda key: dataclasses.replace(run, rates=values.dropout, key=key)  # noqa: E731
    dropped = lambda pair, inputs, key: dict(forward(computed(*pair), inputs, noisy(key)))  # noqa: E731
    given_up = () if experiment.compute.frozen != "float32" else 0  # what is of another size cannot be taken over
    state = _abstract_state(partial(start, values=values), spec, everything, mesh, rules)
    places = jax.tree.map(lambda x: x.sharding, state)
    rows, everywhere = sharding.batch_sharding(mesh, rules), sharding.replicated(mesh)
    evaluated = partial(jax.jit, in_shardings=(weights(places), rows), out_shardings=everywhere)
    return Program(
        mesh=mesh,
        rules=rules,
        model=model,
        task=task,
        spec=spec,
        declared=everything,
        init=partial(jax.jit(start, out_shardings=places, donate_argnums=given_up), values=values),
        numbers=values,
        **_jitted(step.make_gradient_step(gradient), update_step, places, mesh, rules),
        eval_step=evaluated(step.make_eval_step(objective({}, {}), join)),
        outputs=evaluated(outputs),
        computed=computed,
        run=run,
        forward=changed,
        dropped=dropped,
        told=telling,
        adaptation=method,
        split=jax.jit(split, out_shardings=weights(places)),
        merge=_merge(method),
        state=state,
        unlabelled=objectives.unlabelled(experiment),
        taught=transforms.states.targets
        | (_taught(task, outputs, weights(state), rows) if "distill" in values.strengths else {}),
    )


def _taught(task: Task, outputs: Callable[..., Outputs], pair: tuple[Params, Params], rows: NamedSharding) -> Any:
    """What a batch has of a teacher, whose outputs are of the shapes of the model's."""
    shape = BatchShape(rows.mesh.size, 8, 4)
    inputs = batch.abstract(shape, {name: task.targets[name] for name in task.reads}, rows)
    return objectives.taught(task, {name: x.shape for name, x in jax.eval_shape(outputs, pair, inputs).items()})


def _jitted(
    gradient_step: step.GradientStep, update_step: step.UpdateStep, state: State, mesh: Mesh, rules: Rules
) -> dict[str, Any]:
    """The training step and its halves, jitted; the state, of these shardings, is donated to what changes it."""
    rows, everywhere = sharding.batch_sharding(mesh, rules), sharding.replicated(mesh)
    options = COMPILER_OPTIONS.get(mesh.devices.flat[0].platform)
    jit = partial(jax.jit, compiler_options=options)
    gradient = everywhere, state.trainable
    updated = state, everywhere
    return {
        "train_step": jit(
            step.make_train_step(gradient_step, update_step),
            in_shardings=(state, rows),
            out_shardings=updated,
            donate_argnums=0,
        ),
        "gradient_step": jit(gradient_step, in_shardings=(state, rows), out_shardings=gradient),
        "update_step": jit(update_step, in_shardings=(state, *gradient), out_shardings=updated, donate_argnums=0),
    }


def _run(compute: config.Compute, mesh: Mesh, rules: Rules, spec: nn.Spec, model: Model, reach: int) -> nn.Run:
    """How the model is computed, without dropout, on examples of at most `reach` tokens; 0: of any length."""
    run = nn.Run(
        dtype=nn.DTYPES[compute.dtype],
        bits=GENERATORS[compute.dropout],
        attention=kernels.choose(compute, mesh, rules),
        remat=compute.remat,
        scan=compute.scan,
        reach=reach,
        constrain=sharding.constrain(mesh, rules),
        shards=sharding.row_shards(mesh, rules),
    )
    if not compute.scan:
        return run
    return dataclasses.replace(run, gather=sharding.gather(spec, mesh, rules, below=model.facts.layers[-1]))


def _update(
    experiment: config.Experiment, parts: Parts, method: adapt.Adaptation, model: Model
) -> tuple[Callable[[Params, Params, Numbers], State], step.UpdateStep]:
    """What makes the state before the first step, and the update: the optimizer as the method has it, its average."""
    options = experiment.optimizer
    schedule = optimizer.make_schedule(options.schedule, options)
    transform = method.optimizer(parts.optimizer(options, schedule, model.depth))

    def begin(trainable: Params, frozen: Params, numbers: Numbers) -> State:
        return objectives.begun(init(trainable, frozen, transform, numbers, experiment.seed), options)

    return begin, objectives.update(step.make_update_step(transform, schedule), options)


def _objective(
    method: adapt.Adaptation, forward: layers.Forward, training: layers.Forward, loss: Loss, run: nn.Run
) -> Objective:
    """The loss of what the model computes with the parameters that the method makes of all.

    Args:
      training: the same, of training, where outputs have what transforms want beside the task's.
    """

    def objective(params: Params, batch: Batch, key: Array | None) -> tuple[tuple[Array, Array], Outputs]:
        own = dataclasses.replace(run, key=key)
        outputs = (forward if key is None else training)(method.apply(method.drop(params, own)), batch, own)
        return loss(outputs, batch), outputs

    return objective


def _forward(task: Task, model: Model, method: adapt.Adaptation) -> layers.Forward:
    """The task's own `forward`, behind the positions and virtual tokens of the method, which the loss does not see."""
    if not method.tokens:
        first = method.positions  # those before it are of no example's own

        def shifted(params: Params, seen: Batch, run: nn.Run) -> Outputs:
            return task.forward(params, model, {**seen, "positions": seen["positions"] + first} if first else seen, run)

        return shifted

    def forward(params: Params, seen: Batch, run: nn.Run) -> Outputs:
        targets = {name: target for name, target in task.targets.items() if name in seen}
        longer, places = batch.put_before(seen, targets, method.tokens)
        outputs = task.forward(params, model, longer, run)
        return {name: nn.pick(x, places) if task.outputs.get(name) == "token" else x for name, x in outputs.items()}

    return forward


def _merge(method: adapt.Adaptation) -> Callable[[Params, Params], Params] | None:
    merge = method.merge
    return None if merge is None else lambda *parts: merge(nn.widened(adapt.together(*parts)))


def _abstract_state(
    start: Callable[[Params], State], spec: nn.Spec, everything: nn.Spec, mesh: Mesh, rules: Rules
) -> State:
    """The state's shapes, each with a place: a parameter's own, and the same for its moments in the optimizer."""
    is_leaf = lambda x: isinstance(x, nn.Leaf)  # noqa: E731
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), spec, is_leaf=is_leaf)
    shapes = jax.eval_shape(start, params)
    places = nn.arrays(sharding.param_shardings(everything, mesh, rules))
    sizes = nn.arrays(jax.tree.map(nn.parts, everything, is_leaf=is_leaf))

    def place(path: tuple, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        keys = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
        part = getattr(path[-1], "name", "")  # of a `Narrow`, or a field of the state
        name = "/".join([*keys, part] if f"{'/'.join(keys)}/{part}" in places else keys)
        # Factored moments are of other shapes than their parameter; they are small, and the same everywhere.
        own = name in places and sizes[name].shape == x.shape
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=places[name] if own else sharding.replicated(mesh))

    return jax.tree_util.tree_map_with_path(place, shapes)
