"""Sentence embeddings: losses and retrieval metrics against references, and a run whose export others open."""

import json

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
import scipy.stats
from runs import TINY, assert_packed_is_padded, experiment, results
from sklearn.metrics import ndcg_score

from jaxft import config, models, modes, tables, tasks
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.metrics import retrieval
from jaxft.tasks.sentence_embedding import SentenceEmbedding
from jaxft.tasks.together import groups

RNG = np.random.default_rng(0)


def unit(*shape: int) -> np.ndarray:
    x = RNG.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_retrieval_by_hand():
    """Three queries, five entries; the rankings are 0 1 2 3 4, 4 3 2 1 0 and, of equals, 0 1 2 3 4."""
    corpus = np.diag([5.0, 4, 3, 2, 1])
    queries = np.asarray([[1.0] * 5, [1 / 25, 1 / 12, 1 / 6, 1, 4], [1 / 5, 1 / 4, 1 / 3, 1 / 2, 1]])
    found = retrieval.scores(queries, corpus, [[0, 2], [1], [4, 4]], ks=(1, 3))
    assert found["recall@1"] == pytest.approx((1 / 2 + 0 + 0) / 3)
    assert found["recall@3"] == pytest.approx((1 + 0 + 0) / 3)
    assert found["mrr@3"] == pytest.approx(1 / 3)
    ideal = 1 + 1 / np.log2(3)
    assert found["ndcg@3"] == pytest.approx((1 + 1 / np.log2(4)) / ideal / 3)


def test_ndcg_is_sklearn(monkeypatch):
    monkeypatch.setattr(retrieval, "CHUNK", 16)
    queries, corpus = unit(50, 8), unit(30, 8)
    relevant = [RNG.choice(30, RNG.integers(1, 15), replace=False).tolist() for _ in queries]
    truth = np.zeros((50, 30))
    for row, entries in enumerate(relevant):
        truth[row, entries] = 1
    similar = queries.astype(np.float64) @ corpus.T.astype(np.float64)
    found = retrieval.scores(queries, corpus, relevant)
    assert found["ndcg@10"] == pytest.approx(ndcg_score(truth, similar, k=10), abs=1e-9)
    ranks = [min(scipy.stats.rankdata(-row)[entries]) for row, entries in zip(similar, relevant, strict=True)]
    assert found["mrr@10"] == pytest.approx(np.mean([1 / rank if rank <= 10 else 0 for rank in ranks]), abs=1e-9)
    top = [set(np.argsort(-row)[:5]) & set(entries) for row, entries in zip(similar, relevant, strict=True)]
    recall = [len(part) / len(entries) for part, entries in zip(top, relevant, strict=True)]
    assert found["recall@5"] == pytest.approx(np.mean(recall), abs=1e-9)


@pytest.mark.parametrize("size", [2, 3])
def test_contrastive_loss_is_pytorchs(torch, size):
    """Rows of four groups, one of them empty, against the definition of MultipleNegativesRankingLoss."""
    vectors, there = unit(3, 4, size, 8), np.ones((3, 4), np.float32)
    there[1, 2:] = 0
    task = tasks.build(config.SentenceEmbedding(texts=("a", "b", "c")[:size]))
    twins = np.arange(3 * 4 * size, dtype=np.int32).reshape(3, -1)
    batch = {"weights": jnp.asarray(np.repeat(there, size, axis=1)), "twins": jnp.asarray(twins)}
    outputs = {"embeddings": jnp.asarray(vectors.reshape(3, -1, 8))}
    total, weight = task.loss(outputs, batch)
    groups = torch.tensor(vectors[there > 0])
    candidates = torch.cat([groups[:, i] for i in range(1, size)])
    expected = torch.nn.functional.cross_entropy(20 * groups[:, 0] @ candidates.T, torch.arange(len(groups)))
    assert float(total / weight) == pytest.approx(float(expected), rel=1e-5)
    # The positives of the first two are the same text, and the anchors of the next two.
    twins[0, [1, size + 1]], twins[0, [2 * size, 3 * size]] = 77, 88
    logits, counted = 20 * groups[:, 0] @ candidates.T, torch.ones(len(groups), len(candidates), dtype=torch.bool)
    counted[[0, 1, 2, 3], [1, 0, 3, 2]] = False
    spared = torch.nn.functional.cross_entropy(logits.masked_fill(~counted, -1e30), torch.arange(len(groups)))
    total, weight = task.loss(outputs, batch | {"twins": jnp.asarray(twins)})
    assert float(total / weight) == pytest.approx(float(spared), rel=1e-5)
    own = np.arange(len(groups))
    whole = retrieval.contrastive(groups[:, 0].numpy(), candidates.numpy(), own, 20.0)
    assert whole == pytest.approx(float(expected), rel=1e-5)


