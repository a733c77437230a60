"""Law 1 for the terms in which `peft` says what an adapter is: they are read as it reads them, or refused by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import support
import torch_reference
from safetensors.numpy import load_file

from jaxft.hub import adapters

LORA = {"r": 2, "lora_alpha": 3}
UNEVEN = {
    "rank_pattern": {"layer.1.attention.self.query": 4, "pooler.dense": 3, "query": 1},
    "alpha_pattern": {r"0\..*\.query": 7, "value": 1},
}
IA3_PATTERNS = {"target_modules": r".*\.(key|dense)", "feedforward_modules": r".*\.output\.dense"}

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "all-linear": ("LoraConfig", LORA | {"target_modules": "all-linear"}),
    "a regular expression": ("LoraConfig", LORA | {"target_modules": r".*layer\.1\..*\.(query|value)"}),
    "a name of several layers": ("LoraConfig", LORA | {"target_modules": ["dense", "absent"]}),
    "some layers": ("LoraConfig", LORA | {"target_modules": ["query", "dense"], "layers_to_transform": [1]}),
    "one layer": (
        "LoraConfig",
        LORA | {"target_modules": ["query"], "layers_to_transform": 0, "layers_pattern": "layer"},
    ),
    "all but": (
        "LoraConfig",
        LORA | {"target_modules": ["query", "dense"], "exclude_modules": ["attention.output.dense", "pooler.dense"]},
    ),
    "ranks and scales": ("LoraConfig", LORA | UNEVEN | {"target_modules": ["query", "value", "pooler.dense"]}),
    "ranks and scales, rslora": (
        "LoraConfig",
        LORA | UNEVEN | {"target_modules": "all-linear", "use_rslora": True, "fan_in_fan_out": True},
    ),
    "ranks and scales, dora": (
        "LoraConfig",
        LORA | UNEVEN | {"target_modules": ["query", "value", "pooler.dense"], "use_dora": True},
    ),
    "gaussian": ("LoraConfig", LORA | {"target_modules": ["key"], "init_lora_weights": "gaussian"}),
    "adalora, all-linear": (
        "AdaLoraConfig",
        {"init_r": 3, "target_r": 2, "total_step": 10, "tfinal": 3, "tinit": 1, "target_modules": "all-linear"},
    ),
    "ia3, regular expressions": ("IA3Config", IA3_PATTERNS),
    "ia3, names of several layers": (
        "IA3Config",
        {"target_modules": ["key", "attention.output.dense", "dense"], "feedforward_modules": ["dense"]},
    ),
    "prefix, projected": (
        "PrefixTuningConfig",
        {"num_virtual_tokens": 3, "prefix_projection": True, "encoder_hidden_size": 5},
    ),
    "prompt, of a text": ("PromptTuningConfig", {"num_virtual_tokens": 2, "prompt_tuning_init": "SAMPLE_VOCAB"}),
}
"""`peft`'s class of a method, and its arguments."""

ONCE = ("all-linear", "some layers", "ranks and scales, dora", "ia3, regular expressions", "prefix, projected")


@pytest.fixture(scope="module")
def peft(torch):
    return pytest.importorskip("peft", reason="the reference, peft, is not installed")


def made(torch, peft, folder: Path, kind: str) -> tuple[Any, Any]:
    """A small classifier with an adapter of `peft` and random values in it, saved; the model, and four examples."""
    case = support.TASKS["single_label"]
    base = torch_reference.torch_model(support.SMALL, case.task, seed=0)
    base.save_pretrained(folder / "base")
    name, arguments = KINDS[kind]
    options = getattr(peft, name)(task_type="SEQ_CLS", **arguments)
    theirs = peft.get_peft_model(base, options).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    theirs.save_pretrained(folder / "theirs")
    return theirs, support.random_features(np.random.default_rng(0), case, [9, 24, 4, 7], support.SMALL)


def logits(folder: Path, features: Any) -> np.ndarray:
    return outputs(folder, support.TASKS["single_label"], features)["logits"]


def outputs(folder: Path, case: support.Case, features: Any) -> dict[str, np.ndarray]:
    """What is computed here from the directory `theirs` on the model `base`."""
    model, params = torch_reference.load(folder / "base", case.task, dropout=0.0)
    composed = support.compose(case.task, model, **adapters.options(folder / "theirs"))
    trainable, frozen = composed.split(params)
    trainable = adapters.read(folder / "theirs", composed, trainable)
    host = support.lay_out(features, case.task, 24, slots=0)
    found = composed.eval_step((trainable, frozen), support.arrays(host)).outputs
    return support.by_example(found, case.task, host, features)


@pytest.mark.parametrize("kind", support.once(KINDS, *ONCE))
def test_terms_of_peft_mean_the_same(torch, peft, tmp_path, kind: str):
    theirs, features = made(torch, peft, tmp_path, kind)
    with torch.no_grad():
        wanted = theirs(
            **torch_reference.torch_inputs(features, support.TASKS["single_label"].task, 24, pad=0)
        ).logits.numpy()
    support.assert_close({"": logits(tmp_path, features)}, {"": wanted}, 1e-4)


def test_a_pooler_that_no_output_depends_on(torch, peft, tmp_path):
    """`all-linear` of the bare body corrects its pooler, which embeddings of tokens do not pass through."""
    from transformers import AutoModel

    case = support.TASKS["embeddings"]
    base = torch_reference.torch_model(support.SMALL, case.task, seed=0)
    base.save_pretrained(tmp_path / "base")
    torch.manual_seed(2)
    bare = AutoModel.from_pretrained(tmp_path / "base")
    arguments = KINDS["all-linear"][1] | {"init_lora_weights": False}
    theirs = peft.get_peft_model(bare, peft.LoraConfig(task_type="FEATURE_EXTRACTION", **arguments)).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    assert any(".pooler." in name for name in load_file(tmp_path / "theirs" / adapters.WEIGHTS))
    features = support.random_features(np.random.default_rng(0), case, [9, 24, 4, 7], support.SMALL)
    with torch.no_grad():
        wanted = torch_reference.embedded(theirs, torch_reference.torch_inputs(features, case.task, 24, pad=0))[1][
            "embeddings"
        ]
    found = outputs(tmp_path, case, features)
    support.assert_close(found, {"embeddings": wanted.numpy()}, 1e-4)


@pytest.mark.parametrize("written", ["all-linear", "All-Linear", None, r".*(query|key|value|dense)"])
def test_layers_are_those_that_have_a_correction(torch, peft, tmp_path, written):
    """However a directory names them: `peft` writes `all-linear` as a list; by hand it may be a word."""
    made(torch, peft, tmp_path, "all-linear")
    file = tmp_path / "theirs" / adapters.CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | {"target_modules": written}))
    read = adapters.options(tmp_path / "theirs")["lora"]
    everything = isinstance(written, str) and written.lower() == "all-linear"
    assert len(read.targets) == (0 if everything else 12)
    assert not any("pooler" in path for path in read.targets)
