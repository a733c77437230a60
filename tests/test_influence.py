"""Which training examples taught an answer: against gradients of single examples in float64, and a planted one."""

import copy
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from runs import MINILM, TINY, experiment

import jaxft
from jaxft import cli, config, modes, tables, tasks
from jaxft.errors import UserError
from jaxft.explain import influence, targets
from jaxft.explain import inputs as rows_of
from jaxft.explain.explainer import Explanation
from jaxft.explain.influence import Example, Taught
from jaxft.explain.page import _taught
from jaxft.hub import export
from jaxft.job import Job
from jaxft.predict.predictor import Predictor
from jaxft.storage.workdir import Workdir

TEXT = "what an unbelievably good day"


def by_single_gradients(folder: Path, job: Job, weights: Any, aim: int, rows: list[int]) -> np.ndarray:
    """Products of the gradients of the text's log probability and of single rows' losses, in PyTorch's float64."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    assert job.program.merge and MINILM
    settings = TINY | dict(job.table.published(job.body.model, 64).settings)
    export.export(folder, job.program.merge(*weights), settings, "BertForSequenceClassification", MINILM, "A test.")
    model = AutoModelForSequenceClassification.from_pretrained(str(folder)).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(str(folder))

    def slope(text: str, label: int) -> Any:
        encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=job.experiment.data.max_length)
        chance = torch.log_softmax(model(**encoded).logits[0], -1)[label]
        return torch.nn.utils.parameters_to_vector(torch.autograd.grad(chance, list(model.parameters())))

    split = job.splits["train"].take(np.asarray(rows)).table["text"].to_pylist()
    labels = job.features["train"].examples["labels"][rows].tolist()
    each = torch.stack([slope(text, label) for text, label in zip(split, labels, strict=True)])
    return (each @ slope(TEXT, aim)).numpy()


def test_influence_is_the_plain_loop_over_gradients_of_single_examples(finished, tmp_path, torch):
    """Of both checkpoints, each with the mean rate of its steps: one of warmup, then down to nothing."""
    predictor, job = Predictor.open(finished), influence._job(Workdir(finished))
    kept = list(influence._checkpoints(Workdir(finished), job))
    assert [step for step, _ in kept] == [5, 10]
    peak = job.experiment.optimizer.learning_rate
    rates = [peak * np.mean([0, 1, 8 / 9, 7 / 9, 6 / 9]), peak * np.mean([5 / 9, 4 / 9, 3 / 9, 2 / 9, 1 / 9])]
    (one,) = jaxft.explain(predictor, [TEXT], "gradient_x_input", "neutral", examples=2)
    told = one.explanations[0].taught
    assert told and told.checkpoints == 2 and len(told.examples) == 4
    split, aim = job.splits["train"], job.task.options.labels.index("neutral")
    places = [split.where(n) for n in range(split.table.num_rows)]
    rows = [places.index(example.where) for example in told.examples]
    wanted = np.zeros(len(rows))
    for rate, (step, weights) in zip(rates, kept, strict=True):
        wanted += rate * by_single_gradients(tmp_path / f"{step}", job, weights, aim, rows)
    numbers = [example.influence for example in told.examples]
    np.testing.assert_allclose(numbers, wanted, atol=1e-4 * np.abs(wanted).max())
    assert numbers == sorted(numbers, reverse=True) and numbers[1] > 0 > numbers[2]
    for row, example in zip(split.take(np.asarray(rows)).table.to_pylist(), told.examples, strict=True):
        assert (example.row, example.label) == ({"text": row["text"]}, row["sentiment"])


def test_other_data_than_those_of_the_run_are_refused(finished):
    run = Workdir(finished)
    job = influence._job(run)
    changed = dataclasses.replace(job, features={**job.features, "train": job.features["test"]})
    with pytest.raises(UserError, match=r"was saved with another data \(that of config\.data\.source, or its tokens"):
        list(influence._checkpoints(run, changed))


def test_the_strongest_come_first_and_those_against_last():
    assert influence.strongest(np.asarray([0.0, 3, -1, 2, -4, 1, -2]), 2).tolist() == [1, 3, 6, 4]
    assert influence.strongest(np.asarray([0.5, 0, 2]), 5).tolist() == [2, 0]


def test_log_probabilities_of_labels_and_scores():
    logits = jnp.asarray([0.5, -1.0])
    kinds: dict[str, Any] = {"single_label": ("a", "b"), "multi_label": ("a", "b"), "regression": ()}
    found = {
        kind: influence.log_probabilities(logits, config.SequenceClassification(labels=labels, problem=kind))
        for kind, labels in kinds.items()
    }
    np.testing.assert_allclose(found["single_label"], logits - np.log(np.exp(logits).sum()), atol=1e-6)
    np.testing.assert_allclose(found["multi_label"], -np.log1p(np.exp(-logits)), atol=1e-6)
    np.testing.assert_array_equal(found["regression"], logits)


def test_the_loss_of_each_example_is_its_own():
    """Of two rows, one of which has two examples, in a batch with a slot that is empty."""
    segments = jnp.asarray([[1, 1, 1, 2, 2], [1, 1, 0, 0, 0]])
    batch = {
        "segment_ids": segments,
        "weights": jnp.asarray([[1.0, 1], [1, 0]]),
        "starts": jnp.asarray([[0, 3], [0, 0]]),
    }
    logits, rng = np.random.default_rng(0).normal(size=(2, 5, 3)), np.random.default_rng(1)
    chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    tags = config.TokenClassification(labels=("O", "B-A", "B-B"), problem="entities")
    labels = np.asarray([[2, -100, 0, 1, -100], [0, 0, -100, -100, -100]])
    found = influence.losses_of(
        tasks.build(tags), {"logits": jnp.asarray(logits)}, batch | {"labels": jnp.asarray(labels)}
    )
    wanted = [[-chances[0, 0, 2] - chances[0, 2, 0], -chances[0, 3, 1]], [-chances[1, :2, 0].sum(), 0]]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    ends = {f"{end}_logits": jnp.asarray(rng.normal(size=(2, 5))) for end in targets.ENDS}
    places = {"start_positions": jnp.asarray([[1, 0], [1, 0]]), "end_positions": jnp.asarray([[2, 1], [1, 0]])}
    found = influence.losses_of(tasks.build(config.QuestionAnswering()), ends, batch | places)
    each = {(0, 0): (0, 3, 1, 2), (0, 1): (3, 5, 0, 1), (1, 0): (0, 2, 1, 1)}
    for (row, slot), (start, stop, first, last) in each.items():
        own = [np.asarray(x)[row, start:stop] for x in ends.values()]
        one, other = (np.log(np.exp(x).sum()) - x[at] for x, at in zip(own, (first, last), strict=True))
        assert float(found[row, slot]) == pytest.approx((one + other) / 2, abs=1e-5)
    assert float(found[1, 1]) == 0


def test_what_is_asked_for_of_a_word_and_of_an_end():
    """Of a batch of one text, beside which a row of the batch is empty."""
    segments = jnp.asarray([[1, 1, 1, 0], [0, 0, 0, 0]])
    batch = {"segment_ids": segments, "weights": jnp.asarray([[1.0], [0]]), "starts": jnp.zeros((2, 1), int)}
    logits = np.random.default_rng(0).normal(size=(2, 4, 2))
    asked = batch | {"aim": jnp.asarray([[1], [0]]), "token": jnp.asarray([[2], [0]])}
    tags = config.TokenClassification(labels=("O", "B-A"), problem="entities")
    found = influence.asked_of({"logits": jnp.asarray(logits)}, asked, tags)
    assert float(found) == pytest.approx(-np.log(1 + np.exp(logits[0, 2, 0] - logits[0, 2, 1])), abs=1e-5)
    ends = {"start_logits": jnp.asarray(logits[..., 0]), "end_logits": jnp.asarray(logits[..., 1])}
    for entry in range(2):
        own = logits[0, :3, entry]
        found = influence.asked_of(ends, asked | {"aim": jnp.asarray([[entry], [0]])}, config.QuestionAnswering())
        assert float(found) == pytest.approx(own[2] - np.log(np.exp(own).sum()), abs=1e-5)


WORDS = [
    [f"{name} went to {place} .".split() for name in ("anna", "zoë", "peter") for place in ("paris", "rome", "oslo")],
    ["B-PER", "O", "O", "B-LOC", "O"],
]


def run_of_words(kind: str, model: Path, cache: Path, folder: Path) -> Path:
    """A short run that tags the words of such sentences, or finds who went, once in a text of several windows."""
    texts = [" ".join(words) for words in WORDS[0]]
    texts[4] = "the day was long . " * 4 + texts[4]
    rows: list[dict[str, Any]] = [{"tokens": words, "tags": WORDS[1]} for words in WORDS[0]]
    if kind == "spans":
        rows = [
            {"question": "who went ?", "context": text, "answers": {"text": [name], "answer_start": [text.index(name)]}}
            for text, name in zip(texts, (words[0] for words in WORDS[0]), strict=True)
        ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    e = experiment(model, cache, train={"epochs": 4, "eval_every": 100, "save_every": 2, "batch_size": 4})
    e.data = config.Data(max_length=24, shapes=1, validation_fraction=0.0, cache=str(cache))
    e.data.source, e.model.dropout = str(folder / "rows.jsonl"), 0.0
    e.optimizer = config.Optimizer(learning_rate=3e-3, schedule="constant", warmup=0.0)
    e.task = config.TokenClassification(stride=8) if kind == "tags" else config.QuestionAnswering(stride=8)
    modes.train(e, str(folder / "run"))
    return folder / "run"


def logarithms(model: Any, ids: np.ndarray, types: np.ndarray, kind: str) -> Any:
    """Log probabilities in PyTorch of each token's tags, or of each end over the tokens."""
    import torch

    told = model(input_ids=torch.tensor(ids[None]).long(), token_type_ids=torch.tensor(types[None]).long())
    if kind == "tags":
        return torch.log_softmax(told.logits[0], -1)
    return torch.log_softmax(torch.stack([told.start_logits[0], told.end_logits[0]], -1), 0)


