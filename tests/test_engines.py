"""Graphs in the place of a run's own program: --engine, and --format=int8 with what it costs."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from runs import experiment
from safetensors.numpy import load_file, save_file

import jaxft
from jaxft import cli, config, models, modes
from jaxft.data.features import Features
from jaxft.errors import UserError
from jaxft.job import prepare
from jaxft.modes import exporting
from jaxft.out import quantize
from jaxft.predict import graph
from jaxft.predict.predictor import Predictor
from jaxft.serve.limits import Limits
from jaxft.serve.models import open_all
from jaxft.serve.service import Service

INT8 = onnx.TensorProto.INT8

TEXTS = ["what a lovely day in the café", "this is the worst phone I ever had", "ok"]


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory) -> Path:
    """A copy of the finished run, with graphs of float32 and of int8."""
    run = shutil.copytree(finished, tmp_path_factory.mktemp("copied") / "run")
    argv = ["--mode=export", f"--workdir={run}", "--format=int8,onnx", "--max_loss=0.5"]
    assert cli.main(["run.py", *argv], None) == 0
    return run


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, tiny_model, cache) -> Path:
    """The test split of the run, as a file."""
    split = prepare(config.check(experiment(tiny_model, cache))).splits["test"]
    file = tmp_path_factory.mktemp("held") / "held-back.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in split.table.to_pylist()))
    return file


def probabilities(path: Path, engine: str) -> np.ndarray:
    return np.asarray([list(one["probabilities"].values()) for one in Predictor.open(path, engine=engine)(TEXTS)])


def test_int8_says_what_it_costs(run):
    about = json.loads((run / "export" / "onnx" / "int8.json").read_text())
    assert about["metric"] == "accuracy" and about["measured_on"].endswith("(40 rows)")
    assert about["in_float32"] == "nothing" and 0.8 <= about["agreement"] <= 1
    assert about["float32"]["accuracy"] - about["int8"]["accuracy"] <= 0.5
    assert abs(about["float32"]["loss"] - about["int8"]["loss"]) < 0.1
    files = {name: run / "export" / "onnx" / file for name, file in graph.GRAPHS.items()}
    assert about["bytes"] == {"float32": files["onnx"].stat().st_size, "int8": files["int8"].stat().st_size}
    assert 3 * about["bytes"]["int8"] < about["bytes"]["float32"]
    assert sorted(file.name for file in files["int8"].parent.iterdir()) == [
        "int8.json", "model.onnx", "model_quantized.onnx",
    ]  # fmt: skip


def test_no_processor_cuts_a_sum_of_two_products(run):
    """Where products of uint8 and int8 are added in pairs as int16 (x86 with AVX2 alone)."""
    graph = onnx.load(str(run / "export" / "onnx" / "model_quantized.onnx")).graph
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.data_type == INT8]
    matrices = [weight.astype(int) for weight in weights if weight.ndim == 2]
    assert len(matrices) > 12 and 60 <= max(np.abs(weight).max() for weight in matrices) <= (2**15 - 1) // (2 * 255)


def test_each_engine_answers(run, tmp_path, capsys):
    """A run and its export alike; int8 about so, and not quite so: it is another graph."""
    for path in (run, run / "export"):
        wanted, exact, rounded = (probabilities(path, engine) for engine in ("jax", "onnx", "int8"))
        np.testing.assert_allclose(exact, wanted, atol=1e-5)
        np.testing.assert_allclose(rounded, wanted, atol=0.1)
        assert np.abs(rounded - wanted).max() > 1e-5
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    argv = ["--mode=predict", f"--workdir={run}", f"--input={tmp_path / 'texts.txt'}", "--engine=int8"]
    assert cli.main(["run.py", *argv], None) == 0
    written = [json.loads(line)["probabilities"] for line in capsys.readouterr().out.splitlines()]
    np.testing.assert_array_equal([list(one.values()) for one in written], rounded)


def test_a_file_is_measured_by_a_graph(run, labelled, capsys):
    found = []
    for engine in ("jax", "onnx"):
        argv = ["--mode=evaluate", f"--workdir={run}", f"--input={labelled}", f"--engine={engine}"]
        assert cli.main(["run.py", *argv], None) == 0
        found.append(json.loads((run / "evaluations" / f"{labelled.name}.json").read_text()))
    capsys.readouterr()
    assert found[0].pop("file") == found[1].pop("file")
    assert found[1] == pytest.approx(found[0], abs=1e-5)


def test_a_service_answers_by_a_graph(run):
    predictors = open_all(str(run), {}, "onnx")
    service = Service(predictors, Limits())
    try:
        predictor = predictors["run"]
        several = [predictor.tokenized(TEXTS[:2]), predictor.tokenized(TEXTS[2:])]
        outputs = predictor.compute_each([one.features for one in several])
        found = [list(predictor.answers_of(*pair)) for pair in zip(several, outputs, strict=True)]
        for one, other in zip([*found[0], *found[1]], Predictor.open(run)(TEXTS), strict=True):
            assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
        longest = max(int(one.features.lengths.max()) for one in several)
        assert predictor.engine.positions == 3 * longest and service.info()["models"][0]["shapes"] == []
    finally:
        service.close()


def test_a_graph_explains_what_needs_no_gradient(run):
    graph = Predictor.open(run, engine="onnx")
    with pytest.raises(UserError, match="needs gradients, which a graph has not; use --engine=jax"):
        jaxft.explain(graph, TEXTS)
    for one, other in zip(*(jaxft.explain(p, TEXTS, "occlusion") for p in (graph, Predictor.open(run))), strict=True):
        assert one.explanations[0].scores == pytest.approx(other.explanations[0].scores, abs=1e-4)


@pytest.mark.parametrize("path", ["run", "directory"])
def test_what_cannot_be_computed_by_a_graph(finished, run, path, tmp_path):
    where = run if path == "run" else run / "export"
    with pytest.raises(UserError, match=r"--engine tensorrt: there is no such engine; there are: int8, jax, onnx"):
        Predictor.open(where, engine="tensorrt")
    with pytest.raises(UserError, match=r"--engine=onnx computes a graph, on which .*use --engine=jax"):
        Predictor.open(where, adapter=tmp_path, engine="onnx")
    bare = finished if path == "run" else finished / "export"
    with pytest.raises(UserError, match=rf"no .*model_quantized.onnx; write it first: .*={bare} --format=int8"):
        Predictor.open(bare, engine="int8")


def test_flags_that_say_nothing_are_refused(run, labelled):
    with pytest.raises(UserError, match="--engine=onnx measures a file; give one by --input"):
        modes.evaluate(run, engine="onnx")
    with pytest.raises(UserError, match="--input is what int8 is measured on; add --format=int8"):
        exporting.export(str(run), ["onnx"], inputs=str(labelled))
    with pytest.raises(UserError, match="--max_loss is what int8 may cost; add --format=int8"):
        exporting.export(str(run), ["onnx"], max_loss=0.5)
    with pytest.raises(UserError, match=r"--input is missing: .* is no run, whose data could be used"):
        exporting.export(str(run / "export"), ["int8"])


def with_outliers(directory: Path, layer: int) -> None:
    """Changes weights so that one number of an attention's output is large, and counts as much as before.

    int8 has then few steps left for the others, as where a real model has such numbers.
    """
    file = directory / "model.safetensors"
    tensors, attention = load_file(file), f"bert.encoder.layer.{layer}.attention"
    for name in ("weight", "bias"):
        tensors[f"{attention}.self.value.{name}"][0] *= 3e4
    tensors[f"{attention}.output.dense.weight"][:, 0] /= 3e4
    save_file(tensors, file)


@pytest.fixture(scope="module")
def answered(run, tiny_model, cache, tmp_path_factory) -> Path:
    """Texts with the run's own answers as their labels: what is not right of them int8 has changed."""
    texts = prepare(config.check(experiment(tiny_model, cache))).splits["train"].table.column("text").to_pylist()
    found = [one["prediction"] for one in Predictor.open(run)(texts)]
    file = tmp_path_factory.mktemp("answered") / "own.jsonl"
    rows = ({"text": text, "sentiment": label} for text, label in zip(texts, found, strict=True))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_what_int8_harms_stays_float32(run, answered, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    with_outliers(copy / "export", layer=0)
    argv = ["--mode=export", f"--workdir={copy}", "--format=onnx,int8", f"--input={answered}", "--max_loss=0.15"]
    assert cli.main(["run.py", *argv], None) == 0
    said = capsys.readouterr().err
    assert (
        said.index("onnx: ") < said.index("int8: accuracy 0.7") and "with nothing in float32, 1.0000 in float32" in said
    )
    about = json.loads((copy / "export" / "onnx" / "int8.json").read_text())
    assert about["in_float32"] == "the head, the embeddings and 1 of 2 layers"
    assert about["float32"]["accuracy"] == 1 and about["int8"]["accuracy"] == about["agreement"] >= 0.85


def test_a_graph_that_answers_worse_is_not_written(run, answered, tmp_path, capsys):
    """What was there stays."""
    copy = shutil.copytree(run, tmp_path / "run")
    with_outliers(copy / "export", layer=1)
    exporting.export(str(copy), ["onnx"])
    assert [file.name for file in (copy / "export" / "onnx").iterdir()] == ["model.onnx"], "int8 was of other weights"
    argv = ["--mode=export", f"--workdir={copy}", "--format=int8", f"--input={answered}"]
    assert cli.main(["run.py", *argv], None) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"error: no int8 graph: accuracy is 1\.0000 in float32, and accuracy 0\.\d+ with nothing in", said)
    assert said.endswith("each is worse by more than --max_loss=0.01")
    assert [file.name for file in (copy / "export" / "onnx").iterdir()] == ["model.onnx"]


