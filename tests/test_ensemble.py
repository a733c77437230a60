"""Several models answer as one: by the mean of what each says, packed or padded, in every mode that answers."""

import dataclasses
import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import MINILM, TINY, experiment
from scipy.special import expit, softmax
from scipy.stats import entropy
from support import once, random_params
from test_predictor import CASES, TEXTS

import jaxft
from jaxft import Predictor, cli, config, models, modes, tables, tasks
from jaxft.errors import UserError
from jaxft.hub import export
from jaxft.predict import ensemble
from jaxft.serve.models import open_all
from jaxft.storage.workdir import Workdir
from jaxft.sure import kept
from jaxft.sure.calibration import Calibration
from jaxft.tables.base import Table
from jaxft.tables.sequence_classification import SequenceClassification

LABELS = ("negative", "neutral", "positive")


def exported(name: str, target: Path, seed: int, hf: dict[str, Any] | None = None, **changes: Any) -> None:
    """Writes a small random model of a case, as a run exports it; `hf` and `changes` are of it and of its task."""
    settings = TINY | (hf or {})
    options, model = dataclasses.replace(CASES[name][0], **changes), models.build(settings)
    task, published = tasks.build(options), tables.build(options).published(model, 64)
    chosen = {"thresholds": dict(zip("xyz", (0.25, 0.5, 0.1 + seed), strict=True))} if name == "several" else {}
    kind, settings = f"Bert{task.hf_class or 'Model'}", settings | {**published.settings} | chosen
    assert MINILM
    export.export(target, random_params(task, model, seed), settings, kind, MINILM, "A.", files=published.files)


def a_run(target: Path, model: Path, seed: int, labels: tuple[str, ...], packing: str = "auto") -> Path:
    """What a finished run leaves that answers need: its experiment and its export."""
    e = experiment(model, target / "cache", data={"packing": packing})
    e.task = dataclasses.replace(CASES["classes"][0], labels=labels)
    Workdir(target).claim(config.check(e), overwrite=False)
    exported("classes", target / "export", seed, labels=labels)
    return target


@pytest.fixture(scope="module")
def runs(tiny_model, tmp_path_factory) -> list[Path]:
    """Two that answer otherwise, the labels of the second in another order."""
    folder = tmp_path_factory.mktemp("runs")
    orders = (LABELS, LABELS[1:] + LABELS[:1])
    return [a_run(folder / str(at), tiny_model, at, labels) for at, labels in enumerate(orders)]


@pytest.fixture(scope="module")
def opened(runs) -> list[Predictor]:
    """Each by itself."""
    return [Predictor.open(run) for run in runs]


@pytest.fixture(scope="module")
def together(runs) -> Predictor:
    return Predictor.open(runs[0], runs=[runs[1]])


def probabilities(answers: list[dict[str, Any]]) -> np.ndarray:
    """`[texts, labels]`, labels sorted."""
    return np.asarray([[one["probabilities"][name] for name in sorted(one["probabilities"])] for one in answers])


@pytest.fixture(scope="module")
def mean(opened) -> np.ndarray:
    """Of what each says of `TEXTS`."""
    one, other = (probabilities(predictor(TEXTS)) for predictor in opened)
    assert np.abs(one - other).max() > 0.1
    return (one + other) / 2


def test_an_answer_is_the_mean_of_the_members_and_says_how_far_they_disagree(together, opened, mean):
    answers = together(TEXTS)
    np.testing.assert_allclose(probabilities(answers), mean, atol=1e-5)
    assert [one["probability"] for one in answers] == pytest.approx(mean.max(-1), abs=1e-5)
    each = np.stack([entropy(probabilities(predictor(TEXTS)), axis=-1) for predictor in opened])
    told = [one["disagreement"] for one in answers]
    assert told == pytest.approx(entropy(mean, axis=-1) - each.mean(0), abs=1e-5) and max(told) > 1e-3
    assert together.width == TINY["hidden_size"] and together.engine.device == "cpu"


def test_padded_it_is_the_same(runs, opened, mean, tiny_model, tmp_path):
    padded = [
        a_run(tmp_path / run.name, tiny_model, int(run.name), one.table.options.labels, packing="off")
        for run, one in zip(runs, opened, strict=True)
    ]
    np.testing.assert_allclose(probabilities(Predictor.open(padded[0], runs=padded[1:])(TEXTS)), mean, atol=1e-5)