def slope(model: Any, value: Any) -> Any:
    """The gradient of a number by all parameters, flat."""
    import torch

    return torch.nn.utils.parameters_to_vector(torch.autograd.grad(value, list(model.parameters())))


@pytest.mark.matrix
@pytest.mark.parametrize("kind", ["tags", "spans"])
def test_influence_on_words_is_the_plain_loop(kind, tiny_model, cache, tmp_path, torch):
    """Of a word's tag and of an answer's end; of a row in windows it is the sum over them. In PyTorch's float64."""
    import transformers

    run = run_of_words(kind, tiny_model, cache, tmp_path)
    asked: dict[str, Any] = {"tokens": ["anna", "saw", "rome"]}
    name = "BertForTokenClassification"
    if kind == "spans":
        asked, name = {"question": "who went ?", "context": "zoë went to oslo ."}, "BertForQuestionAnswering"
    target = "rome=B-LOC" if kind == "tags" else "end"
    (one,) = jaxft.explain(str(run), [asked], "gradient_x_input", target, examples=9)
    told = one.explanations[0].taught
    job = influence._job(Workdir(run))
    features, split = job.features["train"], job.splits["train"]
    assert told and (len(features) > 9) == (kind == "spans")
    predictor = Predictor.open(run)
    inputs, (reading,) = rows_of.read(predictor, [asked], "words")
    logits = targets.logits_of(predictor.compute(inputs.features))
    ((aim,),) = rows_of.aims(predictor, target, inputs, [reading], [logits], list(predictor([asked])))
    wanted = np.zeros(9)
    for step, weights in influence._checkpoints(Workdir(run), job):
        assert job.program.merge and MINILM
        settings = TINY | dict(job.table.published(job.body.model, 64).settings)
        export.export(tmp_path / f"{step}", job.program.merge(*weights), settings, name, MINILM, "A test.")
        model = getattr(transformers, name).from_pretrained(str(tmp_path / f"{step}")).double().eval()
        along = slope(model, logarithms(model, reading.ids, reading.types, kind)[aim.token, aim.entry])
        rows = features.examples.get("row", np.arange(9))
        for n, row in enumerate(rows):
            own = slice(*features.offsets[n : n + 2])
            ids, types = (features.tokens[column][own] for column in ("input_ids", "token_type_ids"))
            chances = logarithms(model, ids, types, kind)
            if kind == "tags":
                labels = features.tokens["labels"][own]
                there = np.flatnonzero(labels >= 0)
                gain = chances[there, labels[there]].sum()
            else:
                places = [int(features.examples[f"{end}_positions"][n]) for end in targets.ENDS]
                gain = sum(chances[at, side] for side, at in enumerate(places)) / 2
            wanted[row] += 3e-3 * float(slope(model, gain) @ along)
    places = [split.where(n) for n in range(9)]
    found = np.zeros(9)
    for example in told.examples:
        found[places.index(example.where)] = example.influence
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
    assert np.abs(wanted).max() > 1e-3, "something to be right about"
    first = told.examples[0]
    text, label = (" ".join(WORDS[1]).replace(" ", ", "), "tokens") if kind == "tags" else ("", "context")
    assert first.row[label] in split.table["context" if kind == "spans" else "_text"].to_pylist()
    assert first.label == text if kind == "tags" else first.label in ("anna", "zoë", "peter")