def test_a_graph_of_other_weights_is_written_anew(run, answered, tmp_path):
    """Where a directory was trained on, no graph of before answers, nor is int8 made of it."""
    directory = shutil.copytree(run, tmp_path / "run") / "export"
    tensors = load_file(directory / "model.safetensors")
    save_file(tensors | {"classifier.weight": -tensors["classifier.weight"]}, directory / "model.safetensors")
    for engine, file in graph.GRAPHS.items():
        with pytest.raises(UserError, match=rf"{file} does not say that it was made of the weights beside it, .*anew"):
            Predictor.open(directory, engine=engine)
    exporting.export(str(directory.parent), ["int8"], inputs=str(answered), max_loss=1.0)
    wanted = probabilities(directory, "jax")
    np.testing.assert_allclose(probabilities(directory, "onnx"), wanted, atol=1e-5)
    np.testing.assert_allclose(probabilities(directory, "int8"), wanted, atol=0.1)


def test_what_may_stay_float32(run):
    settings = json.loads((run / "export" / "config.json").read_text())
    found = quantize.parts(run / "export" / "onnx" / "model.onnx", models.build(settings))
    assert [(part.what, len(part.nodes)) for part in found] == [
        ("nothing", 0),
        ("the head", 2),
        ("the head and the embeddings", 5),
        ("the head, the embeddings and 1 of 2 layers", 11),
    ]


