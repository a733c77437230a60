"""A run learns from a teacher: what it says is that of a Predictor, is kept by content, and fits the student."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from runs import MINILM, TINY, experiment, lines, results
from safetensors.numpy import load_file
from scipy.special import softmax
from support import random_params

from jaxft import Predictor, config, models, modes, program, tables, tasks
from jaxft.batch import padded
from jaxft.errors import UserError
from jaxft.hub import export
from jaxft.job import Job, prepare
from jaxft.models import nn
from jaxft.objectives.projection import PATH
from jaxft.predict import states
from jaxft.predict.teacher import outputs, taught
from jaxft.pretrained import load

WIDE = TINY | {"hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 3}
LABELS = ("negative", "neutral", "positive")


def student(model: Path, cache: Path, *teachers: Path | str, **keys) -> config.Experiment:
    e = experiment(model, cache)
    e.objective = config.Objective(teacher=tuple(map(str, teachers)), **keys)
    return e


def job_of(model: Path, cache: Path, *teachers: Path | str) -> Job:
    return taught(prepare(config.check(student(model, cache, *teachers))))


@pytest.fixture(scope="module")
def job(finished, tiny_model, cache, tmp_path_factory) -> Job:
    """A job whose teacher is the finished run; it keeps what that says in a cache of its own."""
    return job_of(tiny_model, tmp_path_factory.mktemp("kept"), finished)


def said(job: Job) -> np.ndarray:
    return job.features["train"].examples["teacher/logits"]


def directory(folder: Path, labels: tuple[str, ...] = LABELS, tokenizer: Path | None = MINILM, seed: int = 0) -> Path:
    """A small random classifier, as a run exports it."""
    options = config.SequenceClassification(labels=labels, problem="single_label")
    model, kind = models.build(TINY), "BertForSequenceClassification"
    params, settings = random_params(tasks.build(options), model, seed), tables.build(options).published(model, 64)
    assert tokenizer
    export.export(folder, params, TINY | {**settings.settings}, kind, tokenizer, "A.\n")
    return folder


def test_a_teacher_says_what_its_predictor_does(job, finished):
    texts = job.splits["train"].table.column("text").to_pylist()
    found = [list(answer["probabilities"].values()) for answer in Predictor.open(finished)(texts)]
    powers = np.exp(said(job))
    np.testing.assert_allclose(powers / powers.sum(-1, keepdims=True), found, atol=1e-5)
    assert said(job).dtype == np.float32 and "teacher/logits" not in job.features["validation"].examples


def test_what_it_says_is_kept(job, finished, tiny_model, capsys):
    cache = Path(job.experiment.data.cache)
    (file,) = (cache / "teacher").iterdir()
    before = file.stat().st_mtime_ns
    again = job_of(tiny_model, cache, finished)
    assert f"teacher {finished}: what it says is kept in {file}" in capsys.readouterr().err
    assert file.stat().st_mtime_ns == before and [*(cache / "teacher").iterdir()] == [file]
    np.testing.assert_array_equal(said(again), said(job))


def test_a_run_resumes_where_rounding_is_another_but_not_with_another_teacher(job, tiny_model, tmp_path):
    own = job.features["train"]
    rounded = dataclasses.replace(own, examples={**own.examples, "teacher/logits": said(job) * np.float32(1 + 1e-6)})
    assert (said(job) != rounded.examples["teacher/logits"]).any()
    assert dataclasses.replace(job, features={**job.features, "train": rounded}).origin == job.origin
    cache = Path(job.experiment.data.cache)
    other = job_of(tiny_model, cache, directory(tmp_path / "other"))
    changed = {name for name, value in job.origin.items() if other.origin[name] != value}
    assert changed == {"experiment", "teachers"}, "the directory's name, and what is in it"
    plain = prepare(config.check(experiment(tiny_model, cache)))
    assert plain.origin == {"experiment": plain.origin["experiment"], "data": job.origin["data"]}


def test_a_run_learns_from_it(job, finished, tiny_model, tmp_path, capsys):
    """By another loss than labels alone; it resumes, evaluates and predicts as any run."""
    e = student(tiny_model, Path(job.experiment.data.cache), finished, distill=0.9)
    modes.train(e, str(tmp_path / "run"))
    plain, own = (
        [line["loss"] for line in lines(of) if line["split"] == "train"] for of in (finished, tmp_path / "run")
    )
    assert len(plain) == len(own) and min(np.abs(np.subtract(plain, own))) > 1e-3
    measured = modes.evaluate(str(tmp_path / "run"))
    kept = results(tmp_path / "run")
    assert {name: kept[name] for name in measured} == pytest.approx(measured, abs=1e-5)
    texts = ["what a day", "no"]
    assert len(Predictor.open(tmp_path / "run")(texts)) == 2
    labelled = [{"text": text, "sentiment": "neutral"} for text in texts]
    assert Predictor.open(tmp_path / "run").evaluate(labelled).metrics["loss"] > 0


def test_labels_in_another_order_are_put_right(tiny_model, cache, tmp_path):
    turned = LABELS[::-1]
    one, other = directory(tmp_path / "one"), directory(tmp_path / "other", turned)
    found = [said(job_of(tiny_model, cache, of)) for of in (one, other)]
    np.testing.assert_array_equal(found[0], found[1][:, ::-1])


def test_of_several_the_mean_of_their_distributions_is_learned(tiny_model, cache, tmp_path):
    """At the temperature at which the student is compared with it, 2 by default."""
    teachers = [directory(tmp_path / "one"), directory(tmp_path / "other", LABELS[::-1], seed=1)]
    each = np.stack([said(job_of(tiny_model, cache, teacher)) for teacher in teachers])
    both = said(job_of(tiny_model, cache, *teachers))
    np.testing.assert_allclose(softmax(both / 2, -1), softmax(each / 2, -1).mean(0), atol=1e-5)
    assert np.abs(softmax(both, -1) - softmax(each, -1).mean(0)).max() > 1e-3


def test_a_teacher_with_another_tokenizer_reads_the_rows_itself(tiny_model, cache, tmp_path):
    """Here one that keeps capitals."""
    assert MINILM
    own = shutil.copytree(MINILM, tmp_path / "cased")
    file = own / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"do_lower_case": False}))
    teacher = directory(tmp_path / "teacher", tokenizer=own)
    job = job_of(tiny_model, cache, teacher)
    texts = job.splits["train"].table.column("text").to_pylist()
    found = [list(answer["probabilities"].values()) for answer in Predictor.open(teacher)(texts)]
    powers = np.exp(said(job))
    np.testing.assert_allclose(powers / powers.sum(-1, keepdims=True), found, atol=1e-5)
    assert np.abs(powers - np.exp(said(job_of(tiny_model, cache, directory(tmp_path / "same"))))).max() > 1e-3


def test_what_a_student_cannot_learn_from(job, tiny_model, cache, tmp_path):
    with pytest.raises(UserError, match=r"objective\.teacher .*: its labels are a, b, those of the run neg"):
        job_of(tiny_model, cache, directory(tmp_path / "two", ("a", "b")))
    options = config.TokenClassification(labels=("O", "B-X"), problem="entities")
    task, model = tasks.build(options), models.build(TINY)
    settings = TINY | {**tables.build(options).published(model, 64).settings}
    assert MINILM
    export.export(
        tmp_path / "tags", random_params(task, model, 0), settings, "BertForTokenClassification", MINILM, "A.\n"
    )
    with pytest.raises(UserError, match=r"its task is TokenClassification entities, that of the run SequenceClass"):
        job_of(tiny_model, cache, tmp_path / "tags")
    with pytest.raises(UserError, match="nowhere"):
        job_of(tiny_model, cache, tmp_path / "nowhere")
    long = shutil.copytree(directory(tmp_path / "short"), tmp_path / "long")
    settings = json.loads((long / "config.json").read_text())
    settings["windows"] = {"combine": "mean", "stride": 4, "max_length": 32}
    (long / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"does not read long texts as the run does; give both the same task\.windows"):
        job_of(tiny_model, cache, long)
    fewer = job.features["train"].take(np.arange(3))
    split = job.splits["train"]
    with pytest.raises(UserError, match="reads other tokens than the student"):
        outputs([str(directory(tmp_path / "fits"))], split, fewer, job.table, job.task, "")


def test_other_tokens_of_the_same_lengths_are_other_tokens(job, tmp_path):
    """A teacher then reads the rows itself, whatever the student's examples say."""
    teacher, own = [str(directory(tmp_path / "teacher"))], job.features["train"]
    other = dataclasses.replace(own, tokens={**own.tokens, "input_ids": own.tokens["input_ids"][::-1].copy()})
    found = [outputs(teacher, job.splits["train"], of, job.table, job.task, "")[0]["logits"] for of in (own, other)]
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)


