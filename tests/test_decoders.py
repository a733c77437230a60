"""Decoders: variants of their config.json, rotations stretched to longer texts, and where their classes look."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import support
import torch_reference

from jaxft import batch, config, hub, job, kernels, models, sharding
from jaxft.errors import UserError
from jaxft.models import nn

LLAMA, QWEN2, SMOLLM = (support.ARCHITECTURES[kind] for kind in ("llama", "qwen2", "smollm3"))
GEMMA, ETTIN = (support.ARCHITECTURES[kind] for kind in ("gemma3_text", "modernbert-decoder"))
STRETCHED = {"rope_theta": 500.0, "factor": 8.0, "original_max_position_embeddings": 64}
LLAMA3 = {"rope_type": "llama3", **STRETCHED, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", **STRETCHED}


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "default", "rope_theta": 300.0},
        {"rope_type": "linear", "rope_theta": 300.0, "factor": 3.0},
        LLAMA3,
        LLAMA3 | {"low_freq_factor": 0.5, "high_freq_factor": 2.5},
        YARN,
        YARN | {"beta_fast": 4.0, "beta_slow": 2.0, "attention_factor": 1.5},
        YARN | {"truncate": False, "mscale": 0.7, "mscale_all_dim": 0.3},
        YARN | {"factor": 1.0},
        YARN | {"beta_fast": 1e-3, "beta_slow": 1e-4},
    ],
    ids=lambda scaling: "-".join(f"{value}" for value in scaling.values()),
)
def test_heads_turn_as_those_of_transformers(torch, scaling: dict[str, Any]):
    """The angle a position of each pair, and what cosines and sines are multiplied by; of heads of 32 numbers."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    hf = LLAMA | {"head_dim": 32, "max_position_embeddings": 512, "rope_parameters": scaling}
    theirs = torch_reference.hf_settings(hf)
    kind = scaling["rope_type"]
    if kind == "default":
        wanted, scale = 300.0 ** -(np.arange(16) / 16), 1.0
    else:
        wanted, scale = ROPE_INIT_FUNCTIONS[kind](theirs, "cpu")
    found = models.build(hf).cfg.rope
    np.testing.assert_allclose(found.rates(32), np.asarray(wanted), rtol=1e-5)
    assert found.scale == pytest.approx(scale)


def test_where_the_length_of_training_stands():
    """Beside the scaling before it, and else what positions there are."""
    of = lambda **keys: models.build({**LLAMA, "head_dim": 32, **keys}).cfg.rope  # noqa: E731
    beside = {"rope_parameters": YARN | {"original_max_position_embeddings": 16}}
    assert of(**beside, original_max_position_embeddings=64) == of(rope_parameters=YARN) != of(**beside)
    bare = {key: value for key, value in YARN.items() if not key.startswith("original")}
    assert of(rope_parameters=bare, max_position_embeddings=64) == of(rope_parameters=YARN)


def test_a_rotation_is_scaled():
    turn = nn.Rotation.of(jnp.arange(3)[None], 2, nn.Rope(5.0, scale=2.0))
    np.testing.assert_allclose(turn.cos[0, :, 0, 0], 2 * np.cos(np.arange(3)), atol=1e-6)
    np.testing.assert_allclose(turn.sin[0, :, 0, 0], 2 * np.sin(np.arange(3)), atol=1e-6)


def windows(hf: dict[str, Any]) -> tuple[int, ...]:
    return models.build(hf).cfg.windows


SLIDING, FULL = "sliding_attention", "full_attention"


