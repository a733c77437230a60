"""Masked language modelling: what is cut and hidden, the same however often it is asked for; and whole runs."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pytest
import support
from runs import MINILM, assert_packed_is_padded, experiment, results

from jaxft import config, hub, models, modes, tables, tasks
from jaxft.data.batches import Feed
from jaxft.data.features import Features, tokenize
from jaxft.data.order import Order
from jaxft.data.packing import Cost, plan
from jaxft.data.sources import Split
from jaxft.tables import masking

MASK, SIZE = 103, 30522
TEXTS = ["The cat sat on the unbelievably uncomfortable mat.", "Yes", "Antidisestablishmentarianism, again and again."]


@pytest.fixture(scope="module")
def tokenizer():
    assert MINILM is not None
    return hub.load_tokenizer(MINILM)


def hide(piece: masking.Piece, **changed) -> tuple[np.ndarray, np.ndarray]:
    return masking.hide(piece, 0.15, MASK, SIZE, **({"seed": 0, "epoch": 0, "example": 0} | changed))


def numbered(n: int, words: int) -> masking.Piece:
    """n tokens, so many a word, between special ones."""
    return masking.Piece(np.arange(1000, 1000 + n), np.pad(np.arange(n - 2) // words, 1, constant_values=-1))


def test_hidden_tokens_are_eighty_ten_ten():
    piece = numbered(100_000, 1)
    ids, labels = hide(piece)
    hidden = labels != masking.IGNORED
    assert hidden.sum() == 15_000 and not hidden[[0, -1]].any()
    assert (labels[hidden] == piece.ids[hidden]).all() and (ids[~hidden] == piece.ids[~hidden]).all()
    shares = [np.mean(ids[hidden] == MASK), np.mean(ids[hidden] == labels[hidden])]
    np.testing.assert_allclose(shares, [0.8, 0.1], atol=0.01)
    others = ids[hidden][(ids[hidden] != MASK) & (ids[hidden] != labels[hidden])]
    assert abs(others.mean() / SIZE - 0.5) < 0.02 and len(set(others)) > 1000


def test_hidden_by_seed_epoch_and_example_alone():
    piece = numbered(200, 1)
    same = {"seed": 3, "epoch": 2, "example": 5}
    first = hide(piece, **same)
    assert all((a == b).all() for a, b in zip(first, hide(piece, **same), strict=True))
    for key in same:
        assert (hide(piece, **same | {key: 7})[1] != first[1]).any(), key


def test_whole_words_are_hidden_together():
    labels = hide(numbered(302, 3))[1][1:-1].reshape(-1, 3) != masking.IGNORED
    assert set(labels.sum(1)) == {0, 3} and labels.sum() == 45
    assert (hide(numbered(8, 3))[1] == masking.IGNORED).all()  # three tokens would be more than its share


@pytest.mark.parametrize("join", [True, False])
def test_nothing_is_lost_in_cutting(tokenizer, join):
    pieces, rows = masking.cut(tokenizer, TEXTS, 12, join)
    assert all(p.ids[0] == tokenizer.cls_token_id and p.ids[-1] == tokenizer.sep_token_id for p in pieces)
    assert all(len(p.ids) == len(p.words) <= 12 and (p.words[[0, -1]] == -1).all() for p in pieces)
    own = tokenizer(TEXTS, add_special_tokens=False)["input_ids"]
    if join:
        assert all(len(p.ids) == 12 for p in pieces[:-1])
        whole = np.concatenate([p.ids[1:-1] for p in pieces]).tolist()
        assert whole == own[0] + [102] + own[1] + [102] + own[2]
        words = np.concatenate([p.words[1:-1] for p in pieces])
        assert set(words) - {-1} == set(range(9 + 1 + 6)) and (np.diff(words[words >= 0]) >= 0).all()
    else:
        found = [[i for p, row in zip(pieces, rows, strict=True) if row == n for i in p.ids[1:-1]] for n in range(3)]
        assert found == own and rows == sorted(rows)


def made(tokenizer, options: config.MaskedLM, texts: list[str]) -> tuple[tables.Table, Features]:
    table, split = tables.build(options), Split(pa.table({"text": texts}), "texts")
    return table, tokenize(len(texts), lambda a, b: table.features(split.slice(a, b), tokenizer, 16), None)


@pytest.mark.parametrize("whole", [True, False])
def test_training_hides_as_is_asked(tokenizer, whole):
    """Of each epoch and example what `hide` hides, of the tokens as they were; by words where that is asked."""
    table, features = made(tokenizer, config.MaskedLM(whole_words=whole), TEXTS)
    pieces = masking.cut(tokenizer, TEXTS, 16, join=True)[0]
    chosen = np.arange(len(pieces))
    assert table.vary is not None and len(features) == len(pieces)
    for epoch in (0, 3):
        found = table.vary(features, chosen + 7, 5, epoch)
        for i, piece in enumerate(pieces):
            own = slice(features.offsets[i], features.offsets[i + 1])
            words = piece.words if whole else np.where(piece.words < 0, -1, np.arange(len(piece.words)))
            assert features.tokens["words"][own].tolist() == words.tolist()
            ids, labels = masking.hide(
                masking.Piece(piece.ids, words), 0.15, MASK, SIZE, seed=5, epoch=epoch, example=i + 7
            )
            assert found.tokens["input_ids"][own].tolist() == ids.tolist()
            assert found.tokens["labels"][own].tolist() == labels.tolist()


def joined(batches: list[dict]) -> list[dict]:
    """The batches of each of three epochs in one."""
    return [dict(itertools.chain.from_iterable(b.items() for b in part)) for part in np.split(np.asarray(batches), 3)]


def test_batches_of_a_resumed_run_and_of_other_sizes(tokenizer):
    """Epoch by epoch, an example is hidden the same way in whatever batch it comes, and the first time it is asked."""
    table, features = made(tokenizer, config.MaskedLM(whole_words=True), TEXTS * 9)
    task, vary = tasks.build(table.options), table.vary
    assert vary is not None

    def batches(size: int, start: int = 0) -> list[dict[int, tuple]]:
        """Of each batch: example -> what it looks like."""
        order = Order(features.lengths, size, seed=4)
        steps = 3 * order.batches_per_epoch
        shapes = plan([features.lengths[order[i]] for i in range(steps)], longest=16, packing=True, rows_multiple=1,
                      count=1, cost=Cost(lambda rows, length: rows * length))  # fmt: skip
        place = support.compose(task, models.build(support.SMALL)).batch_sharding
        feed = Feed(
            features, task.targets, shapes, place, vary=lambda part, chosen, epoch: vary(part, chosen, 4, epoch)
        )
        found = []
        for host, batch in feed.train(order, start, steps):
            arrays = [np.asarray(batch[name]) for name in ("input_ids", "labels", "segment_ids")]
            parts = {}
            for example, row, slot in zip(host.examples, host.rows.row, host.rows.slot, strict=True):
                own = arrays[2][row] == slot + 1
                parts[int(example)] = tuple(np.concatenate([arrays[0][row][own], arrays[1][row][own]]))
            found.append(parts)
        return found

    whole = batches(5)
    assert batches(5, start=4) == whole[4:]
    epochs = joined(whole)
    assert epochs == joined(batches(7))
    assert epochs[0].keys() == epochs[1].keys() == set(range(len(features))) and epochs[0] != epochs[1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model, cache):
    """On sentences of a small language, a line each."""
    folder, rng = tmp_path_factory.mktemp("language"), np.random.default_rng(0)
    words = [["red", "blue"], ["cats", "dogs"], ["eat", "chase"], ["fish", "birds"], ["today ."]]
    for split, count in (("train", 400), ("dev", 40)):
        lines = (" ".join(rng.choice(choice) for choice in words * 4) for _ in range(count))
        (folder / f"{split}.txt").write_text("\n\n".join(lines) + "\n")
    e = experiment(
        tiny_model,
        cache,
        data={"source": str(folder), "encoding": "utf-8", "max_length": 32, "shapes": 1},
        train={"epochs": 7, "eval_every": 70},
        optimizer={"learning_rate": 1e-2},
    )
    for key in ("train_examples", "validation_examples", "test_examples"):
        setattr(e.data, key, 0)
    e.task = config.MaskedLM()
    modes.train(e, str(folder / "run"))
    return folder / "run"


def test_a_run_learns_the_language_and_other_tasks_start_from_it(trained, cache, tmp_path, capsys):
    found = results(trained)
    assert 1 <= found["validation/perplexity"] < 20  # ten words occur, of 30,522
    assert found["validation/perplexity"] == pytest.approx(np.exp(found["validation/loss"]), rel=1e-4)
    modes.train(experiment(trained / "export", cache, data={"shapes": 1}), str(tmp_path / "run"))
    said = capsys.readouterr().err
    assert "new (initialized): bert/pooler/dense/kernel [32, 32]" in said and "unused in the checkpoint: cls/" in said
    (tmp_path / "texts.txt").write_text(
        "red dogs chase birds today .\nsenate adjourned before christmas holidays began\n"
    )
    modes.predict(str(trained), str(tmp_path / "texts.txt"), str(tmp_path / "answers.jsonl"))
    usual, strange = (json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines())
    assert usual["perplexity"] < strange["perplexity"] and usual["hidden"] == strange["hidden"] == 1
    assert_packed_is_padded(trained, tmp_path / "texts.txt", tmp_path)
