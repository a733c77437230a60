"""What the modes of the command line decide and say by themselves: nothing is compiled or trained."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support
from runs import experiment

from jaxft import config
from jaxft.errors import UserError
from jaxft.hub import adapter_config
from jaxft.job import Job, prepare
from jaxft.modes import exporting, extending, training
from jaxft.modes.predicting import opened, predict
from jaxft.modes.watching import watched
from jaxft.pretrained import load
from jaxft.report.progress import Progress
from jaxft.report.tensorboard import TensorBoard
from jaxft.report.watch import Watch
from jaxft.storage import fingerprint
from jaxft.storage.workdir import Workdir
from jaxft.train.checkpoint import Checkpoints
from jaxft.train.loop import Position
from jaxft.trained import best_weights


@pytest.fixture(scope="module")
def job(tiny_model, cache) -> Job:
    e = experiment(tiny_model, cache, train={"patience": 2, "eval_every": 5})
    return prepare(config.check(e))


def test_what_is_said_before_the_first_step(job, tmp_path):
    said = training._facts(job, Workdir(tmp_path / "run"))
    assert said["devices"] == "1 device (cpu), float32" and said["run"] == f"{job.experiment.name}  ({tmp_path}/run)"
    assert said["steps"] == "10 of 16 examples (1.00 epochs)"
    assert said["model"].endswith("M parameters, 100% learn")


def test_what_is_told_while_it_trains(job, tmp_path, monkeypatch):
    """Which run it is, how far it is, when a step was made, and what is logged; where somebody asks, he is told."""
    now, position, folder = 5.0, Position(step=4), Workdir(tmp_path / "run")
    monkeypatch.setattr("time.monotonic", lambda: now)
    asks = Watch()
    token = watched.set(asks)
    try:
        assert training._watched(dataclasses.replace(job, steps=25), folder, position) is asks
    finally:
        watched.reset(token)
    path = job.experiment.model.path
    assert asks.info == {"run": "tiny", "model": path, "task": "sequence_classification", "version": "0.1.0"}
    assert (asks.steps, asks.steps_per_epoch, asks.step(), asks.stepped) == (25, 10, 4, 5.0)
    unnamed = dataclasses.replace(job, experiment=dataclasses.replace(job.experiment, name=""))
    nobody = training._watched(unnamed, folder, position)
    assert nobody is not asks and nobody.info["run"] == str(folder)
    now = 7.0
    step = training._timed(job.train_step(), position, 0.0, asks)
    assert asks.stepped == 5.0
    (_, batch), *_ = job.feed("train").train(job.order, 0, 1)
    step(job.program.init(load(job.body.directory, job.program, 0, "")[0]), batch)
    assert asks.stepped == 7.0
    board, progress = TensorBoard(folder.tensorboard, 1), Progress(10, quiet=True)
    log = training._log(folder, board, progress, "accuracy", asks)
    assert log(3, "train", {"loss": 1.0}) < log(3, "validation", {"loss": 2.0, "accuracy": 0.5})
    board.close()
    assert asks.values == {"loss": 1.0} and asks.evaluations == {"validation": {"loss": 2.0, "accuracy": 0.5}}


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({"r_drop": 1.0}, 2),
        ({"neftune": 5.0, "adversarial": "fgm"}, 2),
        ({"adversarial": "freelb", "adversarial_steps": 4, "r_drop": 1.0}, 10),
        ({"adversarial": "pgd", "adversarial_weight": 0.0}, 1),
        ({"adversarial": "smart", "adversarial_steps": 2}, 4),
        ({"adversarial": "vat", "adversarial_steps": 1, "r_drop": 1.0}, 6),
    ],
)
def test_the_cost_of_transforms_is_said_before_the_first_step(job, tmp_path, options, passes):
    e = dataclasses.replace(job.experiment, objective=config.Objective(**options))
    said = training._facts(dataclasses.replace(job, experiment=e), Workdir(tmp_path / "run"))["steps"]
    each = f", {passes} passes forward and backward each" if passes > 1 else ""
    assert said == f"10 of 16 examples (1.00 epochs){each}"
    host, _ = next(iter(job.feed("train").train(job.order, 0, 1)))
    assert dataclasses.replace(job, experiment=e).work()(host) == passes * job.work()(host)


@pytest.mark.parametrize("peak", [None, 4e9])
def test_figures_of_a_training(job, peak):
    position = Position(step=10, seconds=4.0, flops=8e9, examples=120, tokens=1500, positions=2000, waited=1.0)
    position.seconds_to_first_step = 2.5
    state = job.program.state.replace(skipped=jnp.asarray(3))
    assert training._training(job, position, state, peak) == {
        **({"train/model_flops_utilization": 0.5} if peak else {}),
        "train/steps": 10,
        "train/examples_per_second": 30.0,
        "train/real_tokens_per_second": 375.0,
        "train/padding_fraction": 0.25,
        "train/input_wait_fraction": 0.25,
        "train/seconds": 4.0,
        "train/seconds_to_first_step": 2.5,
        "train/skipped": 3,
        "train/compiled_shapes": len(job.shapes),
    }


def with_train(job: Job, **train: Any) -> Job:
    e = dataclasses.replace(job.experiment, train=dataclasses.replace(job.experiment.train, **train))
    return dataclasses.replace(job, experiment=e, steps=e.train.epochs * job.order.batches_per_epoch)


LENGTHS: dict[str, tuple[dict[str, Any], int, bool]] = {
    "more epochs": ({"epochs": 2}, 10, True),
    "more epochs, stopped by patience": ({"epochs": 2}, 5, True),
    "more patience, stopped by it": ({"patience": 3}, 5, True),
    "no patience, stopped by it": ({"patience": 0}, 5, True),
    "more epochs and more patience": ({"epochs": 2, "patience": 3}, 10, True),
    "more patience, not stopped": ({"patience": 3}, 10, False),
    "less patience": ({"patience": 1}, 5, False),
}
"""What differs, and how many of ten steps the run that is there has made: whether it can be made longer by that."""


@pytest.mark.parametrize(("train", "made", "longer"), LENGTHS.values(), ids=LENGTHS)
def test_whether_a_run_is_made_longer(job, tmp_path, train, made, longer):
    folder = Workdir(tmp_path / "run")
    folder.claim(job.experiment, overwrite=False)
    folder.write_results({"train/steps": made})
    assert not extending.is_longer(folder, job), "the same run"
    if longer:
        assert extending.is_longer(folder, with_train(job, **train))
        return
    with pytest.raises(UserError, match="10 steps"):
        extending.is_longer(folder, with_train(job, **train))


def test_a_run_that_is_shorter_or_another_is_not_made_longer(job, tmp_path):
    folder = Workdir(tmp_path / "run")
    folder.claim(with_train(job, epochs=2).experiment, overwrite=False)
    with pytest.raises(UserError, match="20 steps"):
        extending.is_longer(folder, job)
    other = with_train(job, epochs=3, batch_size=6)
    with pytest.raises(UserError, match=r"--extend: .* holds a different experiment \(.*batch_size"):
        extending.is_longer(folder, other)


def test_a_metric_that_there_is_not_is_told_before_the_first_step(tiny_model, cache, tmp_path):
    e = experiment(tiny_model, cache, train={"metric": "f1_makro"})
    with pytest.raises(UserError, match=r"config\.train\.metric is 'f1_makro'.*did you mean 'f1_macro'"):
        training.train(e, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_an_input_that_is_not_there_is_told_before_the_run_is_opened(tmp_path):
    with pytest.raises(UserError, match=r"--input: there is no .*none\.csv"):
        predict(str(tmp_path / "no run"), str(tmp_path / "none.csv"))


def test_an_export_and_its_adapter_are_written(tiny_model, cache, tmp_path):
    """Each with a card of its own: of the model it makes, and of the base that the adapter is put on."""
    e = experiment(tiny_model, cache)
    e.adapt, e.lora = "lora", config.Lora(rank=2)
    job, folder = prepare(config.check(e)), Workdir(tmp_path / "run")
    weights = job.program.split(support.random_params(job.task, job.body.model, seed=0))
    exporting.write_export(exporting.Trained.of(job), folder, weights, {}, {"test/accuracy": 0.5})
    model, adapter = ((path / "README.md").read_text() for path in (folder.export, folder.adapter))
    assert "library_name: transformers" in model and "library_name: peft" in adapter
    assert f'from_pretrained("{tiny_model}", num_labels=' in adapter
    assert (folder.export / "model.safetensors").exists() and (folder.adapter / "adapter_model.safetensors").exists()
    assert adapter_config.method_of(folder.adapter) == "lora"


def test_the_best_checkpoint_of_an_adapter_is_put_on_its_base(tiny_model, cache, tmp_path):
    """Which is in no checkpoint: it is read again, its new head by the seed of the run."""
    e = experiment(tiny_model, cache)
    e.adapt, e.lora, e.seed = "lora", config.Lora(rank=2), 3
    job, folder = prepare(config.check(e)), Workdir(tmp_path / "run")
    folder.claim(job.experiment, overwrite=False)
    state = job.program.init(load(job.body.directory, job.program, 3)[0])
    origin = {"frozen": fingerprint.of_params(state.frozen)}
    checkpoints = Checkpoints(folder.checkpoints, keep=2, origin=origin)
    position = {"step": 1, "best_step": 1, "validated": {"threshold/a": 0.25, "accuracy": 0.5}}
    checkpoints.save(state, position, 1)
    checkpoints.wait()
    checkpoints.close()
    weights, thresholds = best_weights(folder, job.program, job.body.directory, checkpoint=True)
    jax.tree.map(np.testing.assert_array_equal, weights, (state.trainable, state.frozen))
    assert thresholds == {"a": 0.25}


def test_a_run_that_has_not_been_made_longer_has_no_record_of_it(finished):
    """And holds no more than it says."""
    assert Workdir(finished).extensions() == []
    assert {entry.name for entry in finished.iterdir()} == {
        *("config.json", "metrics.jsonl", "results.json", "checkpoints", "export", "report", "tensorboard"),
    }


def test_what_is_not_written_whole_is_not_there(tmp_path):
    file = tmp_path / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt), opened(str(file)) as out:
        out.write("half\n")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with opened(str(file)) as out:
        out.write("wholly\n")
        assert list(tmp_path.iterdir()) == [Path(out.name)] != [file]
    assert list(tmp_path.iterdir()) == [file] and file.read_text() == "wholly\n"
    with (
        pytest.raises(UserError, match=r"--output .*: Is a directory; choose a file that can be written"),
        opened(str(tmp_path)),
    ):
        pass
