"""Texts longer than the model: windows that are combined, and attention of long rows in blocks."""

import dataclasses
import itertools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
import support
from runs import assert_packed_is_padded, experiment

from jaxft import Predictor, config, hub, models, modes, program, tables, tasks
from jaxft.data import truncation
from jaxft.data.features import tokenize
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.models import nn
from jaxft.models.nn.cuts import in_blocks, in_prefixes
from jaxft.modes.exporting import settings
from jaxft.out import answers as of
from jaxft.out import onnx
from jaxft.tables import census
from jaxft.tasks import windows

RNG = np.random.default_rng(0)
OPTIONS = config.SequenceClassification(labels=("a", "b"), problem="single_label", windows="mean", stride=2)
TEXTS = ("good movie", "the plot was bad and the movie was very very long , and the end was bad", "good")


def weighed(logits: np.ndarray, axis: int) -> np.ndarray:
    """The mean by weights that are the softmax of the last output."""
    powers = np.exp(logits[..., -1:] - logits[..., -1:].max(axis))
    return (powers * logits[..., :-1]).sum(axis) / powers.sum(axis)


@pytest.mark.parametrize(
    ("how", "numpy", "rtol"), [("mean", np.mean, 1e-6), ("max", np.max, 1e-6), ("attention", weighed, 2e-6)]
)
def test_windows_are_combined(how, numpy, rtol):
    """Those of a text, wherever in the row they are; also below zero, as an empty slot has logits of its own."""
    row = np.asarray([[3, 3, 5, 3, -1], [2, 7, 7, -1, -1]])
    logits = RNG.normal(size=(2, 5, 3)).astype(np.float32) - 9
    found = np.asarray(windows.combined(jnp.asarray(logits), jnp.asarray(row), how))
    for at, slot in np.ndindex(row.shape):
        expected = numpy(logits[at][row[at] == row[at, slot]], axis=0)
        np.testing.assert_allclose(found[at, slot], expected, rtol=rtol)


def test_a_text_counts_once():
    row = jnp.asarray([[3, 3, 5, 3, -1, -1]])
    assert windows.is_first(row).tolist() == [[True, False, True, False, True, False]]


def made(options: config.SequenceClassification, max_length: int, tiny_model):
    split = Split(pa.table({"text": TEXTS, "label": ["a", "b", "a"]}), "texts")
    table, tokenizer = tables.build(options), hub.load_tokenizer(tiny_model)
    return table, split, tokenizer, tokenize(3, lambda *_: table.features(split, tokenizer, max_length), None)


def test_a_long_text_becomes_windows_that_share_tokens(tiny_model):
    _, _, tokenizer, features = made(OPTIONS, 10, tiny_model)
    rows = features.examples["row"]
    assert rows[0] == 0 and rows[-1] == 2 and (rows == 1).sum() >= 3 and features.lengths.max() == 10
    assert features.examples["labels"].tolist() == [int(row == 1) for row in rows]
    parts = np.split(features.tokens["input_ids"], features.offsets[1:-1])
    own = [part[1:-1].tolist() for part, row in zip(parts, rows, strict=True) if row == 1]
    whole = own[0] + [token for part in own[1:] for token in part[2:]]
    assert whole == tokenizer(TEXTS[1], add_special_tokens=False)["input_ids"]
    assert all(a[-2:] == b[:2] for a, b in itertools.pairwise(own))


def test_answers_and_metrics_are_of_texts(tiny_model):
    table, split, _, features = made(OPTIONS, 10, tiny_model)
    of_texts = np.asarray([[2.0, 0], [0, 1], [0, 3]], np.float32)
    outputs = {"logits": of_texts[features.examples["row"]]}
    answers = list(table.predictions(outputs, features, split))
    assert [answer["prediction"] for answer in answers] == ["a", "b", "b"]
    assert table.metrics(outputs, features, split)["accuracy"] == pytest.approx(2 / 3)
    assert table.plots(outputs, features, split)["labels"].tolist() == [0, 1, 0]
    scores = dataclasses.replace(OPTIONS, labels=(), problem="regression")
    found = tables.build(scores).predictions({"logits": outputs["logits"][:, :1]}, features, split)
    assert [one["score"] for one in found] == [2.0, 0.0, 0.0]


