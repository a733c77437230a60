"""A trained model as a StableHLO program (`jax.export`): it runs wherever jax does, without jaxft.

One program for CPUs, GPUs and TPUs, for any number of rows and any length up to the model's. The weights are not in it:
it takes them as the directory's safetensors files hold them.
"""

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax import export
from safetensors import safe_open
from safetensors.numpy import save_file

from jaxft.hub import is_transposed, torch_name
from jaxft.models import nn
from jaxft.out import files
from jaxft.out.answers import Answers, abstract_inputs, abstract_params
from jaxft.types import Array, Int, Outputs, Params

FOLDER, PROGRAM, ABOUT, WEIGHTS = "stablehlo", "program.bin", "program.json", "weights.safetensors"
"""Where files lie in a model's directory, and their names."""

PLATFORMS = ("cpu", "cuda", "tpu")
"""What the one program is lowered for."""

GOOD_FOR = datetime.timedelta(days=180)
"""Releases of jax so much younger than the one that made a program still run it (jax's documentation of jax.export)."""


def program_of(answers: Answers) -> export.Exported:
    """Returns the program `(weights, inputs) -> outputs`.

    weights: name in the safetensors file -> array, as it is there; inputs: name -> int32 `[batch, length]`.
    """
    flat = nn.flatten(abstract_params(answers))

    def of_weights(weights: Mapping[str, Array], inputs: Mapping[str, Int[Array, "*axes"]]) -> Outputs:
        taken = {path: weights[torch_name(path)] for path in flat}
        params = {path: x.T if is_transposed(path) else x for path, x in taken.items()}
        return answers(nn.unflatten(params), inputs)

    shapes = {path: x.shape[::-1] if is_transposed(path) else x.shape for path, x in flat.items()}
    weights = {torch_name(path): jax.ShapeDtypeStruct(shape, flat[path].dtype) for path, shape in shapes.items()}
    return export.export(jax.jit(of_weights), platforms=PLATFORMS)(weights, abstract_inputs(answers))


def write(directory: Path, answers: Answers, params: Params) -> Path:
    """Writes the program and what there is to know of it into a model's directory, and returns where.

    Raises:
      UserError: the folder cannot be written.
    """
    exported = program_of(answers)
    flat = {torch_name(path): x.T if is_transposed(path) else x for path, x in nn.flatten(params).items()}
    held = sorted(directory.glob("*.safetensors"))
    own = _names(held) != flat.keys()  # a body's alone, of other names, in float16, or in another format
    weights = [f"{FOLDER}/{WEIGHTS}"] if own else [file.name for file in held]
    with files.replaced(directory / FOLDER) as folder:
        (folder / PROGRAM).write_bytes(exported.serialize())
        if own:
            save_file({name: x.copy(order="C") for name, x in flat.items()}, folder / WEIGHTS)
            (folder / WEIGHTS).chmod((folder / PROGRAM).stat().st_mode)  # save_file makes it private
        about = _about(answers, exported, weights)
        (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return directory / FOLDER / PROGRAM


def _names(held: list[Path]) -> set[str]:
    """The names of the float32 tensors in safetensors files."""
    names = set()
    for file in held:
        with safe_open(file, "numpy") as tensors:
            names |= {name for name in tensors.keys() if tensors.get_slice(name).get_dtype() == "F32"}  # noqa: SIM118
    return names


def _about(answers: Answers, exported: export.Exported, weights: list[str]) -> dict[str, Any]:
    today = datetime.datetime.now(datetime.UTC).date()
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    return {
        "weights": weights,
        "inputs": {name: ["int32", *answers.axes] for name in answers.inputs},
        "outputs": {name: [str(out.dtype), *map(str, out.shape)] for name, out in outputs.items()},
        "longest": answers.model.facts.longest,
        "platforms": list(exported.platforms),
        "jax": jax.__version__,
        "good_until": str(today + GOOD_FOR),
    }