def test_slots_of_a_group_are_side_by_side():
    """Rows of five slots in groups of two: the last group of each row has an empty one."""
    found = groups(jnp.arange(1, 11).reshape(2, 5), 2)
    assert found.tolist() == [[1, 2], [3, 4], [5, 0], [6, 7], [8, 9], [10, 0]]
    assert groups(jnp.ones((2, 6, 3)), 3).shape == (4, 3, 3)


WORDS = "cat dog sun moon tree fish bird rain snow wind fire rock sand lake hill road door book lamp ship".split()  # noqa: SIM905


@pytest.mark.parametrize(("pooling", "mode"), [("mean", "mean_tokens"), ("cls", "cls_token"), ("last", "lasttoken")])
def test_an_export_has_the_files_of_sentence_transformers(pooling, mode):
    """As the models on the Hub have them; texts are not made lower case by them, as the tokenizer knows of that."""
    files = tables.build(config.SentenceEmbedding(pooling=pooling)).published(models.build(TINY), 48).files
    assert files["modules.json"] == [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    assert files["sentence_bert_config.json"] == {"max_seq_length": 48, "do_lower_case": False}
    assert files["1_Pooling/config.json"] == {
        "word_embedding_dimension": TINY["hidden_size"],
        **{f"pooling_mode_{name}": name == mode for name in ("cls_token", "mean_tokens", "lasttoken")},
    }


@pytest.mark.parametrize(("pooling", "places"), [("cls", [[0, 3]]), ("last", [[2, 4]])])
def test_which_token_a_vector_is_of(pooling, places):
    """Of two examples in a row, with padding behind them."""
    batch = {"starts": jnp.asarray([[0, 3]]), "segment_ids": jnp.asarray([[1, 1, 1, 2, 2, 0]])}
    assert SentenceEmbedding(config.SentenceEmbedding(pooling=pooling))._place(batch).tolist() == places


def test_scores_are_read_where_there_are_labels():
    table = tables.build(config.SentenceEmbedding(texts=("a", "b"), score="s"))
    columns = {"a": ["x"], "b": ["y"], "s": ["0.5"]}

    def read(*names: str, labelled: bool = True) -> pa.Table:
        return table.read(Split(pa.table({name: columns[name] for name in names}), "here", cells=True), labelled).table

    assert read("a", "b", "s")["s"].to_pylist() == [0.5]
    assert read("a", labelled=False)["a"].to_pylist() == ["x"]
    for lacking, names in (("b", "as"), ("s", "ab")):
        with pytest.raises(UserError, match=f"has no column '{lacking}'"):
            read(*names)


def test_a_large_scale_does_not_overflow():
    """exp(2000) is no number."""
    vectors = np.asarray([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], np.float32)
    assert retrieval.contrastive(vectors[:1], vectors, np.asarray([0]), 2000.0) == 0
    assert retrieval.contrastive(vectors[:1], vectors, np.asarray([1]), 2000.0) == 2000
    assert retrieval.contrastive(vectors[:1], vectors, np.asarray([2]), 2000.0) == 4000


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model, cache):
    """A question about two words belongs to the answer that names them, in any order."""
    folder = tmp_path_factory.mktemp("pairs")
    pairs = [(a, b) for a in WORDS for b in WORDS if a < b]
    RNG.shuffle(pairs)
    for split, part in (("train", pairs[:140]), ("dev", pairs[140:165]), ("test", pairs[165:])):
        rows = [
            {"anchor": f"what of {a} and {b} ?", "positive": f"well , {b} , {a} it is", "id": a + b} for a, b in part
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    e = experiment(
        tiny_model,
        cache,
        data={"source": str(folder), "encoding": "utf-8", "max_length": 16, "shapes": 1},
        train={"epochs": 12, "eval_every": 54},
        optimizer={"learning_rate": 3e-3},
    )
    for key in ("train_examples", "validation_examples", "test_examples"):
        setattr(e.data, key, 0)
    e.task = config.SentenceEmbedding()
    modes.train(e, str(folder / "run"))
    return folder / "run"


def test_a_run_finds_what_belongs_together(trained):
    found = results(trained)
    assert found["test/mrr@10"] > 0.5 and found["test/recall@10"] > 0.8  # by chance: 0.12 and 0.4
    assert found["test/mrr@10"] <= found["test/ndcg@10"] <= found["test/recall@10"]


TEXTS = ["what of fish and moon ?", "well", "a much longer text about nothing in particular , cut at sixteen tokens"]


def test_sentence_transformers_makes_the_same_vectors(torch, trained, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    model = library.SentenceTransformer(str(trained / "export"), device="cpu")
    assert [type(part).__name__ for part in model] == ["Transformer", "Pooling", "Normalize"]
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    modes.predict(str(trained), str(tmp_path / "texts.txt"), str(tmp_path / "answers.jsonl"))
    ours = [json.loads(line)["embedding"] for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(ours, model.encode(TEXTS), atol=1e-5)


def test_a_run_measures_and_predicts_the_same_packed_or_padded(trained, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    assert_packed_is_padded(trained, tmp_path / "texts.txt", tmp_path)
