"""Guessing each token from those before it: pieces of texts, scores in blocks, and what a small decoder learns."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import decoders
import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
import support
from hypothesis import given
from hypothesis import strategies as st
from runs import experiment, results

from jaxft import config, hub, models, modes, pretrained, program, tables, tasks
from jaxft.adapt import lora
from jaxft.batch import IGNORED
from jaxft.data.features import Features, tokenize
from jaxft.data.sources import Split
from jaxft.devices import flops
from jaxft.errors import UserError
from jaxft.hub import adapter_config, adapters, export
from jaxft.job import check_features
from jaxft.metrics import language
from jaxft.models import nn
from jaxft.tables.causal_lm import cut, ended
from jaxft.tasks import causal_lm

LLAMA = support.ARCHITECTURES["llama"]
TEXTS = decoders.TEXTS


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> Path:
    """A small random Llama, with a byte-level tokenizer that begins texts and ends none."""
    return decoders.save(tmp_path_factory.mktemp("decoder"))


@given(st.integers(0, 40), st.integers(2, 9))
def test_every_token_but_the_first_is_guessed_once(length: int, size: int):
    pieces = cut(range(length), size)
    assert [token for piece in pieces for token in piece[1:]] == list(range(1, length))
    assert all(1 <= len(piece) <= size for piece in pieces) or length == 0
    assert pieces[0][:1] == list(range(length))[:1]
    assert all(len(piece) == size for piece in pieces[:-1]) and (len(pieces) == 1 or len(pieces[-1]) > 1)


def test_texts_end_once():
    assert ended([5, 6], 2) == ended([5, 6, 2], 2) == [5, 6, 2]
    assert ended([], 2) == [2] and ended([], None) == [] and ended([5], None) == [5]


def features(folder: Path, **options: Any) -> tuple[Any, Any, Any]:
    """The features of the texts, the table, and the tokenizer."""
    table, tokenizer = tables.build(config.CausalLM(**options)), hub.load_tokenizer(folder)
    split = table.read(Split(pa.table({"text": TEXTS}), "texts"))
    return tokenize(len(TEXTS), lambda a, b: table.features(split.slice(a, b), tokenizer, 12), None), table, tokenizer


def test_texts_become_pieces(decoder):
    """Of the tokenizer's own ids, what it puts around a text included, with the end of a text behind them."""
    found, _, tokenizer = features(decoder)
    bounds = [found.offsets[at] for at in found.bounds]
    own = [found.tokens["input_ids"][low:high].tolist() for low, high in itertools.pairwise(bounds)]
    assert [[*tokenizer(text)["input_ids"], 2] for text in TEXTS[:3]] == own[:3] and len(own[1]) == 3
    assert found.bounds[4] - found.bounds[3] > 2 and int(found.lengths.max()) == 12
    assert (found.tokens["labels"] == found.tokens["input_ids"]).all()
    assert not found.tokens["token_type_ids"].any()
    bare, *_ = features(decoder, end=False)
    assert 2 not in bare.tokens["input_ids"]


def test_a_long_text_is_no_matter(decoder):
    """The tokenizer says nothing of texts that are longer than it likes, as they become pieces."""
    tokenizer, long = hub.load_tokenizer(decoder), Split(pa.table({"text": TEXTS}), "texts")
    tokenizer.model_max_length = 5
    tables.build(config.CausalLM()).features(long, tokenizer, 12)
    assert not tokenizer.deprecation_warnings
    tokenizer(TEXTS)
    assert tokenizer.deprecation_warnings  # where it keeps what it has said


def test_a_text_without_tokens_is_refused():
    """Nothing could be guessed of it, and its answer would be that of another."""
    tokens = {name: np.zeros(6, np.int32) for name in ("input_ids", "token_type_ids")}
    pieces = Features(np.asarray([0, 2, 4, 4, 6]), tokens, {"row": np.asarray([0, 0, 1, 2])})
    with pytest.raises(UserError, match=r"row 1 \(from 0\) has no tokens: the tokenizer makes none of its text"):
        check_features(pieces, models.build(LLAMA), 12)
    check_features(pieces.take(np.asarray([0, 1, 3])), models.build(LLAMA), 12)


def test_a_column_that_is_not_there():
    with pytest.raises(UserError, match=r"task\.text"):
        tables.build(config.CausalLM()).read(Split(pa.table({"words": ["a"]}), "texts"))


def test_metrics_and_predictions(decoder):
    """Over the tokens that are guessed: all but the first of each piece."""
    found, table, _ = features(decoder)
    first = np.isin(np.arange(found.offsets[-1]), found.offsets)
    right = np.arange(len(first)) % 3 == 0
    outputs = {
        "log_probs": np.where(first, 0, -np.log(4.0)).astype(np.float32),
        "right": (right & ~first).astype(np.float32),
        "counted": (~first).astype(np.float32),
    }
    split = Split(pa.table({"text": TEXTS}), "texts")
    measured = table.metrics(outputs, found, split)
    assert measured["perplexity"] == pytest.approx(4) and measured["accuracy"] == pytest.approx(right[~first].mean())
    said = list(table.predictions(outputs, found, split))
    sizes = np.diff([found.offsets[at] for at in found.bounds]) - np.diff(found.bounds)
    assert [one["guessed"] for one in said] == sizes.tolist() and said[1]["guessed"] == 2
    assert all(one["perplexity"] == pytest.approx(4) for one in said)
    nothing = {name: np.zeros_like(x) for name, x in outputs.items()}
    assert table.metrics(nothing, found, split) == {}
    assert next(iter(table.predictions(nothing, found, split))) == {"perplexity": None, "guessed": 0}
    assert table.score("perplexity", 3.0) > table.score("perplexity", 4.0)


