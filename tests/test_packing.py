"""Packing: that rows are valid and well filled, that sizes are the best there are, that plans hold what they must."""

import itertools

import numpy as np
import pytest
import support
from hypothesis import given
from hypothesis import strategies as st

from jaxft import config, job, models
from jaxft.batch import BatchShape
from jaxft.data import packing
from jaxft.data.batches import fitting
from jaxft.data.features import Items
from jaxft.data.order import Order
from jaxft.data.packing import MULTIPLE, Cost, best_sizes, pack, plan


@st.composite
def examples(draw: st.DrawFn) -> tuple[list[int], int]:
    """Lengths of examples, and a row's."""
    length = draw(st.integers(1, 40))
    return draw(st.lists(st.integers(1, length), max_size=60)), length


@given(examples(), st.integers(0, 4))
def test_rows_are_valid(drawn: tuple[list[int], int], slots: int):
    lengths, length = drawn
    rows = pack(lengths, length, slots)
    assert len(rows.row) == len(rows.slot) == len(rows.start) == len(lengths)
    assert set(rows.row.tolist()) == set(range(rows.count))
    assert rows.count <= len(lengths)
    assert not slots or rows.slots <= slots
    for r in range(rows.count):
        inside = np.flatnonzero(rows.row == r)
        inside = inside[np.argsort(rows.slot[inside])]
        sizes = np.asarray(lengths)[inside]
        assert rows.slot[inside].tolist() == list(range(len(inside)))
        assert rows.start[inside].tolist() == (np.cumsum(sizes) - sizes).tolist()  # no gap and no overlap
        assert sizes.sum() <= length


@given(examples())
def test_one_slot_is_padding(drawn: tuple[list[int], int]):
    rows = pack(*drawn, slots=1)
    assert rows.count == len(drawn[0])
    assert not rows.slot.any() and not rows.start.any()


@given(examples(), st.integers(0, 4))
def test_the_longest_first_into_the_fullest_row_that_holds_it(drawn: tuple[list[int], int], slots: int):
    lengths, length = drawn
    rows = pack(lengths, length, slots)
    left, used = [length] * len(lengths), [0] * len(lengths)
    for i in np.argsort(-np.asarray(lengths), kind="stable"):
        r, size = rows.row[i], lengths[i]
        fitting = [room for room, n in zip(left, used, strict=True) if n and n != slots and room >= size]
        assert left[r] == min(fitting, default=length) and rows.slot[i] == used[r]
        assert (used[r] > 0) == bool(fitting)
        left[r] -= size
        used[r] += 1


@given(st.integers(8, 64), st.integers(1, 30), st.integers(0, 2**16))
def test_rows_are_near_the_fewest(length: int, fewest: int, seed: int):
    """Full rows, cut at random, within the bound of first-fit decreasing: 11/9 as many and 6/9 more (Dosa 2007)."""
    rng = np.random.default_rng(seed)
    cuts = [np.sort(rng.choice(np.arange(1, length), rng.integers(0, 4), replace=False)) for _ in range(fewest)]
    lengths = np.concatenate([np.diff([0, *cut, length]) for cut in cuts])
    assert fewest <= pack(rng.permutation(lengths), length).count <= 11 / 9 * fewest + 6 / 9


