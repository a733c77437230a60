"""The laws for every architecture: 1, 2 and 6 with every task, on rows packed with examples of other lengths.

Law 3, of meshes, has a cell for each in tests/laws/test_mesh.py.
"""

import itertools
from pathlib import Path
from typing import Any

import arithmetic
import jax
import numpy as np
import pytest
import support
import torch_reference
from safetensors.numpy import load_file

from jaxft import config, models
from jaxft.errors import UserError
from jaxft.hub import export
from jaxft.models import nn
from jaxft.plan import topology
from jaxft.train.checkpoint import Checkpoints

LENGTHS = [7, 3, 9, 5, 4, 6]
"""Of the examples: several share a row, none is as long as another; questions have three choices."""


HEADS = {name: case for name, case in support.EVERY.items() if name != "documents"}
"""Tasks with heads of their own, or other places that they are applied to."""
CELLS = [(kind, name) for kind in support.ARCHITECTURES for name, case in HEADS.items() if support.has_head(kind, case)]
ENCODERS = [kind for kind in support.FILES if kind not in support.DECODERS]
OTHERS = [*ENCODERS[1:], *support.DECODERS]
ONCE = [(kind, name) for kind in ENCODERS[1:] for name in ("single_label", "masked_lm")] + [
    ("llama", "single_label"),
    ("llama", "causal_lm"),
    ("gemma3_text", "causal_lm"),
    ("modernbert-decoder", "causal_lm"),
]
"""Of architectures that tests/laws/test_parity.py does not ask the same of: a few tokens, and all of them, alone."""
NO_CHOICES = ("eurobert", "nomic_bert", "gte", "new", "jina_embeddings_v3", *support.DECODERS)
"""Architectures whose classes in transformers are fewer."""
MISSING = {
    *((kind, "next_sentence") for kind in support.ARCHITECTURES if kind != "bert"),
    *((kind, "choices") for kind in NO_CHOICES),
    *((kind, "answers") for kind in NO_CHOICES if kind not in ("jina_embeddings_v3", "gpt2")),
    *((kind, "masked_lm") for kind in support.DECODERS),
    ("gemma3_text", "token"),
    ("modernbert-decoder", "token"),
    *(
        (kind, name)
        for kind in support.ARCHITECTURES
        for name in ("causal_lm", "preference")
        if kind not in support.DECODERS
    ),
}
"""What there is no class of in transformers that asks the same."""


def test_every_head_is_there():
    every = {(kind, name) for kind in support.ARCHITECTURES for name in HEADS}
    assert every - set(CELLS) == MISSING
    with pytest.raises(UserError, match="Roberta has no head for 'pair'; it has heads for text, choice, token, span, "):
        support.TASKS["next_sentence"].task.param_spec(models.build(support.ARCHITECTURES["roberta"]))
    assert support.ARCHITECTURES.keys() == models.ARCHITECTURES.keys()


@pytest.mark.parametrize(("kind", "name"), support.once(CELLS, *ONCE))
def test_it_is_the_model_of_transformers(torch, kind: str, name: str, tiny_model, tmp_path: Path):
    """Law 1, packed, two layers; and law 6: the export has the tensors, names and dtypes that it came from."""
    case, hf, seed = support.EVERY[name], support.ARCHITECTURES[kind], sum(map(ord, kind + name))
    lengths = LENGTHS if case.padded else [6] * 6
    features = support.random_features(np.random.default_rng(seed), case, lengths, hf)
    theirs = torch_reference.torch_model(hf, case.task, seed)
    torch_reference.save(theirs, tmp_path / "theirs", hf)
    model, params = torch_reference.load(tmp_path / "theirs", case.task)
    inputs = torch_reference.torch_inputs(features, case.task, max(lengths), hf.get("pad_token_id", 0))
    host = support.lay_out(features, case.task, 2 * max(lengths), slots=0)
    assert host.rows.slots > 1, "several examples share a row"
    torch_reference.assert_parity(theirs, inputs, case.task, model, params, features, host)
    settings, kind = hf | support.published(case.task), model.hf_class(case.task.hf_class)
    export.export(tmp_path / "ours", params, settings, kind, tiny_model, "A small model.\n")
    there, here = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "ours"))
    here = {name.removeprefix("" if case.task.hf_class else f"{model.prefix}."): x for name, x in here.items()}
    assert {name: x.dtype for name, x in here.items()} == {name: x.dtype for name, x in there.items()}
    assert all((here[name] == there[name]).all() for name in there)


@pytest.mark.parametrize("kind", support.once(ENCODERS, "bert", "modernbert"))
def test_a_decoder_that_is_no_table_of_embeddings(torch, kind: str, tmp_path: Path):
    """As config.json says by tie_word_embeddings: scores of words are those of the table that is stored for them."""
    case, hf = support.TASKS["masked_lm"], support.ARCHITECTURES[kind] | {"tie_word_embeddings": False}
    theirs = torch_reference.torch_model(hf, case.task, seed=1)
    theirs.save_pretrained(tmp_path)
    model, params = torch_reference.load(tmp_path, case.task)
    features = support.random_features(np.random.default_rng(1), case, LENGTHS, hf)
    host = support.lay_out(features, case.task, 10)
    inputs = torch_reference.torch_inputs(features, case.task, 10, hf.get("pad_token_id", 0))
    outputs = case.task.forward(params, model, support.arrays(host), nn.Run())
    found = support.by_example(outputs, case.task, host, features)
    with torch.no_grad():
        wanted = torch_reference.answers(case.task, theirs, inputs)[1]
    mask = inputs["attention_mask"].bool()
    support.assert_close(found, {name: x[mask].numpy() for name, x in wanted.items()}, 1e-4)