@pytest.fixture
def of_states(tiny_model, tmp_path) -> Callable[..., Job]:
    """Makes jobs by what is compared with a teacher, of another width and depth; or with one that keeps capitals."""
    options = config.SequenceClassification(labels=LABELS, problem="single_label")
    model = models.build(WIDE)
    params, settings = random_params(tasks.build(options), model, 0), tables.build(options).published(model, 64)
    assert MINILM
    cased = shutil.copytree(MINILM, tmp_path / "tokenizer")
    file = cased / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"do_lower_case": False}))
    for name, tokenizer in (("wide", MINILM), ("cased", cased)):
        settled = WIDE | {**settings.settings}
        export.export(tmp_path / name, params, settled, "BertForSequenceClassification", tokenizer, "A.\n")

    def job_of(teacher: str = "wide", **keys: Any) -> Job:
        e = student(tiny_model, tmp_path / "cache", tmp_path / teacher, layers=("2:2",), distill=0.0, **keys)
        return taught(prepare(states.resolved(config.check(e))))

    return job_of


def test_states_between_layers_are_those_of_the_teacher(of_states, tmp_path):
    """Of the layers that are named; its width is read of it first."""
    made = of_states(relations=1.0, relation_heads=2)
    assert made.experiment.objective.teacher_width == 48 and len(made.teachers) == 1
    features = made.features["train"]
    names = {f"teacher/{part}/2" for part in ("query", "key", "value")}
    assert names == {name for name in features.tokens if name.startswith("teacher/")}
    assert "teacher/logits" not in features.examples
    first = slice(0, int(features.offsets[1]))
    ids = features.tokens["input_ids"][first][None]
    batch = padded(jnp.asarray(ids), jnp.ones_like(ids))
    params = random_params(made.task, models.build(WIDE), 0)
    own = params["bert"]["encoder"]["layer"]["1"]["attention"]["self"]
    below = models.build(WIDE | {"num_hidden_layers": 1}).encode(params, batch, nn.Run())
    for part in ("query", "key", "value"):
        wanted = nn.dense(own[part], below)[0]
        np.testing.assert_allclose(features.tokens[f"teacher/{part}/2"][first], wanted, atol=1e-4)
    (kept,) = (path for path in (tmp_path / "cache").iterdir() if path.name.startswith("states-"))
    assert kept.name == "states-query2-key2-value2" and len([*kept.iterdir()]) == 1