@pytest.mark.matrix
def test_mode_explain_says_which_rows_taught_an_answer(finished, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("what a day\n", encoding="utf-8")
    argv = ["run.py", "--mode=explain", f"--workdir={finished}", f"--input={tmp_path / 'texts.txt'}"]
    argv += ["--explain.method=gradient_x_input", "--explain.examples=3"]
    assert cli.main(argv, None) == 0
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[0] == "{"]
    assert len(line["explanations"][0]["taught"]["examples"]) == 6
    assert cli.main([*argv, f"--output={tmp_path / 'why.html'}"], None) == 0
    made = (tmp_path / "why.html").read_text(encoding="utf-8")
    assert made.count("<tr><td><span class=") == 6


def test_the_page_has_rows_in_their_order():
    examples = [Example("a.csv, row 2", {"a": "x <y>", "b": "z"}, "yes", 0.25), Example("b", {"a": "w"}, "no", -1e-5)]
    one = Explanation("yes", 1.0, 0.5, [0.0], None, {}, None, taught=Taught(examples, 3))
    made = _taught(one)
    first, second = made.split("<tr>")[2:]
    assert first.startswith('<td><span class="for">+2.50e-01</span></td><td>yes</td><td>x &lt;y&gt; | z</td>')
    assert second.startswith('<td><span class="against">-1.00e-05</span></td><td>no</td><td>w</td><td>b</td>')
    assert "taught yes, and those against it; checkpoints: 3" in made
    assert _taught(dataclasses.replace(one, taught=None)) == ""