def test_perplexity_by_hand():
    log_probs = np.log([0.5, 0.25, 0.125])
    assert language.perplexity(log_probs) == pytest.approx(4)
    assert language.guesses(log_probs, np.asarray([1.0, 0, 0])) == pytest.approx({"perplexity": 4, "accuracy": 1 / 3})


def test_which_token_is_guessed_where():
    """From the last place of an example nothing, and nothing without a label; outputs stand at the token itself."""
    batch = {
        "segment_ids": jnp.asarray([[1, 1, 1, 2, 2, 0, 0]]),
        "labels": jnp.asarray([[10, 11, IGNORED, 13, 14, IGNORED, IGNORED]]),
    }
    guessed = causal_lm.following(batch)
    assert guessed.tolist() == [[11, IGNORED, IGNORED, 14, IGNORED, IGNORED, IGNORED]]
    places = jnp.arange(7.0)[None]
    found = causal_lm.behind(places, 10 * places, guessed)
    assert found["counted"].tolist() == [[0, 1, 0, 0, 1, 0, 0]]
    assert found["log_probs"].tolist() == [[0, 0, 1, 2, 3, 4, 5]]
    assert found["right"].tolist() == [[0, 0, 10, 20, 30, 40, 50]]


@pytest.mark.parametrize("tied", [True, False])
def test_scores_of_all_tokens_never_exist_together(tied: bool):
    """Forward and backward: no array has as many numbers as tokens x words, in a step on rows of that many tokens."""
    words, scores = 5000, 64_000
    model = models.build({**LLAMA, "vocab_size": words, "tie_word_embeddings": tied, "num_hidden_layers": 1})
    task = causal_lm.CausalLM(config.CausalLM(), scores=scores)
    case = support.EVERY["causal_lm"]
    drawn = support.random_features(np.random.default_rng(0), case, [28] * 8, LLAMA)
    batch = support.arrays(support.lay_out(drawn, task, 28))
    is_leaf = lambda leaf: isinstance(leaf, nn.Leaf)  # noqa: E731
    shape = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32)  # noqa: E731
    params = jax.tree.map(shape, task.param_spec(model), is_leaf=is_leaf)

    def loss(params):
        return task.loss(task.forward(params, model, batch, nn.Run()), batch)[0]

    traced = jax.make_jaxpr(jax.grad(loss))(params)
    shapes = [var.aval.shape for eqn in support.equations(traced.jaxpr) for var in eqn.outvars]
    of_words = [math.prod(shape) for shape in shapes if words in shape]
    assert max(of_words) == max(8 * 1 * words, words * LLAMA["hidden_size"])
    assert max(map(math.prod, shapes)) < 8 * 28 * words / 10


def test_what_a_method_puts_into_the_head_is_scored_with():
    """A change of the dense layer below the scores of words: as with the kernel that it amounts to."""
    hf = support.with_layers(support.ARCHITECTURES["modernbert-decoder"], 1)
    model, task, rng = models.build(hf), tasks.build(config.CausalLM()), np.random.default_rng(0)
    params = nn.flatten(support.random_params(task, model, seed=0))
    a, b = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((16, 2), (2, 16)))
    changed = params | {"lm_head/dense/change": lora.LowRank(a, b, gain=None, drops=False, site=0)}
    merged = params | {"lm_head/dense/kernel": params["lm_head/dense/kernel"] + a @ b}
    drawn = support.random_features(rng, support.EVERY["causal_lm"], [7, 4], hf)
    batch = support.arrays(support.lay_out(drawn, task, 11))
    found, wanted, without = (
        task.forward(nn.unflatten(each), model, batch, nn.Run())["log_probs"] for each in (changed, merged, params)
    )
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert float(jnp.abs(found - without).max()) > 0.1


@pytest.mark.matrix
def test_blocks_change_nothing():
    """Loss, gradients and outputs, of one block and of many."""
    case, model = support.EVERY["causal_lm"], models.build(LLAMA)
    drawn = support.random_features(np.random.default_rng(1), case, [7, 3, 9, 5], LLAMA)
    host = support.lay_out(drawn, case.task, 13, 0)
    params = support.random_params(case.task, model, seed=1)
    whole, *blocked = (
        support.ours(causal_lm.CausalLM(config.CausalLM(), scores=scores), model, params, host.arrays)
        for scores in (2**20, 400, 1)
    )
    for value, outputs, grads in blocked:
        assert float(value) == pytest.approx(float(whole[0]), rel=1e-6)
        support.assert_close(outputs, whole[1], 1e-6)
        support.assert_close(grads, whole[2], 1e-5, floor=1e-3)


