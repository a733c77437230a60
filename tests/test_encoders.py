"""What architectures have of their own: buckets of distances, what of a config.json is refused, loops over layers."""

from typing import Any

import jax
import numpy as np
import pytest
import support
import torch_reference

from jaxft import models
from jaxft.errors import UserError
from jaxft.models import deberta_v2, mpnet, nn
from jaxft.models.nn.stack import Loop, loop

APART = np.arange(-1100, 1101)


@pytest.mark.parametrize(("buckets", "farthest"), [(256, 512), (256, -1), (32, 128), (4, 28), (0, 40)])
def test_distances_of_deberta_fall_into_pytorchs_buckets(torch, buckets, farthest):
    """At the edges float32's rounding decides, and a row further is another embedding."""
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    hf = support.ARCHITECTURES["deberta-v2"] | {"position_buckets": buckets, "max_position_embeddings": 512}
    cfg = models.build(hf | {"max_relative_positions": farthest}).cfg
    most = cfg.farthest
    assert most == (512 if farthest < 0 else farthest)
    apart = torch.tensor(APART)
    theirs = make_log_bucket_position(apart, buckets, most) if buckets else apart
    expected = (theirs + cfg.span).clamp(0, 2 * cfg.span - 1)
    assert np.asarray(deberta_v2.distances(APART, cfg)).tolist() == expected.long().tolist()


