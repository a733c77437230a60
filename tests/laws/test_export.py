"""Law 6: out as it came in. What is exported loads in the Hugging Face library and gives the same predictions."""

import json

import numpy as np
import pytest
import support
import torch_reference
from runs import experiment, results

from jaxft import models, modes
from jaxft.hub import export
from jaxft.models import nn

TEXTS = ["what a lovely day in the café", "this is the worst phone I ever had", "the meeting is at noon", "ok"]


def _predict(workdir, tmp_path, texts):
    """From a UTF-8 file, whatever the training data are encoded in."""
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    modes.predict(str(workdir), str(tmp_path / "texts.txt"), str(tmp_path / "answers.jsonl"))
    return [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]


def test_pytorch_predicts_the_same(torch, finished, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(finished / "export").eval()
    tokenizer = AutoTokenizer.from_pretrained(finished / "export")
    with torch.no_grad():
        inputs = tokenizer(TEXTS, return_tensors="pt", padding=True, truncation=True, max_length=32)
        probabilities = torch.softmax(model(**inputs).logits, -1).numpy()
    answers = _predict(finished, tmp_path, TEXTS)
    names = [model.config.id2label[i] for i in range(3)]
    assert names == ["negative", "neutral", "positive"]
    ours = [[answer["probabilities"][name] for name in names] for answer in answers]
    np.testing.assert_allclose(ours, probabilities, atol=1e-4)
    assert [a["prediction"] for a in answers] == [names[i] for i in probabilities.argmax(-1)]
    assert [a["text"] for a in answers] == TEXTS


def test_the_checkpoint_and_the_export_are_the_same_parameters(finished, tmp_path):
    from_export = _predict(finished, tmp_path, TEXTS)
    measured = modes.evaluate(str(finished))
    kept = results(finished)
    for name, value in measured.items():
        assert np.isclose(value, kept[name], rtol=1e-5), name
    modes.export(str(finished))
    assert _predict(finished, tmp_path, TEXTS) == from_export


def test_fine_tuning_goes_on_from_an_export(finished, cache, tmp_path, capsys):
    modes.train(experiment(finished / "export", cache), str(tmp_path / "run"))
    said = capsys.readouterr().err
    assert "new (initialized)" not in said and "unused" not in said


@pytest.mark.parametrize("name", support.once(support.TASKS, "regression", "next_sentence", "choices"))
def test_every_task(torch, name: str, tiny_model, tmp_path):
    import transformers

    case, model = support.TASKS[name], models.build(support.SMALL, dropout=0.0)
    params, task = support.random_params(case.task, model, seed=0), case.task
    hf, kind = support.SMALL | support.published(task), f"Bert{task.hf_class or 'Model'}"
    export.export(tmp_path / "export", params, hf, kind, tiny_model, "A small random model.\n")
    theirs = getattr(transformers, f"AutoModel{task.hf_class}").from_pretrained(tmp_path / "export").eval()
    assert type(theirs).__name__ == kind
    features = support.random_features(np.random.default_rng(0), case, [9, 9], support.SMALL)
    host = support.lay_out(features, task, 9, slots=0)
    ours = support.by_example(task.forward(params, model, support.arrays(host), nn.Run()), task, host, features)
    inputs = torch_reference.torch_inputs(features, task, 9)
    with torch.no_grad():
        found = torch_reference.answers(task, theirs, inputs)[1]
    expected = {name: found[name].numpy().reshape(ours[name].shape) for name in task.outputs}
    support.assert_close(ours, expected, 1e-4)