@pytest.mark.matrix
def test_states_are_kept_and_refused_where_they_do_not_fit(of_states):
    first, again = (of_states(relations=weight, relation_heads=2).features["train"].tokens for weight in (1.0, 2.0))
    for name in ("query", "key", "value"):
        np.testing.assert_array_equal(first[f"teacher/{name}/2"], again[f"teacher/{name}/2"])
    refused: list[tuple[dict[str, Any], str]] = [
        ({"hidden": 1.0, "teacher_hidden": 40}, "teacher_hidden is 40, but hidden states of .* have 48 numbers; unset"),
        ({"attention": 1.0}, "objective.attention compares heads, of which the teacher has 4, the model"),
        ({"relations": 1.0, "relation_heads": 2, "teacher": "cased"}, "it reads other tokens than the student"),
    ]
    for keys, said in refused:
        with pytest.raises(UserError, match=said):
            of_states(**keys)


@pytest.mark.matrix
def test_what_is_between_two_widths_is_learned_and_not_exported(of_states, tmp_path):
    """A run by hidden states of a wider teacher is evaluated, resumed as it stood, and a model as any other."""
    e = of_states(hidden=1.0).experiment
    assert e.objective.teacher_hidden == 48
    modes.train(e, str(tmp_path / "run"))
    assert len(Predictor.open(tmp_path / "run")(["what a day"])) == 1
    job = prepare(config.check(e))
    assert nn.flatten(job.program.state.trainable)[PATH].shape == (32, 48)
    exported = load(tmp_path / "run" / "export", job.program)[0]
    assert PATH not in nn.flatten(exported)
    assert not any("distillation" in name for name in load_file(tmp_path / "run" / "export" / "model.safetensors"))


@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_what_is_between_two_widths_is_refused_where_no_whole_model_is_made(method: str):
    e = config.Experiment(adapt=method, objective=config.Objective(teacher=("a",), hidden=1.0, teacher_hidden=48))
    e.task = config.SequenceClassification(labels=LABELS)
    with pytest.raises(UserError, match=f"have 48 numbers, the model's 32, and with adapt={method} no matrix"):
        program.compose(e, models.build(TINY), tasks.build(e.task), 10)


@pytest.mark.matrix
def test_a_run_learns_states_and_answers(finished, tiny_model, tmp_path):
    """With answers and all of the states of a teacher of its own sizes."""
    e = student(tiny_model, tmp_path / "cache", finished, hidden=0.5, attention=0.1, relations=1.0)
    modes.train(e, str(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["objective"]["teacher_width"] == 32
    texts = ["what a day", "no"]
    assert len(Predictor.open(tmp_path / "run")(texts)) == 2