def test_agreement_is_of_predictions():
    one, other = {"prediction": ["O", "B"]}, {"prediction": ["O", "I"]}
    assert quantize.agreement([one, other], [one, one], by_word=True) == 0.75
    assert quantize.agreement([one, other], [one, one], by_word=False) == 0.5
    assert np.isnan(quantize.agreement([{"score": 0.1}], [{"score": 0.2}], by_word=False))


def test_batches_of_a_graph():
    """Every example once, those of an item side by side, about so many positions, the longest first."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 300, 200)
    row = np.sort(rng.integers(0, 60, 200))
    row = np.unique(row, return_inverse=True)[1]
    features = Features(np.concatenate([[0], np.cumsum(lengths)]), {}, {"row": row})
    for together in (False, True):
        batches = list(graph._batches(features, together))
        assert sorted(np.concatenate(batches)) == list(range(200)) and len(batches) > 3
        for batch in batches:
            positions = len(batch) * lengths[batch].max()
            assert positions <= graph.TOKENS or (together and len(set(row[batch])) == 1)
            if together:
                assert set(np.flatnonzero(np.isin(row, row[batch]))) == set(batch)
        if not together:
            longest = [lengths[batch].max() for batch in batches]
            assert longest == sorted(longest, reverse=True)
            for batch, most in zip(batches[:-1], longest, strict=False):
                assert (len(batch) + 1) * most > graph.TOKENS, "there was room for one more"
