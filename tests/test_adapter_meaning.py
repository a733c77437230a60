"""An adapter's directory says what its outputs mean, whatever run or model it is put on."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from huggingface_hub import ModelCard
from runs import TINY
from safetensors.numpy import load_file, save_file
from support import random_params

from jaxft import config, models, pretrained, program, tasks
from jaxft.errors import UserError
from jaxft.hub import adapter_config, adapters
from jaxft.predict.predictor import Predictor
from jaxft.storage.workdir import Workdir
from jaxft.sure import kept
from jaxft.sure.calibration import Calibration

LORA = {"adapt": "lora", "lora": config.Lora(rank=2)}
NAMES = ("ham", "spam", "unsure")


def saved(folder: Path, task: config.Task, base: str = "", **changes: Any) -> tuple[Path, program.Program, Any]:
    """An adapter with a random head of a task, its program, and what learns."""
    e = config.Experiment(task=task, model=config.Model(path=base), **LORA)
    thresholds = changes.pop("thresholds", {})
    e.data = dataclasses.replace(e.data, **{"max_length": 48} | changes)
    composed = program.compose(e, models.build(TINY), tasks.build(task), steps=10)
    trainable = composed.split(random_params(composed.task, composed.model, seed=3))[0]
    adapters.write(folder, e, trainable, thresholds)
    return folder, composed, trainable


def classes(*names: str, problem: str = "single_label", text: str = "text") -> config.SequenceClassification:
    return config.SequenceClassification(labels=names, problem=problem, text=text)


def anonymous(folder: Path) -> Path:
    """The directory as `peft` writes it, which does not say what the outputs mean."""
    (folder / adapters.MEANING).unlink()
    return folder


def test_an_adapter_of_a_run_with_other_labels(finished, tmp_path):
    """Names, problem, thresholds, columns and where texts are cut are those it was trained with."""
    plain, _, _ = saved(tmp_path / "plain", classes(*NAMES))
    answer = Predictor.open(finished, adapter=plain)(["So it is."])[0]
    assert tuple(answer["probabilities"]) == NAMES and answer["prediction"] in NAMES
    several = classes("a", "b", problem="multi_label", text="tweet")
    keys = {"max_length": 24, "truncate": "tail", "thresholds": {"a": 0.0, "b": 1.0}}
    predictor = Predictor.open(finished, adapter=saved(tmp_path / "several", several, **keys)[0])
    assert predictor([{"tweet": "So it is.", "text": None}])[0]["prediction"] == ["a"]
    assert (predictor.experiment.data.max_length, predictor.experiment.data.truncate) == (24, "tail")
    assert predictor.experiment.data.source == Workdir(finished).experiment().data.source
    tagger = config.TokenClassification(labels=("O", "B-X", "I-X"), problem="entities")
    tags = Predictor.open(finished, adapter=saved(tmp_path / "tagger", tagger)[0])(["So it is."])[0]
    assert tags.keys() == {"prediction", "words", "entities"} and len(tags["prediction"]) == 4


def test_an_adapter_on_its_base_alone(tiny_model, tmp_path):
    """The directory of a model that answers nothing by itself."""
    folder, _, _ = saved(tmp_path / "adapter", classes(*NAMES), max_length=32)
    answer = Predictor.open(tiny_model, adapter=folder)(["So it is."])[0]
    assert tuple(answer["probabilities"]) == NAMES
    with pytest.raises(UserError, match="adapter says its task; leave `task` out"):
        Predictor.open(tiny_model, adapter=folder, task=classes("a", "b"))


def test_an_adapter_on_a_calibrated_base_is_not_calibrated(finished, tmp_path, capsys):
    """The calibration beside the base's weights is of its own answers."""
    base = shutil.copytree(finished / "export", tmp_path / "base")
    kept.write(base, "jax", Calibration("single_label", 5.0, energies=(0.0,)), {"fitted_on": "some rows"})
    folder, _, _ = saved(tmp_path / "adapter", classes(*NAMES))
    plain, answer = (Predictor.open(path, adapter=folder)(["So it is."])[0] for path in (finished / "export", base))
    assert answer == plain and "unusual" not in answer and "calibrated" not in capsys.readouterr().err