def test_what_does_not_go_with_windows_is_one_line(tiny_model):
    table = tables.build(dataclasses.replace(OPTIONS, text_pair="other"))
    with pytest.raises(UserError, match=r"config\.task\.windows is set, and so is config\.task\.text_pair"):
        table.read(Split(pa.table({"text": TEXTS, "other": TEXTS, "label": ["a", "b", "a"]}), "texts"))
    with pytest.raises(UserError, match="'tail', but SequenceClassification in windows cuts no texts"):
        truncation.keeping(None, OPTIONS, "tail")
    with pytest.raises(UserError, match=r"config\.task\.stride is 8; it must be below the 8 tokens"):
        made(dataclasses.replace(OPTIONS, stride=8), 10, tiny_model)


def test_texts_in_windows_are_not_said_to_be_cut(tiny_model):
    features = made(OPTIONS, 10, tiny_model)[3]
    assert census.of_tokens(OPTIONS, {"train": features}, 10) == []
    assert len(census.of_tokens(dataclasses.replace(OPTIONS, windows=""), {"train": features}, 10)) == 1


def packed(lengths: list[int], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Segments and positions of a row that begins with examples of these lengths."""
    segments, positions = np.zeros((2, 1, length), np.int32)
    ends = np.cumsum(lengths)
    for number, (end, size) in enumerate(zip(ends, lengths, strict=True), 1):
        segments[0, end - size : end], positions[0, end - size : end] = number, np.arange(size)
    return segments, positions


@pytest.mark.parametrize(
    ("window", "causal", "seen"),
    [
        (0, False, ["1110000", "1110000", "1110000", "0001110", "0001110", "0001110", "0000001"]),
        (1, False, ["1100000", "1110000", "0110000", "0001100", "0001110", "0000110", "0000001"]),
        (0, True, ["1000000", "1100000", "1110000", "0001000", "0001100", "0001110", "0000001"]),
        (1, True, ["1000000", "1100000", "0110000", "0001000", "0001100", "0000110", "0000001"]),
    ],
)
def test_what_a_token_sees(window, causal, seen):
    """Two examples of three tokens, and padding: which of all each sees."""
    segments, positions = map(jnp.asarray, packed([3, 3], 7))
    see = nn.See(segments, segments, (positions, positions), window, causal)
    assert ["".join(map(str, row)) for row in see.mask()[0, 0].astype(int).tolist()] == seen


@pytest.mark.parametrize(
    ("cut", "window", "size", "causal"),
    [
        (in_blocks, 4, 4, False),
        (in_blocks, 0, 9, False),
        (in_blocks, 4, 4, True),
        (in_blocks, 0, 9, True),
        (in_prefixes, 0, 10, True),
        (in_prefixes, 4, 11, True),
    ],
)
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_attention_in_parts_is_attention(cut, window, size, causal, rate):
    """Within a window, of examples shorter than a block, or before each part; values, gradients and dropout masks."""
    lengths = [9, 3, 7, 9, 1] if not window else [20, 3, 7]
    segments, positions = map(jnp.asarray, packed(lengths, 33))
    see = nn.See(segments, segments, (positions, positions) if window or causal else None, window, causal)
    numbers = segments * 100 + positions
    drop = nn.PairDropout(nn.Rate.of(rate), jax.random.key(1), nn.hash_bits, numbers, positions, 50) if rate else None
    query, key, value, weights = (jnp.asarray(RNG.normal(size=(1, 33, 2, 4)), jnp.float32) for _ in range(4))
    weights = weights * (segments > 0)[..., None, None]  # padding reaches nothing

    def total(compute):
        return lambda *given: (compute(*given) * weights).sum()

    def plain(query, key, value):
        return nn.attention(query, key, value, see, drop)

    def parts(query, key, value):
        return cut(nn.attention, query, key, value, see, drop, size)

    own = np.asarray(segments[0] > 0)
    np.testing.assert_allclose(
        np.asarray(parts(query, key, value))[:, own], np.asarray(plain(query, key, value))[:, own], atol=1e-5
    )
    found, expected = (jax.grad(total(f), argnums=(0, 1, 2))(query, key, value) for f in (parts, plain))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("reach", "window", "causal", "square"),
    [
        (0, 0, False, True),
        (8, 0, False, False),
        (8, 2, False, False),
        (16, 0, False, True),
        (16, 0, True, False),
        (24, 0, True, True),
    ],
)
def test_long_rows_are_computed_in_blocks(reach, window, causal, square):
    """Where examples, or what is seen, are short beside them: no scores of all positions with all."""
    run = nn.Run(reach=reach)
    segments, positions = map(jnp.asarray, packed([8] * 6, 48))
    stream = nn.Stream(jnp.zeros((1, 48, 4)), run, segments, positions, 6, 50)
    x = jnp.ones((1, 48, 2, 2))
    lowered = jax.jit(lambda x: nn.attend(x, x, x, stream, stream, nn.Sight(window, causal))).lower(x).as_text()
    assert ("48x48" in lowered) is square


@pytest.mark.parametrize(
    ("causal", "length", "parts"),
    [(True, 300, [128, 256, 300]), (True, 1200, [300, 600, 900, 1200]), (False, 300, [300])],
)
def test_of_a_causal_row_most_of_what_lies_ahead_is_not_computed(causal, length, parts):
    """Each part of a row asks what stands before its end alone."""
    segments, positions = map(jnp.asarray, packed([length], length))
    stream = nn.Stream(jnp.zeros((1, length, 4)), nn.Run(), segments, positions, 1, length)
    x = jnp.ones((1, length, 2, 2))
    lowered = jax.jit(lambda x: nn.attend(x, x, x, stream, stream, nn.Sight(causal=causal))).lower(x).as_text()
    starts = [0, *parts[:-1]]
    scores = [f"tensor<2x{end - start}x{end}xf32>" for start, end in zip(starts, parts, strict=True)]
    products = [line.split("->")[1].strip() for line in lowered.splitlines() if "dot_general" in line]
    assert [shape for shape in products if not shape.endswith("x2xf32>")] == scores


@pytest.fixture(scope="module", params=["max", "attention"])
def read_in_windows(request, tiny_model, cache, tmp_path_factory):
    """The workdir of a short run on texts that are two windows and more."""
    workdir = tmp_path_factory.mktemp("documents") / "run"
    one = experiment(tiny_model, cache, data={"max_length": 16}, train={"epochs": 1})
    options = config.SequenceClassification(label="sentiment", windows=request.param, stride=4)
    modes.train(dataclasses.replace(one, task=options), str(workdir))
    return workdir


LONG = [" ".join(["the plot was bad and the movie very very long"] * 4), "good", "the end was not bad , and good " * 3]


def test_a_graph_reads_the_same_windows(read_in_windows, tmp_path):
    """Those of a text are computed together, as the text has one answer, and counts once in the loss."""
    directory = shutil.copytree(read_in_windows / "export", tmp_path / "model")
    onnx.write(directory, *of.of_directory(directory), hub.digest(directory))
    task = config.SequenceClassification(label="sentiment")
    own, graph = (Predictor.open(directory, task=task, engine=engine) for engine in ("jax", "onnx"))
    texts = [*LONG, "good"]
    for one, other in zip(graph(texts), own(texts), strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
    names = ["positive", "negative", "neutral", "positive"]
    labelled = [{"text": text, "sentiment": name} for text, name in zip(texts, names, strict=True)]
    assert graph.evaluate(labelled).metrics == pytest.approx(own.evaluate(labelled).metrics, abs=1e-4, nan_ok=True)


def test_an_export_is_read_in_the_same_windows(read_in_windows, tmp_path):
    """It says so in its config.json, which another export made from it does not keep by mistake."""
    answers = Predictor.open(str(read_in_windows))(LONG)
    export = Predictor.open(str(read_in_windows / "export"))
    how = json.loads((read_in_windows / "config.json").read_text())["task"]["windows"]
    options = export.table.options
    assert (export.experiment.data.max_length, options.windows, options.stride) == (16, how, 4)
    assert set(options.labels) == {"positive", "negative", "neutral"}
    for ours, theirs in zip(export(LONG), answers, strict=True):
        np.testing.assert_allclose(ours["probability"], theirs["probability"], atol=1e-5)
    kept = settings({"windows": {"combine": "max", "stride": 4, "max_length": 16}}, {}, {})
    assert "windows" not in kept


def test_the_usage_of_an_export_gives_the_same_answers(torch, read_in_windows, capsys):
    """As its card has it, run in PyTorch."""
    card = (read_in_windows / "export" / "README.md").read_text()
    usage = next(part for part in card.split("```") if "AutoTokenizer" in part).removeprefix("python\n")
    usage = usage.replace("path/to/this/directory", str(read_in_windows / "export"))
    for text, answer in zip(LONG, Predictor.open(str(read_in_windows))(LONG), strict=True):
        capsys.readouterr()
        exec(usage.replace("A long text.", text), scope := {})
        logits = scope["torch"].tensor(json.loads(re.findall(r"\[.*?\]", capsys.readouterr().out)[0]))
        expected = torch.softmax(logits, -1).tolist()
        np.testing.assert_allclose(list(answer["probabilities"].values()), expected, atol=2e-3)


def test_windows_of_texts_to_embed_know_their_row_and_text(tiny_model):
    """Texts of the same tokens have the same number, however many windows they are; a score is that of the row."""
    rows = pa.table({"anchor": [TEXTS[1], "good"], "positive": ["good", TEXTS[1]], "near": [0.5, -0.5]})
    tokenizer = hub.load_tokenizer(tiny_model)

    def found(**options):
        table = tables.build(config.SentenceEmbedding(windows="mean", stride=2, **options))
        return table.features(Split(rows, "pairs"), tokenizer, 10)

    columns = found()
    text, count = columns["text"].tolist(), columns["text"].tolist().count(0)
    assert count >= 3 and text == [0] * count + [1, 2] + [3] * count
    assert columns["row"].tolist() == [0] * (count + 1) + [1] * (count + 1)
    long, short = columns["twins"][[0, count]]
    assert columns["twins"].tolist() == [long] * count + [short] * 2 + [long] * count and long != short
    assert found(score="near")["scores"].tolist() == [0.5] * (count + 1) + [-0.5] * (count + 1)


def test_the_loss_of_vectors_sees_each_text_once():
    """Two rows of windows in slots that are filled as they come, beside the same texts, a vector each."""
    once, cut = (tasks.build(config.SentenceEmbedding(windows=how)) for how in ("", "mean"))
    text = np.asarray([[0, 0, 1, 2, 3, 3, 3, -1], [4, 5, 5, -1, -1, -1, -1, -1]])
    own = RNG.normal(size=(6, 5)).astype(np.float32)
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    twins = np.asarray([7, 8, 9, 8, 1, 2])  # the second pair's positive is that of the first
    whole = {"weights": np.ones((1, 6)), "twins": twins[None]}
    windowed = {"weights": (text >= 0) * 1.0, "twins": np.where(text >= 0, twins[text], 0), "text": text}
    vectors = np.where(text[..., None] >= 0, own[text], 3)
    expected = once.loss({"embeddings": jnp.asarray(own[None])}, {k: jnp.asarray(v) for k, v in whole.items()})
    found = cut.loss({"embeddings": jnp.asarray(vectors)}, {k: jnp.asarray(v) for k, v in windowed.items()})
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert expected[1] == 3


@pytest.fixture(scope="module")
def embedded(tiny_model, cache, tmp_path_factory):
    """The workdir of a short run on pairs, some of two windows and more."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(1)
    for name, count in (("train", 48), ("dev", 12), ("test", 12)):
        rows = [
            {"anchor": f"what of {i} ?", "positive": f"it is {i} " * int(rng.integers(1, 12))} for i in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"source": str(folder), "encoding": "utf-8", "max_length": 16, "shapes": 1}
    counts = dict.fromkeys(("train_examples", "validation_examples", "test_examples"), 0)
    one = experiment(tiny_model, cache, data=given | counts, train={"epochs": 1, "batch_size": 4})
    modes.train(dataclasses.replace(one, task=config.SentenceEmbedding(windows="mean", stride=4)), str(folder / "run"))
    return folder / "run"


def test_a_long_text_has_the_mean_of_its_windows_vectors(torch, embedded, capsys):
    """As the usage of the export has it, run by sentence-transformers; and from the export as from the run."""
    pytest.importorskip("sentence_transformers")
    card = (embedded / "export" / "README.md").read_text()
    usage = next(part for part in card.split("```") if "SentenceTransformer" in part).removeprefix("python\n")
    usage = usage.replace("path/to/this/directory", str(embedded / "export"))
    run, export = (Predictor.open(str(path)) for path in (embedded, embedded / "export"))
    asked = Predictor.open(str(embedded / "export"), task=config.SentenceEmbedding())
    for options in (export.table.options, asked.table.options):
        assert (options.windows, options.stride) == ("mean", 4)
    texts = [LONG[0], "good"]
    for text, ours, theirs in zip(texts, run(texts), export(texts), strict=True):
        exec(usage.replace("A long text.", text), scope := {})
        mean = torch.nn.functional.normalize(scope["vectors"].mean(0), dim=0)
        np.testing.assert_allclose(ours["embedding"], mean.numpy(), atol=1e-5)
        np.testing.assert_allclose(theirs["embedding"], ours["embedding"], atol=1e-6)
    assert len(scope["vectors"]) == 1


def test_a_graph_has_the_same_vectors_of_long_texts(embedded, tmp_path):
    directory = shutil.copytree(embedded / "export", tmp_path / "model")
    onnx.write(directory, *of.of_directory(directory), hub.digest(directory))
    own, graph = (Predictor.open(directory, engine=engine) for engine in ("jax", "onnx"))
    for one, other in zip(graph(LONG), own(LONG), strict=True):
        np.testing.assert_allclose(one["embedding"], other["embedding"], atol=1e-5)


def test_long_texts_are_measured_the_same_packed_or_padded(embedded, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(LONG) + "\n")
    assert_packed_is_padded(embedded, tmp_path / "texts.txt", tmp_path)


@pytest.mark.parametrize("method", ["full", "prompt"])
def test_a_program_may_be_told_how_long_examples_are(method):
    """Outputs are the same, of virtual tokens before each example too; rows are four times as long as an example."""
    case, model = support.TASKS["token"], models.build(support.SMALL, dropout=0.0)
    features = support.random_features(np.random.default_rng(0), case, [8] * 6, support.SMALL)
    host = support.lay_out(features, case.task, 48, slots=0)
    experiment = config.Experiment(task=case.options, **support.ADAPTATIONS[method])
    found = []
    for longest in (0, 8):
        composed = program.compose(experiment, model, case.task, steps=10, longest=longest)
        weights = composed.split(support.random_params(case.task, model, seed=0))
        inputs = {name: x for name, x in support.arrays(host).items() if name in composed.abstract_inputs(host.shape)}
        found.append(support.by_example(composed.outputs(weights, inputs), case.task, host, features))
    support.assert_close(found[0], found[1], 1e-5)