PACKED = [
    cell for cell in itertools.product(OTHERS, ("single_label", "token", "masked_lm", "causal_lm")) if cell in CELLS
]


@pytest.mark.parametrize(
    ("kind", "name"), support.once(PACKED, *((kind, "single_label") for kind in (*ENCODERS[1:], "llama")))
)
def test_packed_is_padded(kind: str, name: str):
    """Law 2, dropout on: the loss and the gradients."""
    case, hf = support.EVERY[name], support.ARCHITECTURES[kind]
    model = models.build(hf, dropout=0.3)
    features = support.random_features(np.random.default_rng(2), case, LENGTHS, hf)
    composed = support.compose(case.task, model, keep_gradients=True)
    params = support.random_params(case.task, model, seed=2)
    (packed, a), (padded, b) = (
        support.gradients(composed, params, support.lay_out(features, case.task, 12, slots)) for slots in (0, 1)
    )
    support.assert_close(packed | {"loss": a["loss"]}, padded | {"loss": b["loss"]}, 1e-5, floor=1e-3)


METHODS = ("freeze", "lora", "ia3", "adapter", "prompt")


@pytest.mark.parametrize("kind", support.once(OTHERS, "modernbert"))
def test_what_is_frozen_stays(kind: str):
    """Law 5, by method: a step leaves it bit for bit; what has learned can be merged where the method says so."""
    case, hf = support.TASKS["single_label"], support.shallow(kind)
    model = models.build(hf, dropout=0.0)
    features = support.random_features(np.random.default_rng(3), case, LENGTHS, hf)
    batch = support.arrays(support.lay_out(features, case.task, 20, 0))
    params = support.random_params(case.task, model, seed=3)
    whole = support.compose(case.task, model)
    for method in METHODS if "key" in model.facts.parts else [m for m in METHODS if m != "ia3"]:
        keys: dict[str, Any] = support.ADAPTATIONS[method] | ({"freeze": config.Freeze()} if method == "freeze" else {})
        composed = support.compose(case.task, model, optimizer=config.Optimizer(learning_rate=1e-3, warmup=0), **keys)
        state = composed.init(support.copy(params))
        frozen = support.copy(state.frozen)
        after, metrics = composed.train_step(state, batch)
        assert all((a == b).all() for a, b in zip(*map(jax.tree.leaves, (after.frozen, frozen)), strict=True)), method
        assert composed.train_step(after, batch)[1]["loss"] < metrics["loss"], method
        if composed.merge is None:
            continue
        merged = composed.merge(*composed.split(support.copy(params)))
        found, wanted = (p.eval_step(pair, batch).outputs for p, pair in (
            (whole, (merged, {})), (composed, composed.split(support.copy(params)))
        ))  # fmt: skip
        support.assert_close(found, wanted, 1e-5)


@pytest.mark.parametrize("kind", support.once(OTHERS))
def test_resumed_is_whole(kind: str, tmp_path: Path):
    """Law 4, bit for bit, from a checkpoint between two steps; and law 7: all steps are one program."""
    case, hf = support.TASKS["token"], support.shallow(kind)
    case = case if support.has_head(kind, case) else support.TASKS["single_label"]
    features = support.random_features(np.random.default_rng(4), case, LENGTHS, hf)
    model = models.build(hf, dropout=0.2)
    batch = support.arrays(support.lay_out(features, case.task, 12, 0))
    composed = support.compose(case.task, model)
    state = composed.init(support.random_params(case.task, model, seed=4))
    state, _ = composed.train_step(state, batch)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(state, {"step": 1, "best_step": None}, None)
    checkpoints.wait()
    restored = checkpoints.restore(composed.state, state.frozen, composed.placed_numbers())
    checkpoints.close()
    assert restored is not None
    resumed = restored[0]
    (whole, a), (again, b) = composed.train_step(state, batch), composed.train_step(resumed, batch)
    assert a["loss"] == b["loss"]
    leaves = zip(*(map(np.asarray, jax.tree.leaves(nn.flatten(s.trainable))) for s in (whole, again)), strict=True)
    assert all((x == y).all() for x, y in leaves)
    assert composed.train_step._cache_size() == 1  # pyright: ignore


@pytest.mark.parametrize("kind", support.once(support.FILES))
def test_it_is_planned_for_tpus(kind: str):
    """Of sizes that the chip likes; the state is what the parameters are, with their two moments."""
    pytest.importorskip("libtpu", reason=topology.MISSING)
    sizes = {"vocab_size": 512, "max_position_embeddings": 130}
    facts = arithmetic.on_tpu(support.shallow(kind) | sizes, "v5e:4x4", 64, 128)
    held = facts["memory"]
    assert held["fits"] and held["optimizer"] == pytest.approx(2 * held["parameters"], rel=0.01)
    assert {c["kind"] for c in facts["collectives"]} == {"all-reduce"}
