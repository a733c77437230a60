"""The core stands on jax, flax, optax and numpy alone."""

import subprocess
import sys
import textwrap

PROGRAM = textwrap.dedent(
    """
    import importlib.abc, importlib.machinery, sys

    ALLOWED = {"jax", "jaxlib", "flax", "optax", "numpy", "jaxft"}
    # What those four import by themselves, on their own behalf.
    THEIRS = set(sys.argv[1].split(","))

    class Only(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            top = name.partition(".")[0]
            if top in ALLOWED | THEIRS or top in sys.stdlib_module_names:
                return None
            if importlib.machinery.PathFinder.find_spec(top) is None:
                return None
            raise ModuleNotFoundError(f"{name} is blocked")

    sys.meta_path.insert(0, Only())

    import jax, jax.numpy as jnp
    from jaxft import adapt, batch, config, models, program, sharding, tasks
    from jaxft.models import nn
    from jaxft.train import optimizer, state, step

    experiment = config.Experiment()
    experiment.task.labels = ("a", "b")
    model = models.build(dict(model_type="bert", vocab_size=50, hidden_size=16, num_hidden_layers=1,
                              num_attention_heads=2, intermediate_size=32, max_position_embeddings=16))
    composed = program.compose(experiment, model, tasks.build(experiment.task), steps=10)
    flat = {k: leaf.initial(nn.path_key(jax.random.key(0), k)) for k, leaf in nn.flatten(composed.spec).items()}
    point = composed.init(nn.unflatten(flat))
    shape = batch.BatchShape(rows=2, length=8, slots=1)
    one = {k: jnp.ones(x.shape, x.dtype) for k, x in composed.abstract_batch(shape).items()}
    one["starts"] = jnp.zeros_like(one["starts"])
    point, metrics = composed.train_step(point, one)
    assert int(point.step) == 1 and jnp.isfinite(metrics["loss"]), metrics
    print("step taken")
    """
)


def _imported_by_the_four() -> str:
    """Top-level packages that importing jax, flax and optax brings in."""
    code = "import sys, jax, flax.struct, optax; print(','.join({n.partition('.')[0] for n in sys.modules}))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_core_takes_a_step_without_the_rest():
    theirs = ",".join(set(_imported_by_the_four().split(",")) - {"jaxtyping"})
    done = subprocess.run([sys.executable, "-c", PROGRAM, theirs], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "step taken\n"


def test_the_blockade_holds():
    blocked = PROGRAM.split("import jax,", 1)[0] + "import pyarrow"
    done = subprocess.run([sys.executable, "-c", blocked, "none"], capture_output=True, text=True)
    assert "pyarrow is blocked" in done.stderr