def test_distances_of_mpnet_fall_into_pytorchs_buckets(torch):
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    # The reference is given what is asked less what asks.
    expected = MPNetEncoder.relative_position_bucket(torch.tensor(-APART), num_buckets=32).tolist()
    assert np.asarray(mpnet.buckets(APART)).tolist() == expected


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "an architecture that is not there": (
        "bert",
        {"model_type": "longformer"},
        r"'longformer' is not supported; .*bert",
    ),
    "a misspelt one": ("bert", {"model_type": "deberta"}, "did you mean 'deberta-v2'"),
    "a number of heads": ("bert", {"num_attention_heads": 3}, "hidden size, 16, must be a multiple .* heads, 3"),
    "of DistilBERT": ("distilbert", {"n_heads": 5}, "hidden size, 16, must be a multiple .* heads, 5"),
    "no id for padding": ("roberta", {"pad_token_id": None}, "pad_token_id is null; RoBERTa counts positions from it"),
    "an activation": ("electra", {"hidden_act": "geluu"}, "hidden_act 'geluu'; did you mean 'gelu'"),
    "a decoder": ("xlm-roberta", {"is_decoder": True}, "is_decoder and add_cross_attention are not supported"),
    "relative positions": ("albert", {"position_embedding_type": "relative_key"}, "must be absolute"),
    "a convolution": ("deberta-v2", {"conv_kernel_size": 3}, "conv_kernel_size is not supported"),
    "kinds of layers": ("modernbert", {"layer_types": ["full_attention"]}, "for each of num_hidden_layers"),
    "another kind": ("modernbert", {"layer_types": ["chunked_attention"] * 3}, "must be full_attention or sliding_att"),
    "another rotation": ("modernbert", {"rope_scaling": {"type": "linear"}}, "rope_scaling and a rope_type beside"),
    "another pooling": ("modernbert", {"classifier_pooling": "max"}, "classifier_pooling must be cls or mean"),
    "too few buckets": ("mpnet", {"relative_attention_num_buckets": 8}, "must be 32 or more"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_computed_is_one_line(name):
    kind, changed, said = REFUSED[name]
    with pytest.raises(UserError, match=said) as error:
        models.build(support.ARCHITECTURES[kind] | changed)
    assert "\n" not in str(error.value)


def test_groups_of_albert():
    hf = support.ARCHITECTURES["albert"]
    facts = models.build(hf).facts
    assert (len(facts.layers), facts.repeats) == (2, 2)
    with pytest.raises(UserError, match="num_hidden_groups"):
        models.build(hf | {"num_hidden_layers": 3})


def test_config_keys_of_both_versions_of_transformers():
    """Of ModernBERT: thetas and kinds of layers."""
    hf = {key: x for key, x in support.ARCHITECTURES["modernbert"].items() if "rope" not in key and "every" not in key}
    old = models.build(hf | {"global_rope_theta": 9.0, "local_rope_theta": 8.0, "global_attn_every_n_layers": 2}).cfg
    rotations = {"full_attention": {"rope_theta": 9.0}, "sliding_attention": {"rope_theta": 8.0}}
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    new = models.build(hf | {"rope_parameters": rotations, "layer_types": kinds}).cfg
    assert old == new and old.thetas == (9.0, 8.0) and old.layer_types == tuple(kinds)
    assert models.build({"model_type": "modernbert"}).cfg.thetas == (160_000.0, 10_000.0)


@pytest.mark.parametrize(
    ("kinds", "found"),
    [
        ("aaaa", (0, 1, 4)),
        ("abababa", (0, 2, 3)),
        ("fssfssfssf", (0, 3, 3)),
        ("xaaaa", (1, 1, 4)),
        ("ab", (2, 0, 0)),
        ("a", (1, 0, 0)),
        ("", (0, 0, 0)),
        ("aabb", (2, 1, 2)),
    ],
)
def test_which_layers_are_a_loop(kinds, found):
    """The fewest are left to be compiled by themselves; what is no loop is unrolled."""
    assert loop(kinds) == Loop(*found)


@pytest.mark.parametrize("kind", ["deberta-v2", "mpnet"])
def test_distances_cost_no_gather_of_the_size_of_scores(kind):
    """Nor, backward, a scatter: on TPUs they take far longer than the products."""
    model, case = models.build(support.ARCHITECTURES[kind]), support.TASKS["token"]
    features = support.random_features(np.random.default_rng(0), case, [9, 11], support.ARCHITECTURES[kind])
    host = support.lay_out(features, case.task, 20, 0)
    params, batch = support.random_params(case.task, model, 0), support.arrays(host)
    scores = model.facts.heads * host.shape.rows * host.shape.length**2

    def loss(params):
        return case.task.loss(case.task.forward(params, model, batch, nn.Run()), batch)[0]

    gathers = [
        eqn
        for eqn in support.equations(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)
        if eqn.primitive.name in ("gather", "scatter", "scatter-add", "scatter_add")
    ]
    assert len(gathers) >= 2, "embeddings are gathered"
    assert all(var.aval.size < scores for eqn in gathers for var in (*eqn.invars, *eqn.outvars))


VARIANTS: list[tuple[str, str, dict[str, Any]]] = [
    ("modernbert", "single_label", {"classifier_pooling": "mean", "norm_bias": True, "classifier_bias": True}),
    ("modernbert", "masked_lm", {"attention_bias": True, "mlp_bias": True, "decoder_bias": False}),
    ("deberta-v2", "token", {"share_att_key": False, "position_biased_input": True, "type_vocab_size": 2}),
    ("deberta-v2", "masked_lm", {"legacy": False, "norm_rel_ebd": "none"}),
    ("deberta-v2", "masked_lm", {"embedding_size": 8}),
    ("deberta-v2", "single_label", {"pos_att_type": ["c2p"], "position_buckets": -1, "max_relative_positions": 6}),
    ("deberta-v2", "token", {"relative_attention": False, "norm_rel_ebd": "none"}),
    ("electra", "masked_lm", {"embedding_size": 16}),
    ("albert", "token", {"inner_group_num": 2, "num_hidden_groups": 1, "embedding_size": 16}),
    ("distilbert", "choices", {"sinusoidal_pos_embds": True, "activation": "relu"}),
]
"""What checkpoints on the Hub have otherwise than the small models of `support`."""


@pytest.mark.parametrize(("kind", "name", "keys"), VARIANTS, ids=[f"{k}-{'-'.join(keys)}" for k, _, keys in VARIANTS])
def test_variants_are_the_models_of_transformers(torch, kind, name, keys, tmp_path):
    case, hf, lengths = support.TASKS[name], support.ARCHITECTURES[kind] | keys, [7, 3, 9, 5]
    features = support.random_features(np.random.default_rng(0), case, lengths, hf)
    theirs = torch_reference.torch_model(hf, case.task, seed=0)
    theirs.save_pretrained(tmp_path)
    model, params = torch_reference.load(tmp_path, case.task)
    inputs = torch_reference.torch_inputs(features, case.task, max(lengths), hf.get("pad_token_id", 0))
    host = support.lay_out(features, case.task, 20, slots=0)
    torch_reference.assert_parity(theirs, inputs, case.task, model, params, features, host)