def test_a_table_of_its_own_is_no_word_embedding():
    """It is loaded as what it is, and its products are counted once a token that is guessed."""
    task = tasks.build(config.CausalLM())
    own, tied = (models.build({**LLAMA, "tie_word_embeddings": tied}) for tied in (False, True))
    assert task.tied(own) == () and task.tied(tied) == ("model/embed_tokens/embedding",)
    assert nn.flatten(task.param_spec(own)).keys() - nn.flatten(task.param_spec(tied)).keys() == {"lm_head/embedding"}
    lengths = np.asarray([5, 1, 3])
    counts = [flops.train_flops(model, task)(lengths) for model in (own, tied)]
    body = flops.train_flops(own, tasks.build(config.SentenceEmbedding()))(lengths)
    assert counts[0] == counts[1] == body + 6 * 40 * 16 * (4 + 0 + 2)


def test_an_adapter_says_its_task():
    e = config.Experiment(adapt="lora", task=config.CausalLM(), model=config.Model(path="base"))
    assert adapter_config.written(e, ["lora/model/layers/0/self_attn/q_proj/a"], bare=False)["task_type"] == "CAUSAL_LM"


@pytest.mark.matrix
@pytest.mark.parametrize("tied", [True, False])
def test_a_run_learns_and_opens_in_pytorch(torch, decoder, cache, tmp_path, tied: bool):
    """From a text that repeats itself; perplexities of texts are those of AutoModelForCausalLM on the export."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hf = {**hub.read_config(decoder), "tie_word_embeddings": tied}
    model, task = models.build(hf), tasks.build(config.CausalLM())
    base = tmp_path / "base"
    params = support.random_params(task, model, seed=0)
    export.export(base, params, hf, model.hf_class(task.hf_class), decoder, "A small model.\n")
    lines = [f"{i}: " + "the mat sat on the cat and the dog sat on the mat " * (1 + i % 3) for i in range(60)]
    (tmp_path / "texts.txt").write_text("\n".join(lines) + "\n")
    data = {"source": str(tmp_path / "texts.txt"), "encoding": "utf-8", "max_length": 48}
    data |= {"validation_examples": 6, "test_examples": 0}
    e = experiment(base, cache, data=data, train={"epochs": 30}, optimizer={"learning_rate": 1e-2})
    e.task = config.CausalLM()
    modes.train(e, str(tmp_path / "run"))
    found = results(tmp_path / "run")
    assert found["validation/perplexity"] < 5 and found["validation/accuracy"] > 0.5
    asked = tmp_path / "asked.txt"
    asked.write_text("\n".join(["the dog sat", "on the mat"]) + "\n")
    modes.predict(str(tmp_path / "run"), str(asked), str(tmp_path / "answers.jsonl"))
    said = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "export").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "export")
    assert type(theirs).__name__ == "LlamaForCausalLM"
    assert (theirs.lm_head.weight is theirs.model.embed_tokens.weight) is tied
    for one in said:
        ids = torch.tensor([[*tokenizer(one["text"])["input_ids"], tokenizer.eos_token_id]])
        with torch.no_grad():
            assert one["perplexity"] == pytest.approx(float(torch.exp(theirs(ids, labels=ids).loss)), rel=1e-4)
        assert one["guessed"] == ids.shape[1] - 1


@pytest.mark.matrix
def test_adapters_of_peft_and_ours(torch, decoder, tmp_path):
    """With the layers that peft takes by itself, on the class of the language model."""
    peft = pytest.importorskip("peft", reason="the reference, peft, is not installed")
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(decoder)
    options = peft.LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False)
    torch.manual_seed(0)
    theirs = peft.get_peft_model(base, options).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    keys = adapters.options(tmp_path / "theirs")
    task = tasks.build(config.CausalLM())
    adapter_config.check_task(tmp_path / "theirs", task.options)
    e = config.Experiment(task=task.options, model=config.Model(path=str(decoder)), **keys)
    composed = program.compose(e, models.build(hub.read_config(decoder), 0.0), task, steps=1)
    trainable, frozen = composed.split(pretrained.load(decoder, composed)[0])
    trainable = adapters.read(tmp_path / "theirs", composed, trainable)
    ids = np.asarray([[1, 30, 40, 50, 60, 2]])
    features = support.random_features(np.random.default_rng(0), support.EVERY["causal_lm"], [6], LLAMA)
    features.tokens["input_ids"][:], features.tokens["labels"][:] = ids[0], ids[0]
    host = support.lay_out(features, task, 6)
    found = composed.eval_step((trainable, frozen), support.arrays(host)).outputs["log_probs"]
    for model in (theirs, None):
        if model is None:
            adapters.write(tmp_path / "ours", e, trainable)
            again = AutoModelForCausalLM.from_pretrained(decoder)
            model = peft.PeftModel.from_pretrained(again, tmp_path / "ours").eval()
        with torch.no_grad():
            loss = model(torch.tensor(ids), labels=torch.tensor(ids)).loss
        assert -float(found.sum()) / 5 == pytest.approx(float(loss), rel=1e-4)