def test_how_far_back_layers_see():
    """Within a window of n a token sees n - 1 before it; as far as all of a text is no window."""
    mistral = support.ARCHITECTURES["mistral"]
    assert windows(mistral | {"layer_types": [FULL] * 2, "max_window_layers": 1}) == (4, 4)
    assert windows(mistral | {"sliding_window": 28}) == windows(mistral | {"sliding_window": None}) == (0, 0)
    assert windows(mistral | {"sliding_window": 27}) == (26, 26)
    assert windows(LLAMA | {"sliding_window": 4, "use_sliding_window": True, "layer_types": [SLIDING] * 2}) == (0, 0)
    assert windows(QWEN2) == windows(QWEN2 | {"layer_types": [FULL, SLIDING]}) == (0, 3)
    assert windows(QWEN2 | {"layer_types": [SLIDING, FULL]}) == (3, 0)
    assert windows(QWEN2 | {"max_window_layers": 0}) == (3, 3)
    assert windows(QWEN2 | {"use_sliding_window": False}) == (0, 0)
    nope = SMOLLM | {"use_sliding_window": True, "sliding_window": 6}
    assert windows(nope) == (0, 5)
    assert windows(nope | {"no_rope_layers": [0, 1, 0]}) == (5, 0)


def test_how_far_layers_of_gemma_see():
    """Of a window of n the n - 1 before, or half of it to either side; the last of six layers sees all."""

    def sights(**keys: Any) -> list[nn.Sight]:
        cfg = models.build({**GEMMA, **keys}).cfg
        return [cfg.sight(kind) for kind in cfg.layer_types]

    assert sights() == [nn.Sight(3, True), nn.Sight(0, True)]
    assert sights(use_bidirectional_attention=True, sliding_window=7) == [nn.Sight(3), nn.Sight(0)]
    assert sights(sliding_window=28) == [nn.Sight(0, True)] * 2 != sights(sliding_window=27)
    near = [sight.window for sight in sights(layer_types=None, num_hidden_layers=8)]
    assert near == [3, 3, 3, 3, 3, 0, 3, 3]
    assert [sight.window for sight in sights(layer_types=None, sliding_window_pattern=2)] == [3, 0]


def test_how_layers_of_gemma_turn():
    """By the keys of transformers 5, or those of transformers 4, which stretch layers that see all alone."""
    of = lambda **keys: models.build({**GEMMA, "rope_parameters": None, **keys}).cfg.ropes  # noqa: E731
    assert of() == (nn.Rope(1e6), nn.Rope(1e4))
    old = of(rope_theta=80.0, rope_local_base_freq=30.0, rope_scaling={"rope_type": "linear", "factor": 2.0})
    assert old == models.build(GEMMA).cfg.ropes == (nn.Rope(80.0, 2.0), nn.Rope(30.0))


def test_how_far_layers_of_modernbert_see():
    """Of half of local_attention all but the token itself, before it; a window that is written down goes first."""

    def sights(**keys: Any) -> list[nn.Sight]:
        cfg = models.build({**ETTIN, **keys}).cfg
        return [cfg.sight(kind) for kind in cfg.layer_types]

    near, all_ = nn.Sight(3, True), nn.Sight(0, True)
    assert sights() == [all_, near, all_] == sights(local_attention=9) == sights(local_attention=20, sliding_window=4)
    assert sights(local_attention=54) == [all_, nn.Sight(26, True), all_] and sights(local_attention=56) == [all_] * 3
    assert sights(local_attention=None, layer_types=[FULL] * 3) == [all_] * 3


def test_an_encoder_writes_nothing():
    model = models.build(GEMMA | {"use_bidirectional_attention": True})
    assert not model.facts.causal and model.module.head(model.cfg, "next", 0) is None
    assert models.build(GEMMA).head("next").spec == {}
    assert model.hf_class("") == "Gemma3TextModel" and model.hf_class("ForCausalLM") == "Gemma3ForCausalLM"
    assert model.hf_class("ForSequenceClassification") == "Gemma3TextForSequenceClassification"


def test_which_layers_turn():
    turned = lambda hf: models.build(hf).cfg.turned  # noqa: E731
    assert turned(SMOLLM) == turned(SMOLLM | {"no_rope_layers": [1, 0, 1]}) == (True, False)
    assert turned(SMOLLM | {"no_rope_layers": [0, 1]}) == (False, True)
    assert turned({**SMOLLM, "num_hidden_layers": 5, "no_rope_layer_interval": 4}) == (True, True, True, False, True)
    assert turned(LLAMA | {"no_rope_layers": [0, 0]}) == (True, True)