def test_a_threshold_of_questions_without_an_answer(tiny_model, tmp_path):
    options = config.QuestionAnswering(unanswerable="yes", stride=8)
    row = [{"question": "who?", "context": "it was me"}]
    for threshold, answered in ((-1e6, False), (1e6, True)):
        keys = {"thresholds": {"no_answer": threshold}, "max_length": 48}
        folder, _, _ = saved(tmp_path / str(threshold), options, **keys)
        assert bool(Predictor.open(tiny_model, adapter=folder)(row)[0]["prediction"]) == answered


def test_an_adapter_that_names_no_labels_has_those_of_the_run(finished, tmp_path, capsys):
    folder = anonymous(saved(tmp_path / "adapter", classes(*NAMES))[0])
    predictor = Predictor.open(finished, adapter=folder)
    answer = predictor(["So it is."])[0]
    assert predictor.run is None, "another one made it"
    assert tuple(answer["probabilities"]) == ("negative", "neutral", "positive")
    said = f"adapter {folder}: it names no labels; its outputs are taken for negative, neutral, positive\n"
    assert said in capsys.readouterr().err


def test_an_adapter_that_names_no_labels_and_has_others(finished, tiny_model, tmp_path):
    two = anonymous(saved(tmp_path / "two", classes("a", "b"))[0])
    with pytest.raises(UserError, match=r"classifier\.bias is \[2\]; classifier/bias is \[3\]"):
        Predictor.open(finished, adapter=two)
    tagger = anonymous(saved(tmp_path / "tagger", config.TokenClassification(labels=NAMES, problem="words"))[0])
    with pytest.raises(UserError, match=r"task_type is TOKEN_CLS, that of TokenClassification; here it is Sequence"):
        Predictor.open(finished, adapter=tagger)
    with pytest.raises(UserError, match="names BertModel, which answers nothing by itself"):
        Predictor.open(tiny_model, adapter=two)


def test_a_head_of_the_base_has_the_names_of_the_base(finished, tmp_path, capsys):
    """An adapter without a head says nothing of labels; the base's head is the one that answers."""
    folder = anonymous(saved(tmp_path / "adapter", classes("negative", "neutral", "positive"))[0])
    tensors = load_file(folder / adapters.WEIGHTS)
    save_file({k: x for k, x in tensors.items() if "lora" in k}, folder / adapters.WEIGHTS)
    values = json.loads((folder / adapters.CONFIG).read_text()) | {"modules_to_save": None}
    (folder / adapters.CONFIG).write_text(json.dumps(values))
    Predictor.open(finished / "export", adapter=folder)(["So it is."])
    assert "names no labels" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("here", "head", "order", "said"),
    [
        (("unsure", "ham", "spam"), "auto", [2, 0, 1], "its outputs are put in the order of the labels: unsure, ham"),
        (NAMES, "auto", [0, 1, 2], ""),
        (("unsure", "ham", "spam"), "load", [0, 1, 2], ""),
        (("x", "y", "z"), "auto", None, "new head (initialized), as the checkpoint's is for ham, spam, unsure; "),
        (("x", "y"), "auto", None, "new head (initialized), as the checkpoint's is for ham, spam, unsure; "),
        (NAMES, "new", None, "new head (initialized), as config.model.head is new"),
    ],
)
def test_training_goes_on_with_the_head_by_its_names(tmp_path, here, head, order, said):
    folder, _, there = saved(tmp_path / "adapter", classes(*NAMES))
    e = config.Experiment(task=classes(*here), **LORA)
    composed = program.compose(e, models.build(TINY), tasks.build(e.task), steps=10)
    start = composed.split(random_params(composed.task, composed.model, seed=4))[0]
    read, notes = pretrained.load_adapter(folder, composed, jax.tree.map(np.asarray, start), head)
    for part in ("kernel", "bias"):
        wanted = start["classifier"][part] if order is None else there["classifier"][part][..., np.asarray(order)]
        np.testing.assert_array_equal(read["classifier"][part], wanted)
    assert len(notes) == bool(said) and all(said in line for line in notes)
    for part in ("bert", "lora"):  # the pooler, and the adapter itself
        jax.tree.map(np.testing.assert_array_equal, read[part], there[part])


