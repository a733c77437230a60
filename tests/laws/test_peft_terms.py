"""Law 1 for the terms in which `peft` says what an adapter is: they are read as it reads them, or refused by name."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import support
from safetensors.numpy import load_file, save_file

from jaxft import config
from jaxft.errors import UserError
from jaxft.hub import adapter_config, adapters

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
    base = support.torch_model(support.SMALL, case.task, seed=0)
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
    model, params = support.load(folder / "base", case.task, dropout=0.0)
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
        wanted = theirs(**support.torch_inputs(features, support.TASKS["single_label"].task, 24, pad=0)).logits.numpy()
    support.assert_close({"": logits(tmp_path, features)}, {"": wanted}, 1e-4)


def test_a_pooler_that_no_output_depends_on(torch, peft, tmp_path):
    """`all-linear` of the bare body corrects its pooler, which embeddings of tokens do not pass through."""
    from transformers import AutoModel

    case = support.TASKS["embeddings"]
    base = support.torch_model(support.SMALL, case.task, seed=0)
    base.save_pretrained(tmp_path / "base")
    torch.manual_seed(2)
    bare = AutoModel.from_pretrained(tmp_path / "base")
    arguments = KINDS["all-linear"][1] | {"init_lora_weights": False}
    theirs = peft.get_peft_model(bare, peft.LoraConfig(task_type="FEATURE_EXTRACTION", **arguments)).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    assert any(".pooler." in name for name in load_file(tmp_path / "theirs" / adapters.WEIGHTS))
    features = support.random_features(np.random.default_rng(0), case, [9, 24, 4, 7], support.SMALL)
    with torch.no_grad():
        wanted = support.embedded(theirs, support.torch_inputs(features, case.task, 24, pad=0))[1]["embeddings"]
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


def directory(folder: Path, kind: str = "LORA", **values: Any) -> Path:
    """A directory of `peft` with one tensor, to be refused or not before it is read."""
    part = {"LORA": "lora_A.weight", "ADALORA": "lora_A", "IA3": "ia3_l"}.get(kind)
    name = f"{adapter_config.INSIDE}bert.encoder.layer.0.attention.self.query.{part}" if part else adapters.VIRTUAL
    shape = (16, 1) if kind == "IA3" else (8, 16)
    save_file({name: np.ones(shape, np.float32)}, folder / adapters.WEIGHTS)
    known = {"peft_type": kind, "target_modules": ["query"], "num_virtual_tokens": 8} | values
    (folder / adapters.CONFIG).write_text(json.dumps(known))
    return folder


REFUSED: dict[str, Any] = {
    "bias": "lora_only",
    "lora_bias": True,
    "trainable_token_indices": [1, 2],
    "target_parameters": ["weight"],
    "layer_replication": [[0, 2]],
    "alora_invocation_tokens": [5],
    "use_qalora": True,
    "velora_config": {"rank": 1},
    "monteclora_config": {"n": 2},
    "use_bdlora": {"n": 2},
    "arrow_config": {"n": 2},
    "kasa_config": {"n": 2},
    "a_key_of_a_later_version": 1,
    "num_transformer_submodules": 2,
}
"""Keys that change what an adapter computes, in ways that are not there here."""


@pytest.mark.parametrize("key", REFUSED)
def test_a_term_that_cannot_be_read_is_refused_by_name(tmp_path, key):
    with pytest.raises(UserError, match=rf"adapter_config\.json: {key} is "):
        adapters.options(directory(tmp_path, **{key: REFUSED[key]}))


@pytest.mark.parametrize(
    "first", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "of a later version"]
)
def test_an_adapter_that_has_changed_its_base_is_refused(tmp_path, first):
    """Its corrections are of other weights than those of the base: together they would be wrong."""
    with pytest.raises(UserError, match=f"init_lora_weights is '{first}', which has changed the base model's weights"):
        adapters.options(directory(tmp_path, init_lora_weights=first))


@pytest.mark.parametrize(("kind", "name"), [
    ("LORA", "LoraConfig"), ("ADALORA", "AdaLoraConfig"), ("IA3", "IA3Config"),
    ("PROMPT_TUNING", "PromptTuningConfig"), ("PREFIX_TUNING", "PrefixTuningConfig"),
])  # fmt: skip
def test_every_key_of_peft_is_read_or_without_effect_or_refused(peft, tmp_path, kind, name):
    """None is new since this was written; those that are refused may be there with their default."""
    options = getattr(peft, name)(num_virtual_tokens=8) if "TUNING" in kind else getattr(peft, name)(
        target_modules=["query"], **({"total_step": 9} if kind == "ADALORA" else {})
    )  # fmt: skip
    keys = {field.name for field in dataclasses.fields(options)}
    assert keys <= adapter_config.READ | adapter_config.WITHOUT_EFFECT | REFUSED.keys()
    assert not (adapter_config.READ | adapter_config.WITHOUT_EFFECT) & REFUSED.keys() - {
        "bias", "num_transformer_submodules",
    }  # fmt: skip
    options.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / adapters.CONFIG).read_text())
    assert adapters.options(directory(tmp_path, **(saved | {"kind": kind})))["adapt"]


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        ("LORA", {"r": 0}, "r is 0; it must be a number above 0"),
        ("LORA", {"lora_alpha": "8"}, "lora_alpha is '8'; it must be a number"),
        ("PROMPT_TUNING", {"num_virtual_tokens": None}, "num_virtual_tokens is None; it must be a number"),
        ("JAXFT", {}, "must hold `method` and `options`"),
        ("JAXFT", {"method": "adapters", "options": {}}, "must hold `method` and `options`"),
    ],
)
def test_a_config_that_is_broken(tmp_path, kind, values, said):
    with pytest.raises(UserError, match=said):
        adapters.options(directory(tmp_path, kind, **values))


def test_what_peft_leaves_out_is_its_default(tmp_path):
    lora = adapters.options(directory(tmp_path))["lora"]
    assert (lora.rank, lora.alpha, lora.dropout, lora.targets) == (8, 8.0, 0.0, ("query",))
    adalora = adapters.options(directory(tmp_path, "ADALORA", deltaT=3, beta1=0.5, beta2=0.6, orth_reg_weight=0.1))
    assert adalora["adalora"] == config.AdaLora(
        rank=12, target=8, every=3, beta1=0.5, beta2=0.6, orthogonality=0.1, targets=("query",)
    )


def test_corrections_outside_the_body_alone(tmp_path):
    save_file(
        {f"{adapter_config.INSIDE}bert.pooler.dense.lora_A.weight": np.ones((8, 16), np.float32)},
        directory(tmp_path) / adapters.WEIGHTS,
    )
    with pytest.raises(UserError, match=r"no layer of the model's body has a lora_A"):
        adapters.options(tmp_path)


def test_a_pattern_is_for_the_end_of_a_name():
    values = {"rank_pattern": {"query": 1, "key": 2, "1.*value": 3}, "r": 8}
    names = ("layer.0.query", "query", "layer.0.subquery", "layer.0.key.x", "layer.1.self.value", "layer.0.self.value")
    assert [adapter_config.rank_of(values, name) for name in names] == [1, 1, 8, 8, 3, 8]


def test_ranks_that_the_config_does_not_say(torch, peft, tmp_path):
    """Two ways to say a rank that disagree: the scale would be wrong."""
    _, features = made(torch, peft, tmp_path, "ranks and scales")
    file = tmp_path / "theirs" / adapters.CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rank_pattern": {"query": 5}}))
    with pytest.raises(UserError, match=r"lora_A of bert\..* has \d ranks; adapter_config\.json says \d"):
        logits(tmp_path, features)


def test_a_part_of_the_head_that_should_be_there(torch, peft, tmp_path):
    _, features = made(torch, peft, tmp_path, "gaussian")
    tensors = load_file(tmp_path / "theirs" / adapters.WEIGHTS)
    kept = {name: x for name, x in tensors.items() if not name.endswith("classifier.bias")}
    assert len(kept) == len(tensors) - 1
    save_file(kept, tmp_path / "theirs" / adapters.WEIGHTS)
    with pytest.raises(UserError, match=r"classifier\.bias is missing, which modules_to_save says it holds"):
        logits(tmp_path, features)