def test_mistakes_are_one_line(finished, tmp_path):
    predictor = copy.copy(Predictor.open(finished))
    predictor.table = tables.build(config.MaskedLM())
    with pytest.raises(UserError, match=r"explain\.examples: the model's task is MaskedLM; which training rows"):
        influence.run_of(predictor)
    with pytest.raises(UserError, match=r"explain\.examples needs the checkpoints and the data of one run"):
        jaxft.explain(str(finished / "export"), [TEXT], "occlusion", examples=1)
    with pytest.raises(UserError, match=r"explain\.examples is -1; it is a number of training rows, 0 or more"):
        jaxft.explain(str(finished), [TEXT], examples=-1)
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(UserError, match=r"explain\.examples: \S+ holds no checkpoint, which tells what an example"):
        jaxft.explain(str(tmp_path / "run"), [TEXT], "occlusion", examples=1)
    held = json.loads((tmp_path / "run" / "config.json").read_text())
    held["adapt"], held["compute"]["frozen"] = "lora", "nf4"
    (tmp_path / "run" / "config.json").write_text(json.dumps(held))
    with pytest.raises(UserError, match=r"explain\.examples: the run keeps what does not learn as nf4"):
        influence._job(Workdir(tmp_path / "run"))


@pytest.mark.matrix
@pytest.mark.parametrize("adapt", ["full", "lora"])
def test_a_mislabelled_duplicate_is_what_taught_the_wrong_answer(tiny_model, cache, tmp_path, adapt):
    """Rows that say good are good ones; one that the model is then asked about is said to be bad."""
    rng, words = np.random.default_rng(0), ["apple", "river", "stone", "music", "table", "green", "walks", "quiet"]
    rows = []
    for n in range(95):
        chosen = [*rng.choice(words, 5, replace=False), ("good", "bad")[n % 2]]
        rows.append({"text": " ".join(chosen), "sentiment": ("yes", "no")[n % 2]})
    asked = "seven clocks of paper, north, good"
    rows.insert(40, {"text": asked, "sentiment": "no"})
    e = experiment(tiny_model, cache, train={"epochs": 6, "eval_every": 100, "save_every": 12, "keep": 5})
    e = dataclasses.replace(e, adapt=adapt)
    e.data = config.Data(max_length=16, shapes=1, validation_fraction=0.0, cache=str(cache))
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    e.data.source = str(file)
    modes.train(e, str(tmp_path / "run"))
    (one,) = jaxft.explain(str(tmp_path / "run"), [asked], "gradient_x_input", "all", examples=2)
    of = {explanation.target: explanation.taught for explanation in one.explanations}
    assert of["no"] and of["yes"] and of["no"].checkpoints == 3
    assert of["no"].examples[0].where == "rows.jsonl, row 41" == of["yes"].examples[-1].where