def test_realistic_lengths_are_packed_tight():
    """Sentences of 32 tokens in the mean, cut at 128, in batches of 256: nearly no position is padding."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        lengths = np.clip(rng.lognormal(3.2, 0.7, 256), 4, 128).astype(int)
        needed = -(-lengths.sum() // 128)
        assert pack(lengths, 128).count <= needed + 1


def cost_of(sizes: tuple[int, ...], needs: list[int], cost, price: float) -> float:
    return sum(cost(min(size for size in sizes if size >= need)) for need in needs) + price * len(sizes)


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=20),
    st.integers(1, 4),
    st.sampled_from([0.5, 1, 2]),
    st.sampled_from([0, 3, 20]),
)
def test_sizes_are_the_best_there_are(needs: list[int], count: int, power: float, price: float):
    def cost(size):
        return (3 + size) ** power

    found = best_sizes(np.asarray(needs), count, cost, price)
    others = sorted(set(needs) - {max(needs)})
    choices = (c for n in range(min(count, len(others) + 1)) for c in itertools.combinations(others, n))
    best = min(cost_of((*choice, max(needs)), needs, cost, price) for choice in choices)
    assert found == sorted(set(found)) and len(found) <= count and found[-1] == max(needs)
    assert cost_of(tuple(found), needs, cost, price) == pytest.approx(best, rel=1e-12)


def step_cost(rows: int, length: int) -> float:
    return rows * length * (1 + length / 200)


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[np.ndarray], dict]:
    """Batches of lengths, and what to plan for them."""
    longest = draw(st.integers(4, 60))
    lengths = st.lists(st.integers(1, longest), min_size=1, max_size=24)
    batches = [np.asarray(batch) for batch in draw(st.lists(lengths, min_size=1, max_size=8))]
    return batches, {
        "longest": max(longest, draw(st.integers(1, 80))),
        "packing": draw(st.booleans()),
        "rows_multiple": draw(st.sampled_from([1, 2, 8])),
        "count": draw(st.integers(1, 4)),
    }


def served(batches: list[np.ndarray], shapes: list[BatchShape]) -> list[BatchShape]:
    """The shape of each batch, as the training feed chooses it."""
    length, slots = shapes[-1].length, shapes[-1].slots
    return [fitting(shapes, pack(batch, length, slots).count, int(batch.max())) for batch in batches]


@given(plans())
def test_plans_hold_every_batch(drawn: tuple[list[np.ndarray], dict]):
    batches, wanted = drawn
    shapes = plan(batches, cost=Cost(step_cost), **wanted)
    assert 1 <= len(shapes) <= wanted["count"] and shapes == sorted(set(shapes))
    assert len({shape.slots for shape in shapes}) == 1 and (wanted["packing"] or shapes[0].slots == 1)
    assert all(s.length % MULTIPLE == 0 and s.rows % wanted["rows_multiple"] == 0 for s in shapes)
    assert shapes[-1].length >= wanted["longest"]
    assert len(served(batches, shapes)) == len(batches)


@given(plans())
def test_more_shapes_and_packing_never_cost_more(drawn: tuple[list[np.ndarray], dict]):
    batches, wanted = drawn

    def cost(**changes) -> float:
        shapes = served(batches, plan(batches, cost=Cost(step_cost), **wanted | changes))
        return sum(step_cost(shape.rows, shape.length) for shape in shapes)

    costs = [cost(count=count) for count in (1, 2, 3, 4)]
    assert costs == sorted(costs, reverse=True)
    assert cost(packing=True, count=1) <= cost(packing=False, count=1)


def test_shapes_are_no_larger_than_they_must_be():
    batches = [np.asarray(batch) for batch in ([13, 5, 3], [17, 2], [3])]
    few = {"cost": Cost(step_cost), "count": 1}
    assert plan(batches, longest=17, packing=False, rows_multiple=2, **few) == [BatchShape(4, 24, 1)]
    assert plan(batches, longest=17, packing=False, rows_multiple=1, **few) == [BatchShape(3, 24, 1)]
    assert plan(batches, longest=17, packing=True, rows_multiple=1, **few) == [BatchShape(1, 24, 3)]
    assert plan(batches, longest=17, packing=True, rows_multiple=8, **few) == [BatchShape(8, 24, 3)]
    three = plan(batches, longest=17, packing=False, rows_multiple=1, cost=Cost(step_cost), count=3)
    assert three == [BatchShape(3, 8, 1), BatchShape(3, 16, 1), BatchShape(3, 24, 1)]


def test_the_length_of_rows_suits_every_batch_of_few():
    """The second is cheaper in rows of 32: three of its examples fill one."""
    batches = [np.full(1, 16), np.full(12, 10)]
    found = plan(batches, longest=16, packing=True, rows_multiple=1, count=1, cost=Cost(step_cost))
    assert found == [BatchShape(4, 32, 3)]


@pytest.mark.parametrize("longest", [128, 512, 3_688, 8_192])
def test_few_lengths_of_rows_are_tried_however_long_items_are(monkeypatch, longest):
    """Each trial packs all batches: of a document's thousands of positions every 32nd would take minutes."""
    tried, plain = set(), packing.pack
    monkeypatch.setattr(packing, "pack", lambda lengths, length: tried.add(length) or plain(lengths, length))
    batches = [np.full(8, longest - 5), np.full(8, longest // 3)]
    (shape,) = plan(batches, longest=longest, packing=True, rows_multiple=1, count=1, cost=Cost(step_cost))
    assert min(tried) == longest <= shape.length and max(tried) > 3.7 * longest
    assert 12 <= len(tried) <= 49


def test_a_batch_beyond_all_shapes_has_one_of_its_own():
    shapes = [BatchShape(4, 32, 6), BatchShape(8, 32, 6)]
    assert [fitting(shapes, rows, 30, parts=4).rows for rows in (1, 4, 5, 8, 9, 13)] == [4, 4, 8, 8, 12, 16]
    assert fitting(shapes, 9, 30, parts=4) == BatchShape(12, 32, 6)


def test_the_shapes_of_a_long_run_take_bounded_time_and_hold_its_batches(monkeypatch):
    """Lengths with a long tail; of a run of a million steps no more batches are packed than of one of a thousand."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(0.04, 3000), 120)
    items = {"train": Items(np.arange(len(lengths) + 1), lengths)}
    order, model = Order(lengths, 16, seed=0), models.build(support.SMALL)
    packed = []
    plain = packing.pack
    monkeypatch.setattr(packing, "pack", lambda *given: packed.append(1) or plain(*given))
    short = job._shapes(items, order, 1000, 2, config.Data(), model)
    few, packed[:] = len(packed), []
    long = job._shapes(items, order, 1_000_000, 2, config.Data(), model)
    assert len(packed) <= 1.5 * few
    for shapes, steps in ((short, 1000), (long, 1_000_000)):
        beyond = 0
        for i in range(0, steps, 1 if steps == 1000 else 503):
            size = lengths[order[i]]
            rows = plain(size, shapes[-1].length, shapes[-1].slots)
            shape = fitting(shapes, rows.count, int(size.max()), parts=2)
            assert shape.rows >= rows.count and shape.rows % 2 == 0
            beyond += shape not in shapes
        assert beyond == 0 if steps == 1000 else beyond <= 2
