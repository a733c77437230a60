"""--mode=export --format=...: files that other programs answer with, where no jaxft is."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runs import results
from safetensors.numpy import load_file, save_file

import jaxft.out
from jaxft import Predictor, cli, hub
from jaxft.errors import UserError
from jaxft.modes import exporting
from jaxft.out import answers, files, onnx

TEXTS = ["what a lovely day in the café", "this is the worst phone I ever had", "ok"]

PROGRAM = """
import json, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "jaxft":
            raise ImportError("there is no jaxft here")

sys.meta_path.insert(0, Hidden())
import numpy as np
from jax import export
from safetensors.numpy import load_file
from tokenizers import Tokenizer

about = json.load(open("stablehlo/program.json"))
program = export.deserialize(bytearray(open("stablehlo/program.bin", "rb").read()))
weights = {name: x for file in about["weights"] for name, x in load_file(file).items()}
tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.no_truncation()
tokenizer.enable_padding()
encoded = tokenizer.encode_batch(json.loads(sys.argv[1]))
given = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
inputs = {name: np.array([getattr(one, given[name]) for one in encoded], np.int32) for name in about["inputs"]}
print(json.dumps({name: np.asarray(x).tolist() for name, x in program.call(weights, inputs).items()}))
"""


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory) -> Path:
    """A copy of the finished run, which may be changed."""
    return shutil.copytree(finished, tmp_path_factory.mktemp("copied") / "run")


def logits(found: list[dict], names: list[str]) -> np.ndarray:
    """Differences of the logits that the probabilities of answers come from."""
    log = np.log([[answer["probabilities"][name] for name in names] for answer in found])
    return log - log[:, :1]


def test_a_run_becomes_a_graph_and_a_program(run, capsys):
    """Both answer as the run does: the program in a process that finds no jaxft, by the export's files alone."""
    assert cli.main(["run.py", "--mode=export", f"--workdir={run}", "--format=onnx, stablehlo"], None) == 0
    said, export = capsys.readouterr().err, run / "export"
    assert f"onnx: {export}/onnx/model.onnx" in said and f"stablehlo: {export}/stablehlo/program.bin" in said
    assert not [entry for entry in export.iterdir() if entry.name.startswith(".")]
    about = json.loads((export / "stablehlo" / "program.json").read_text())
    assert about["weights"] == ["model.safetensors"] and about["platforms"] == ["cpu", "cuda", "tpu"]
    assert about["inputs"]["input_ids"] == ["int32", "batch", "length"]
    assert about["outputs"] == {"logits": ["float32", "batch", "3"]}

    program = [sys.executable, "-c", PROGRAM, json.dumps(TEXTS)]
    ran = subprocess.run(program, cwd=export, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = np.asarray(json.loads(ran.stdout)["logits"])
    names = [name for _, name in sorted(json.loads((export / "config.json").read_text())["id2label"].items())]
    np.testing.assert_allclose(found - found[:, :1], logits(Predictor.open(run)(TEXTS), names), atol=1e-4)
    assert results(run), "the run is as it was"


def test_the_formats_of_a_directory(run, tmp_path):
    """Of any trained model's directory: they are written into it; weights of other names get a file of their own."""
    directory = tmp_path / "model"
    shutil.copytree(run / "export", directory, ignore=shutil.ignore_patterns("onnx", "stablehlo"))
    tensors = load_file(directory / "model.safetensors")
    save_file({name: x.astype(np.float16) for name, x in tensors.items()}, directory / "model.safetensors")
    exporting.export(str(directory), ["stablehlo"])
    about = json.loads((directory / "stablehlo" / "program.json").read_text())
    assert about["weights"] == ["stablehlo/weights.safetensors"]
    file = directory / "stablehlo" / "weights.safetensors"
    assert file.stat().st_mode == (directory / "stablehlo" / "program.bin").stat().st_mode
    own = load_file(file)
    assert own.keys() == tensors.keys() and {x.dtype for x in own.values()} == {np.dtype(np.float32)}
    for name, x in own.items():
        np.testing.assert_array_equal(x, tensors[name].astype(np.float16).astype(np.float32))


def test_what_cannot_be_exported_so(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        exporting.export(str(tmp_path / "nowhere"), ["onnx"])
    with pytest.raises(UserError, match="someone/model is no folder of this machine; give that of a run, or of a tr"):
        exporting.export("someone/model", ["onnx"])


def test_a_graph_that_answers_otherwise_is_not_written(run):
    """As if an operation were lowered wrongly: here the parameters are others than the graph's."""
    made, params = answers.of_directory(run / "export")
    file = onnx.write(run / "export", made, params, hub.digest(run / "export"))
    onnx.check(file, made, params)
    params["classifier"]["kernel"] = params["classifier"]["kernel"] * 1.1
    with pytest.raises(UserError, match=r"no ONNX graph: logits of onnxruntime is off by \d"):
        onnx.check(file, made, params)


def test_the_extra_is_not_installed(run, monkeypatch):
    for name in ("onnx", "graph", "lowering", "runtime"):
        monkeypatch.delitem(sys.modules, f"jaxft.out.{name}", raising=False)
    monkeypatch.delattr(jaxft.out, "onnx", raising=False)
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    with pytest.raises(UserError, match=r"--format=onnx: onnx_ir is not installed; try: pip install 'jaxft\[onnx\]'"):
        exporting.export(str(run), ["onnx"])


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path):
    """What was there stays until the new one is whole, and goes with all that was in it."""
    with files.replaced(tmp_path / "onnx") as new:
        (new / "a").write_text("1")
    with pytest.raises(ValueError), files.replaced(tmp_path / "onnx") as new:
        (new / "a").write_text("2")
        raise ValueError
    assert (tmp_path / "onnx" / "a").read_text() == "1"
    with files.replaced(tmp_path / "onnx") as new:
        (new / "b").write_text("3")
    assert [entry.name for entry in tmp_path.rglob("*")] == ["onnx", "b"]
    with pytest.raises(UserError, match="choose a directory that can be written"), files.replaced(tmp_path / "x" / "y"):
        pass