def test_keys_that_a_type_does_not_read_count_for_nothing():
    """Their classes have no such biases, or always; and no size of a head of their own."""
    biases = {"attention_bias": True, "mlp_bias": True}
    of = lambda kind, **keys: models.build(support.ARCHITECTURES[kind] | keys).cfg  # noqa: E731
    assert of("mistral", **biases) == of("mistral") and not of("mistral").attention_bias
    assert of("qwen2", attention_bias=False, mlp_bias=True, head_dim=8) == of("qwen2") and of("qwen2").attention_bias
    assert of("qwen3", mlp_bias=True) == of("qwen3") != of("qwen3", attention_bias=True)
    found = of("llama", **biases)
    assert found.attention_bias and found.output_bias and found.mlp_bias
    assert not of("qwen2").output_bias and of("qwen3", attention_bias=True).output_bias


@pytest.mark.parametrize("kind", support.DECODERS)
def test_what_a_config_may_lack_is_what_transformers_takes(torch, kind: str):
    """A config.json that names its type alone."""
    theirs = torch_reference.hf_settings({"model_type": kind}).to_dict()
    model = models.build({"model_type": kind})
    cfg = model.cfg
    own = ("layer_types", "head_dim", "num_key_value_heads", "n_inner")  # which may be None here
    names = [name for name in cfg.__dataclass_fields__ if theirs.get(name) is not None and name not in own]
    found = {name: getattr(cfg, name) for name in names}
    assert len(found) > 10 and found == {name: theirs[name] for name in found}
    if getattr(cfg, "layer_types", ()):
        assert list(cfg.layer_types) == theirs["layer_types"]
    if kind in ("gpt2", "modernbert-decoder"):
        thetas = [turn["rope_theta"] for turn in (theirs.get("rope_parameters") or {}).values()]
        assert sorted(thetas) == sorted(getattr(cfg, "thetas", ()))
        assert (model.facts.key_heads, model.facts.head_size) == (0, 0)
        return
    turns = theirs["rope_parameters"]
    if kind == "gemma3_text":
        assert cfg.ropes == tuple(nn.Rope(turns[layers]["rope_theta"]) for layers in (FULL, SLIDING))
    else:
        assert cfg.rope == nn.Rope(turns["rope_theta"])
    assert model.facts.key_heads == theirs["num_key_value_heads"]
    assert model.facts.head_size == theirs.get("head_dim", cfg.hidden_size // cfg.num_attention_heads)


def test_rates_of_a_head():
    """As GenericForTokenClassification takes them: the head's own, else that of hidden states, else 0.1."""
    rate = lambda **keys: models.build(LLAMA | keys).facts.rates["classifier"]  # noqa: E731
    assert (rate(), rate(hidden_dropout=0.2), rate(hidden_dropout=0.2, classifier_dropout=0.0)) == (0.1, 0.2, 0.0)


@pytest.mark.parametrize(
    ("hf", "message"),
    [
        (
            support.ARCHITECTURES["gpt2"] | {"scale_attn_weights": False},
            "scale_attn_weights must be true; false is not",
        ),
        (
            support.ARCHITECTURES["gpt2"] | {"scale_attn_by_inverse_layer_idx": True},
            "scale_attn_by_inverse_layer_idx must be false; true is not",
        ),
        (GEMMA | {"final_logit_softcapping": 30.0}, "final_logit_softcapping must be null; 30.0 is not supported"),
        (GEMMA | {"num_key_value_heads": 3}, "num_attention_heads must be a multiple of num_key_value_heads"),
        (GEMMA | {"layer_types": [FULL]}, "layer_types must be full_attention or sliding_attention for each"),
        (GEMMA | {"sliding_window": 1}, "sliding_window must be 2 tokens or more; it is 1"),
        (ETTIN | {"local_attention": 3}, "or half of local_attention, must be 2 tokens or more; it is 1"),
        (ETTIN | {"local_attention": None}, "or half of local_attention, must be 2 tokens or more; it is 0"),
        (ETTIN | {"sliding_window": None}, "or half of local_attention, must be 2 tokens or more; it is 0"),
        (LLAMA | {"num_key_value_heads": 3}, "num_attention_heads must be a multiple of num_key_value_heads"),
        (LLAMA | {"num_attention_heads": 3}, "the hidden size, 16, must be a multiple of the number of heads, 3"),
        (LLAMA | {"hidden_act": "siluu"}, "hidden_act 'siluu'; did you mean"),
        (QWEN2 | {"layer_types": [FULL]}, "layer_types must be full_attention or sliding_attention for each"),
        (QWEN2 | {"layer_types": [FULL, "chunked"]}, "layer_types must be full_attention or sliding_attention for"),
        (
            QWEN2 | {"use_sliding_window": False, "layer_types": [FULL, SLIDING]},
            "layer_types has sliding_attention, but use_sliding_window and sliding_window say no window",
        ),
        (QWEN2 | {"sliding_window": 1}, "sliding_window must be 2 or more, a token and the one before; it is 1"),
        (SMOLLM | {"no_rope_layers": [1]}, "no_rope_layers must be 0 or 1 for each of num_hidden_layers"),
        (
            LLAMA | {"rope_parameters": LLAMA3 | {"low_freq_factor": 4.0}},
            "low_freq_factor must be below high_freq_factor; they are 4 and 4",
        ),
        (
            LLAMA | {"rope_parameters": LLAMA3 | {"factor": None}},
            "factor of the rope_type llama3 must be a number above 0; it is None",
        ),
        (
            LLAMA | {"rope_parameters": YARN | {"factor": 0, "rope_type": None, "type": "yarn"}},
            "factor of the rope_type yarn must be a number above 0; it is 0",
        ),
        (
            LLAMA | {"rope_parameters": YARN | {"original_max_position_embeddings": 8.5}},
            "original_max_position_embeddings must be a number of tokens; it is 8.5",
        ),
    ],
)
def test_what_is_not_computed_is_refused(hf: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        models.build(hf)


def test_no_padding_no_class_of_a_text():
    """Which PyTorch's class looks for; tags need none, and a class that does not read it neither."""
    model = models.build(LLAMA | {"pad_token_id": None})
    with pytest.raises(
        UserError, match="pad_token_id is missing, and Llama answers at the last token that is no padding"
    ):
        model.head("text", outputs=2)
    assert model.head("token", outputs=2).pooling == "first"
    assert models.build(support.SMALL).head("text", outputs=2).pooling == "first"


def test_where_an_example_ends():
    """At its last token that is not padding by its id; of padding alone at its first; an empty slot at 0."""
    model = models.build(LLAMA)
    one = batch.padded(jnp.asarray([[5, 6, 0, 7, 0, 0, 8, 0]]), jnp.asarray([[1, 1, 1, 2, 2, 3, 0, 0]]))
    starts = jnp.asarray([[0, 3, 5, 0]])
    assert model.ends({**one, "starts": starts}).tolist() == [[1, 3, 5, 0]]
    assert nn.last_places(one["segment_ids"], 4).tolist() == [[2, 4, 5, 0]]


@pytest.mark.matrix
def test_a_text_that_ends_with_padding(torch, tmp_path):
    """As where the token that ends a text is also that for padding: the class of PyTorch skips it, and so do we."""
    case, hf = support.TASKS["single_label"], LLAMA
    features = support.random_features(np.random.default_rng(0), case, [5, 3, 6], hf)
    features.tokens["input_ids"][[4, 6, 7]] = hf["pad_token_id"]
    theirs = torch_reference.torch_model(hf, case.task, seed=0)
    theirs.save_pretrained(tmp_path)
    model, params = torch_reference.load(tmp_path, case.task)
    host = support.lay_out(features, case.task, 14, slots=0)
    _, outputs, _ = support.ours(case.task, model, params, host.arrays)
    inputs = torch_reference.torch_inputs(features, case.task, 6)
    with torch.no_grad():
        wanted = torch_reference.answers(case.task, theirs, inputs)[1]["logits"].numpy()
    found = support.by_example(outputs, case.task, host, features)["logits"]
    np.testing.assert_allclose(found, wanted, atol=1e-4 * abs(wanted).max())


VARIANTS = [
    ("llama", "token", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": None}),
    ("llama", "single_label", {"head_dim": 6, "rope_parameters": {"rope_type": "linear", "factor": 2.0}}),
    ("qwen3", "single_label", {"attention_bias": True, "use_sliding_window": True, "sliding_window": 3}),
    ("mistral", "token", {"head_dim": 6, "sliding_window": None}),
    ("gemma3_text", "single_label", {"use_bidirectional_attention": True, "sliding_window": 5, "attention_bias": True}),
    ("gemma3_text", "causal_lm", {"tie_word_embeddings": False, "layer_types": None, "sliding_window_pattern": 2}),
    ("modernbert-decoder", "single_label", {"norm_bias": True, "classifier_bias": True, "sliding_window": 6}),
    ("modernbert-decoder", "causal_lm", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
    ("modernbert-decoder", "causal_lm", {"decoder_bias": False, "layer_types": [SLIDING, FULL, SLIDING]}),
]


@pytest.mark.matrix
@pytest.mark.parametrize(("kind", "name", "keys"), VARIANTS, ids=[f"{k}-{name}" for k, name, _ in VARIANTS])
def test_variants(torch, kind: str, name: str, keys: dict[str, Any], tmp_path):
    case, hf = support.EVERY[name], support.ARCHITECTURES[kind] | {"max_window_layers": 1} | keys
    features = support.random_features(np.random.default_rng(0), case, [7, 3, 9, 5], hf)
    theirs = torch_reference.torch_model(hf, case.task, seed=0)
    theirs.save_pretrained(tmp_path)
    model, params = torch_reference.load(tmp_path, case.task)
    inputs = torch_reference.torch_inputs(features, case.task, 9)
    host = support.lay_out(features, case.task, 12, slots=0)
    torch_reference.assert_parity(theirs, inputs, case.task, model, params, features, host)


def test_weights_of_gpt2_lie_as_they_are_stored():
    """Of its layers; a head's are stored in reverse, as those of all others are."""
    inside = [f"transformer/h/0/{path}/kernel" for path in ("attn/c_attn", "attn/c_proj", "mlp/c_fc", "mlp/c_proj")]
    assert not any(map(hub.is_transposed, inside)) and not hub.is_transposed("transformer/h/0/attn/c_attn/bias")
    assert all(map(hub.is_transposed, ("score/kernel", "model/layers/0/self_attn/q_proj/kernel", "kernel")))


def test_names_of_its_classes():
    gpt2 = models.build(support.ARCHITECTURES["gpt2"])
    heads = ("", "ForCausalLM", "ForSequenceClassification")
    assert [gpt2.hf_class(head) for head in heads] == ["GPT2Model", "GPT2LMHeadModel", "GPT2ForSequenceClassification"]
    assert models.build(LLAMA).hf_class("ForCausalLM") == "LlamaForCausalLM"


def test_a_kernel_is_tried_on_what_the_model_asks_of_it(monkeypatch):
    """Heads of their own size, and tokens that see no further than themselves."""
    tried = []
    monkeypatch.setattr(kernels, "trial", lambda compute, mesh, *of: tried.append(of) or "")
    experiment = config.Experiment()
    mesh = sharding.make_mesh(experiment.mesh)
    for kind in ("llama", "qwen3", "eurobert", "bert"):
        job.with_trusted_attention(experiment, mesh, models.build(support.ARCHITECTURES[kind]), 32)
    assert tried == [(4, 4, 32, True), (4, 6, 32, True), (4, 4, 32, False), (2, 8, 32, False)]


def test_keys_and_values_have_an_axis_of_their_own():
    """So that they may stay whole where queries are split."""
    model = models.build(LLAMA)
    flat = nn.flatten(model.param_spec())
    axes = {name: flat[f"model/layers/0/self_attn/{name}/kernel"].axes[1] for name in ("q_proj", "k_proj", "v_proj")}
    assert axes == {"q_proj": "heads", "k_proj": "kv_heads", "v_proj": "kv_heads"}
    assert sharding.RULES.axes["kv_heads"] == sharding.RULES.axes["heads"]
    assert sharding.read_rules(["kv_heads=none"]).axes["kv_heads"] == ()
