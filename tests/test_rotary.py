"""Architectures with rotary positions: variants of their config.json, and what checkpoints on the Hub call things."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support
import torch_reference
from safetensors.numpy import load_file, save_file

from jaxft import hub, models
from jaxft.errors import UserError
from jaxft.hub import export
from jaxft.models import nn

ROTARY = ("eurobert", "nomic_bert", "gte", "new", "jina_embeddings_v3")
EUROBERT, NOMIC, NEW = (support.ARCHITECTURES[kind] for kind in ("eurobert", "nomic_bert", "new"))
TEXTS = support.TASKS["single_label"]


def rope(kind: str, **keys: object) -> nn.Rope:
    bare = {k: v for k, v in support.ARCHITECTURES[kind].items() if not k.startswith("rope")}
    return models.build(bare | keys).cfg.rope


@pytest.mark.parametrize("kind", ROTARY)
def test_theta_is_read_as_transformers_4_and_5_write_it(kind: str):
    default = {"eurobert": 1e4, "nomic_bert": 1e3, "gte": 1.6e5, "new": 1e4, "jina_embeddings_v3": 2e4}[kind]
    assert rope(kind) == rope(kind, rope_scaling=None) == nn.Rope(default)
    seven = nn.Rope(7)
    assert rope(kind, rope_theta=7) == rope(kind, rope_parameters={"rope_theta": 7, "rope_type": "default"}) == seven
    assert rope(kind, rope_theta=7, rope_scaling={"type": "linear", "factor": 4}) == nn.Rope(7, 4)
    assert rope(kind, rope_theta=7, rope_scaling={"type": "dynamic", "factor": 4}) == seven
    computed = "dynamic, llama3 or yarn" if kind == "eurobert" else "or dynamic"
    with pytest.raises(UserError, match=rf"rope_type must be default, linear,? {computed}; 'longrope' is not"):
        rope(kind, rope_parameters={"rope_type": "longrope", "factor": 4})
    with pytest.raises(UserError, match="partial_rotary_factor must be 1"):
        rope(kind, partial_rotary_factor=0.5)
    with pytest.raises(UserError, match=r"and the size of a head, 3, even"):
        rope(kind, hidden_size=3 * support.ARCHITECTURES[kind]["num_attention_heads"])


def test_ntk_is_what_the_code_on_the_hub_computes():
    """Its angles, at positions of any length: theta times the factor, and all of them by one more number."""
    theta, factor, dim = 30.0, 8.0, 8
    expected = np.arange(5)[:, None] / (theta * factor) ** (np.arange(0, dim, 2) / dim) / factor ** (2 / dim)
    read = rope("new", rope_theta=theta, rope_scaling={"type": "ntk", "factor": factor})
    turn = nn.Rotation.of(jnp.arange(5)[None], dim, read)
    np.testing.assert_allclose(turn.cos[0, :, 0], np.cos(expected), atol=1e-6)
    np.testing.assert_allclose(turn.sin[0, :, 0], np.sin(expected), atol=1e-6)
    with pytest.raises(UserError, match=r"mixed_b must be null; 0\.5 is not supported"):
        rope("new", rope_scaling={"type": "ntk", "factor": 2, "mixed_b": 0.5})


VARIANTS = [
    ("single_label", {"classifier_pooling": "bos"}),
    ("single_label", {"classifier_pooling": "mean", "head_dim": 6, "attention_bias": True}),
    ("masked_lm", {"mlp_bias": True}),
    ("masked_lm", {"tie_word_embeddings": True, "num_key_value_heads": None}),
]


@pytest.mark.parametrize(("name", "keys"), VARIANTS, ids=[f"{name}-{'-'.join(keys)}" for name, keys in VARIANTS])
def test_variants_of_eurobert(torch, name: str, keys: dict[str, object], tmp_path):
    case, hf, lengths = support.TASKS[name], EUROBERT | keys, [7, 3, 9, 5]
    features = support.random_features(np.random.default_rng(0), case, lengths, hf)
    theirs = torch_reference.torch_model(hf, case.task, seed=0)
    theirs.save_pretrained(tmp_path)
    model, params = torch_reference.load(tmp_path, case.task)
    inputs = torch_reference.torch_inputs(features, case.task, max(lengths))
    host = support.lay_out(features, case.task, 12, slots=0)
    torch_reference.assert_parity(theirs, inputs, case.task, model, params, features, host)


@pytest.mark.parametrize(
    ("hf", "message"),
    [
        (EUROBERT | {"classifier_pooling": "last"}, "classifier_pooling must be one of bos, mean, late"),
        (EUROBERT | {"num_key_value_heads": 3}, "num_attention_heads must be a multiple of num_key_value_heads"),
        (NOMIC | {"num_experts": 8}, "num_experts must be 0; 8 is not supported"),
        (NOMIC | {"prenorm": True}, "prenorm must be false; true is not supported"),
        (NOMIC | {"activation_function": "gelu"}, "activation_function 'gelu'; did you mean"),
        (NOMIC | {"head_dim": 4}, "head_dim must be hidden_size / num_attention_heads, 8"),
        (NEW | {"pack_qkv": False}, "pack_qkv must be true; false is not supported"),
        (NEW | {"position_embedding_type": "absolute"}, 'must be "rope"; "absolute" is not supported'),
    ],
)
def test_what_is_not_computed_is_refused(hf: dict[str, object], message: str):
    with pytest.raises(UserError, match=message):
        models.build(hf)


def test_nomic_of_the_code_on_the_hub():
    """Its own keys, where those of transformers are missing."""
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 24, "n_positions": 80, "max_trained_positions": 28}
    rates = {"resid_pdrop": 0.1, "attn_pdrop": 0.0, "embd_pdrop": 0.2}
    own = {"layer_norm_epsilon": 1e-3, "rotary_emb_base": 50, "activation_function": "swiglu", "causal": False}
    kept = {"model_type": "nomic_bert", "vocab_size": 40, "type_vocab_size": 2}
    expected = NOMIC | {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.2}
    assert models.build(kept | sizes | rates | own) == models.build(expected)
    assert models.build(expected | {"n_embd": 8, "resid_pdrop": 0.7}) == models.build(expected)


@pytest.mark.parametrize(("kind", "other"), [("nomic_bert", "bert"), ("gte", "new")])
def test_a_body_is_found_by_its_older_name(kind: str, other: str, tiny_model, tmp_path):
    hf, task = support.ARCHITECTURES[kind], TEXTS.task
    model = models.build(hf)
    spec, params = task.param_spec(model), support.random_params(task, model, seed=0)
    export.export(tmp_path, params, hf, model.hf_class(task.hf_class), tiny_model, "A model.\n")
    stored = {torch_reference.renamed(k, kind, other): x for k, x in load_file(tmp_path / "model.safetensors").items()}
    assert any(name.startswith(f"{other}.") for name in stored)
    save_file(stored, tmp_path / "model.safetensors")
    found, accounting = hub.load_parameters(tmp_path, spec, key=jax.random.key(0), base_prefix=model.prefix)
    assert not accounting.missing and not accounting.unused
    assert all((x == nn.flatten(params)[path]).all() for path, x in nn.flatten(found).items())


@pytest.mark.parametrize("kind", [kind for kind in ROTARY if kind != "new"])
def test_an_export_opens_in_transformers(torch, kind: str, tiny_model, tmp_path):
    """Which splits and renames what a checkpoint of the Hub has."""
    from transformers import AutoModelForSequenceClassification

    hf, lengths = support.ARCHITECTURES[kind], [4, 7]
    model, features = models.build(hf), support.random_features(np.random.default_rng(0), TEXTS, lengths, hf)
    params, settings = support.random_params(TEXTS.task, model, seed=0), hf | support.published(TEXTS.task)
    export.export(tmp_path, params, settings, model.hf_class(TEXTS.task.hf_class), tiny_model, "A model.\n")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path, attn_implementation="eager").eval()
    inputs = torch_reference.torch_inputs(features, TEXTS.task, max(lengths), hf.get("pad_token_id", 0))
    host = support.lay_out(features, TEXTS.task, max(lengths))
    _, outputs, _ = support.ours(TEXTS.task, model, params, host.arrays)
    with torch.no_grad():
        expected = theirs(**torch_reference.read_by(theirs, inputs)).logits.numpy()
    taken = support.by_example(outputs, TEXTS.task, host, features)["logits"]
    np.testing.assert_allclose(taken, expected, atol=1e-4 * abs(expected).max())
