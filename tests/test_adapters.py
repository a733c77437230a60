"""Runs of methods that add to the model: resumed, exported, predicted with by their adapter alone, gone on from one."""

import json
import os
import signal

import jax
import numpy as np
import pytest
from runs import experiment, lines, results, weights, write_config

from jaxft import Predictor, cli, config, modes
from jaxft.errors import UserError
from jaxft.hub import adapters
from jaxft.hub.weights import open_weights
from jaxft.modes import shared
from jaxft.serve.models import name_of, open_all, read_adapters
from jaxft.train import loop


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, tiny_model, cache):
    """The experiment of a short run of LoRA, and its folder."""

    def build() -> config.Experiment:
        e = experiment(tiny_model, cache)
        e.adapt, e.lora.dora, e.lora.targets, e.lora.dropout = "lora", True, ("query", "output/dense"), 0.1
        return e

    workdir = tmp_path_factory.mktemp("tuned") / "run"
    modes.train(build(), str(workdir))
    return build, workdir


def predict(workdir, tmp_path, **keys) -> np.ndarray:
    (tmp_path / "texts.txt").write_text("what a lovely day\nthe meeting is at noon\n")
    modes.predict(str(workdir), str(tmp_path / "texts.txt"), str(tmp_path / "answers.jsonl"), **keys)
    found = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    return np.asarray([list(answer["probabilities"].values()) for answer in found])


@pytest.mark.matrix
def test_resuming_is_exact(tuned, tmp_path, monkeypatch):
    """Stopped at the first evaluation; the base model is read again, and what learns from the checkpoint."""
    build, whole = tuned
    plain = shared.run_evaluation

    def cut_off(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return plain(*args)

    with monkeypatch.context() as patch, pytest.raises(loop.Preempted, match="at step 5"):
        patch.setattr(shared, "run_evaluation", cut_off)
        modes.train(build(), str(tmp_path / "run"))
    modes.train(build(), str(tmp_path / "run"))
    assert (lines(tmp_path / "run"), results(tmp_path / "run")) == (lines(whole), results(whole))
    assert weights(tmp_path / "run") == weights(whole)


def test_the_adapter_predicts_as_the_export(tuned, tiny_model, tmp_path):
    workdir = tuned[1]
    merged, apart = predict(workdir, tmp_path), predict(workdir, tmp_path, adapter=str(workdir / "adapter"))
    np.testing.assert_allclose(apart, merged, atol=1e-5)
    assert abs(merged - 1 / 3).max() > 1e-3
    assert (workdir / "adapter" / adapters.WEIGHTS).stat().st_size < 60_000
    ours, base = (open_weights(folder, "bert") for folder in (workdir / "export", tiny_model))
    everything = (slice(None), slice(None))
    same = {
        path: bool((ours.read(path, everything) == base.read(path, everything)).all())
        for path in (f"bert/encoder/layer/0/attention/self/{name}/kernel" for name in ("query", "key"))
    }
    assert list(same.values()) == [False, True]


def test_adapters_are_served_by_name_on_one_base(tuned, tiny_model, capsys):
    """The base, which has no head, is not served by itself; what is frozen is there once."""
    workdir = tuned[1]
    given = read_adapters(f"first={workdir / 'adapter'},second={workdir / 'adapter'}")
    served = open_all(str(tiny_model), given)
    assert list(served) == ["first", "second"]
    assert f"{name_of(str(tiny_model))} is not served by itself: " in capsys.readouterr().err
    texts = ["what a lovely day", "the meeting is at noon"]
    wanted = [answer["probabilities"] for answer in Predictor.open(workdir)(texts)]
    for predictor in served.values():
        found = [answer["probabilities"] for answer in predictor(texts)]
        for one, other in zip(found, wanted, strict=True):
            assert one == pytest.approx(other, abs=1e-5)
    first, second = (jax.tree.leaves(vars(predictor.engine)["weights"]) for predictor in served.values())
    assert len(first) == len(second) and all(one is other for one, other in zip(first, second, strict=True))
    with pytest.raises(UserError, match=r"is the name of --workdir .* itself; give the adapter another name"):
        open_all(str(tiny_model), {name_of(str(tiny_model)): str(workdir / "adapter")})


def test_training_goes_on_from_an_adapter_of_peft(torch, tiny_model, cache, tmp_path):
    """On the command line; one step at a rate of 0 leaves it as it was, and its method and rank are taken over."""
    peft = pytest.importorskip("peft", reason="the reference, peft, is not installed")
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3)
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=3, target_modules=["query"], modules_to_save=["classifier", "pooler"])
    theirs = peft.get_peft_model(base, lora)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    theirs.save_pretrained(tmp_path / "theirs")
    file = write_config(tmp_path / "tiny.py", experiment(tiny_model, cache, train={"steps": 1}, data={"shapes": 1}))
    changes = {"model.adapter": tmp_path / "theirs", "optimizer.learning_rate": 0.0}
    keys = [f"--config.{key}={value}" for key, value in changes.items()]
    assert cli.main(["run.py", f"--config={file}", f"--workdir={tmp_path / 'run'}", *keys], None) == 0
    ours = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (ours["adapt"], ours["lora"]["rank"], ours["lora"]["targets"]) == ("lora", 3, ["query"])
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "export").state_dict()
    for name, x in theirs.merge_and_unload().state_dict().items():
        np.testing.assert_allclose(merged[name], x.detach(), atol=1e-6, err_msg=name)