def test_mode_predict_writes_it(runs, mean, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    argv = ["--mode=predict", f"--workdir={runs[0]}", f"--runs={runs[1]}", f"--input={tmp_path / 'texts.txt'}"]
    assert cli.main(["run.py", *argv, f"--output={tmp_path / 'answers.jsonl'}"], None) == 0
    written = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(probabilities(written), mean, atol=1e-5)


def test_a_service_answers_so(runs, opened, mean):
    (predictor,) = open_all(str(runs[0]), {}, runs=[str(runs[1])]).values()
    assert predictor.warm(32) == opened[0].warm(32)
    inputs = predictor.tokenized(TEXTS[:2])
    answers = list(predictor.answers_of(inputs, predictor.compute(inputs.features)))
    np.testing.assert_allclose(probabilities(answers), mean[:2], atol=1e-5)
    assert isinstance(predictor.engine, ensemble.EnsembleEngine)
    assert predictor.engine.positions == predictor.engine.engines[0].positions >= inputs.features.offsets[-1]
    long = dataclasses.replace(inputs.features, offsets=np.asarray([0, 2000]))
    for engine in (predictor.engine, predictor.engine.engines[1]):
        with pytest.raises(UserError, match=r"rows, row 1: .*this server takes"):
            engine.check(long, "rows")


def test_it_has_no_gradient_of_its_own(together):
    with pytest.raises(UserError, match="'integrated_gradients' needs gradients of one model; open one of the runs al"):
        jaxft.explain(together, TEXTS)


def test_a_file_is_measured_by_it(runs, mean, tmp_path, capsys):
    """What is written of a run alone stays beside it."""
    run, right = shutil.copytree(runs[0], tmp_path / "run"), [0, 1, 2, 1, 0]
    file = tmp_path / "few.jsonl"
    rows = ({"text": text, "label": LABELS[at]} for text, at in zip(TEXTS, right, strict=True))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    alone = Path(Workdir(run).write_evaluation(file, {"rows": 5}))
    argv = ["--mode=evaluate", f"--workdir={run}", f"--input={file}", f"--runs={runs[1]}"]
    assert cli.main(["run.py", *argv], None) == 0
    assert f"metrics: {run}/evaluations/few.jsonl-2.json" in capsys.readouterr().err
    found = json.loads((run / "evaluations" / "few.jsonl-2.json").read_text())
    assert json.loads(alone.read_text()) == {"file": str(file), "rows": 5}
    assert found["runs"] == [str(runs[1])] and found["rows"] == len(TEXTS)
    assert found["input/loss"] == pytest.approx(-np.log(mean[np.arange(5), right]).mean(), abs=1e-4)
    assert found["input/accuracy"] == pytest.approx((mean.argmax(-1) == right).mean())


HAVE_MEAN = [name for name, (options, _) in CASES.items() if type(tables.build(options)).mean is not Table.mean]


@pytest.mark.parametrize("name", once(HAVE_MEAN, "several"))
def test_of_every_task(name, tmp_path):
    options, inputs = CASES[name]
    paths = [tmp_path / str(seed) for seed in range(2)]
    for seed, path in enumerate(paths):
        exported(name, path, seed)
    alone = [Predictor.open(path, task=options) for path in paths]
    together = Predictor.open(paths[0], task=options, runs=paths[1:])
    features = alone[0].tokenized(inputs).features
    of, found = [one.compute(features) for one in alone], together.compute(features)
    assert ("disagreement" in found) == isinstance(options, config.SequenceClassification)
    bounds = features.bounds if name == "choices" else features.offsets[features.bounds]
    for key in found.keys() - {"disagreement"}:
        array = found[key]
        stacked = np.stack([one[key] for one in of])
        if name == "embeddings":
            mean = stacked.mean(0)
            np.testing.assert_allclose(array, mean / np.linalg.norm(mean, axis=-1)[:, None], atol=1e-5)
        elif name == "scores":
            np.testing.assert_allclose(array, stacked.mean(0), atol=1e-5)
        elif name == "several":
            np.testing.assert_allclose(expit(array), expit(stacked).mean(0), atol=1e-5)
        elif array.ndim == 1:
            for low, high in itertools.pairwise(bounds):
                wanted = softmax(stacked[:, low:high], -1).mean(0)
                np.testing.assert_allclose(softmax(array[low:high]), wanted, atol=1e-5)
        else:
            np.testing.assert_allclose(softmax(array, -1), softmax(stacked, -1).mean(0), atol=1e-5)
    assert together(inputs) == list(together.answers_of(together.tokenized(inputs), found))
    if name == "several":
        assert together.table.thresholds() == pytest.approx({"x": 0.25, "y": 0.5, "z": 0.6})


def test_runs_that_are_none(runs, tmp_path):
    def refused(said: str, *others: Path | str, **options: Any) -> None:
        with pytest.raises(UserError, match=said):
            Predictor.open(runs[0], runs=[*others], **options)

    refused(r"--runs=.*: a mean is of two runs or more, each once; give others than --workdir", f"{runs[0]}/")
    refused(r"--runs has models that answer together, on which a cannot be put; leave one out", runs[1], adapter="a")
    refused("nowhere", tmp_path / "nowhere")
    with pytest.raises(UserError, match="--runs measures a file; give one by --input"):
        modes.evaluate(runs[0], runs=[runs[1]])
    with pytest.raises(UserError, match="--runs has models that answer together, on which --adapters cannot be put"):
        open_all(str(runs[0]), {"a": "b"}, runs=[str(runs[1])])


def test_calibrations_of_one_alone_are_left_out(runs, tmp_path, capsys):
    """A temperature of one model's logits says nothing of the mean of several's probabilities."""
    one = shutil.copytree(runs[0], tmp_path / "calibrated")
    kept.write(one / "export", "jax", Calibration("single_label", temperature=2.0), {"fitted_on": "rows"})
    alone, together = (predictor.table for predictor in (Predictor.open(one), Predictor.open(runs[1], runs=[one])))
    assert isinstance(alone, SequenceClassification) and isinstance(together, SequenceClassification)
    assert alone.calibration and alone.calibration.temperature == 2 and together.calibration is None
    said = "--runs: calibrations are left out, each being of what one model answers by itself"
    assert said in capsys.readouterr().err


def test_members_that_do_not_fit(opened, tmp_path):
    one = opened[0]
    first = ensemble.Member("A", one.experiment, one.table, one.engine, one.directory)

    def refused(said: str, first: ensemble.Member = first, data: Any = None, **task: Any) -> None:
        experiment = dataclasses.replace(
            first.experiment, data=dataclasses.replace(first.experiment.data, **data or {})
        )
        table = tables.build(dataclasses.replace(first.table.options, **task))
        with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
            ensemble.joined([first, first, first._replace(path="B", experiment=experiment, table=table)])

    labels = ", ".join(first.table.options.labels)
    refused(f"--runs B: its labels are a, b, those of the run {labels}", labels=("a", "b"))
    kind = "its task is SequenceClassification multi_label, that of the run SequenceClassification single_label"
    refused(f"--runs B: {kind}; take a model of the same", problem="multi_label")
    long = "it does not read long texts as the run does; give both the same task.windows"
    refused(f"--runs B: {long}", windows="mean")
    alike = "take runs that read texts alike"
    refused(f"--runs B: data.max_length is 16 there and 32 in A; {alike}", data={"max_length": 16})
    refused(f"--runs B: data.truncate is 'tail' there and 'head' in A; {alike}", data={"truncate": "tail"})
    refused(f"--runs B: the number of columns is 2 there and 1 in A; {alike}", text_pair="two")
    in_windows = first._replace(table=tables.build(dataclasses.replace(first.table.options, windows="mean")))
    refused(f"--runs B: task.stride is 8 there and 32 in A; {alike}", in_windows, stride=8)
    asked = first._replace(table=tables.build(config.QuestionAnswering(unanswerable="no")))
    refused(f"--runs B: task.question_length is 9 there and 64 in A; {alike}", asked, question_length=9)
    refused(f"--runs B: task.unanswerable is 'yes' there and 'no' in A; {alike}", asked, unanswerable="yes")
    masked = first._replace(table=tables.build(config.MaskedLM()))
    refused("--runs: of answers of MaskedLM there is no mean; take one model alone", masked)
    cased = shutil.copytree(one.directory, tmp_path / "cased")
    file = cased / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"do_lower_case": False}))
    with pytest.raises(UserError, match=r"^--runs B: it has another tokenizer than A; take runs that share one$"):
        ensemble.joined([first, first._replace(path="B", directory=cased)])


def test_a_member_that_does_not_know_a_type_of_token_is_told(tmp_path):
    """As of a second text; the tokens are those of the first member."""
    for seed in range(2):
        exported("pairs", tmp_path / str(seed), seed, hf={"type_vocab_size": 2 - seed})
    together = Predictor.open(tmp_path / "0", task=CASES["pairs"][0], runs=[tmp_path / "1"])
    with pytest.raises(UserError, match="the tokenizer gives the token type 1, as to the second text of a pair"):
        together(CASES["pairs"][1])


def test_what_is_not_read_may_differ(opened):
    """The stride of windows that there are none of; the columns' names, which the first member's say, as all else."""
    one, other = opened
    first = ensemble.Member("A", one.experiment, one.table, one.engine, one.directory)
    table = tables.build(dataclasses.replace(other.table.options, stride=8, text="other"))
    engine, thresholds = ensemble.joined(
        [first, ensemble.Member("B", one.experiment, table, other.engine, one.directory)]
    )
    assert thresholds == {} and engine.positions == 0 and engine.device == one.engine.device
    assert engine.task is one.engine.task is not other.engine.task
    assert engine.model is one.engine.model is not other.engine.model