def test_a_meaning_is_read_as_it_was_written(tmp_path):
    task, limits = classes("a", "b", problem="multi_label"), {"a": 0.25, "b": 0.75}
    folder, _, _ = saved(tmp_path / "adapter", task, max_length=24, truncate="tail", thresholds=limits)
    found = adapters.meaning(folder)
    assert found is not None and found == adapters.Meaning(task, limits, 24, "tail", "float32")
    names = {"architectures": ["ForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}
    assert adapters.named(found) == names
    assert adapters.meaning(anonymous(folder)) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.pop("thresholds"),
        lambda x: x.update(version=x.pop("data")),
        lambda x: x.update(thresholds=[0.5]),
        lambda x: x["task"].update(kind="poetry"),
    ],
)
def test_a_meaning_that_cannot_be_read(tmp_path, change):
    folder, _, _ = saved(tmp_path / "adapter", classes(*NAMES))
    values = json.loads((folder / adapters.MEANING).read_text())
    change(values)
    (folder / adapters.MEANING).write_text(json.dumps(values))
    with pytest.raises(
        UserError, match=r"jaxft\.json must hold task, thresholds and data|jaxft\.json: unknown task 'poetry'"
    ):
        adapters.meaning(folder)


@pytest.mark.parametrize(
    ("task", "method", "library", "said"),
    [
        (classes(*NAMES), "lora", "peft", 'AutoModelForSequenceClassification.from_pretrained("a/b", num_labels=3)'),
        (config.SequenceClassification(problem="regression"), "ia3", "peft", "num_labels=1)"),
        (config.QuestionAnswering(), "prefix", "peft", 'AutoModelForQuestionAnswering.from_pretrained("a/b")'),
        (config.SentenceEmbedding(), "lora", "peft", 'AutoModel.from_pretrained("a/b", add_pooling_layer=False)'),
        (classes(*NAMES), "adapter", "jaxft", 'Predictor.open("a/b", adapter="path/to/this/directory")'),
    ],
)
def test_an_adapters_card_says_how_it_is_opened(task, method, library, said):
    e = config.Experiment(task=task, adapt=method, model=config.Model(path="a/b"))
    found = adapters.published(e, ["text"])
    assert found["library"] == library and said in found["usage"]
    compile(found["usage"], "usage", "exec")


def test_what_a_run_leaves(tmp_path, tiny_model, cache):
    """A run of one step: the card and the meaning lie beside the adapter, and it predicts with them."""
    from runs import experiment

    from jaxft import modes

    e = experiment(tiny_model, cache, train={"steps": 1}, data={"shapes": 1})
    e.adapt, e.lora.rank = "lora", 2
    modes.train(e, str(tmp_path / "run"))
    folder = tmp_path / "run" / "adapter"
    meaning = adapters.meaning(folder)
    assert meaning and meaning.max_length == 32
    assert meaning.task == Workdir(tmp_path / "run").experiment().task
    cards: list[Any] = [ModelCard.load(file / "README.md") for file in (folder, tmp_path / "run" / "export")]
    for card, library in zip(cards, ("peft", "transformers"), strict=True):
        assert (card.data.library_name, card.data.metrics) == (library, ["accuracy", "f1", "matthews_correlation",
            "precision", "recall", "roc_auc"])  # fmt: skip
        values = {(r.dataset_split, r.metric_name): r.metric_value for r in card.data.eval_results}
        results = json.loads((tmp_path / "run" / "results.json").read_text())
        for split in ("test", "validation"):
            assert values[f"{split} (carved off train)", "f1_macro"] == results[f"{split}/f1_macro"]
    assert {file.name for file in folder.iterdir()} == {
        adapters.CONFIG, adapters.WEIGHTS, adapters.MEANING, "README.md",
    }  # fmt: skip
    assert len(adapter_config.shapes(folder)) == 2 * 12 + 4
