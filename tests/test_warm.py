"""What a service asks of a Predictor: shapes fixed beforehand, tokenizing on many threads, several inputs at once."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from runs import count_compilations

from jaxft import config
from jaxft.data.features import Items
from jaxft.errors import UserError
from jaxft.predict.predictor import Predictor
from jaxft.predict.shapes import Fixed, fixed_shapes

TEXTS = ["what a day", "no", "an apple a day keeps " * 5, "never again, I said, and said it twice", "what a day"]


@pytest.fixture(scope="module")
def pair(finished) -> tuple[Predictor, Predictor]:
    """The same model twice: warm, and as it is opened."""
    warm = Predictor.open(str(finished))
    warm.warm(128, threads=4)
    return warm, Predictor.open(str(finished))


def probabilities(answers) -> list[float]:
    return [answer["probability"] for answer in answers]


def test_answers_are_the_same_and_nothing_is_compiled(pair):
    warm, cold = pair
    calls = [TEXTS, TEXTS[:1], TEXTS * 30, ["a long one " * 40], ["short"] * 80]
    wanted = [probabilities(cold(texts)) for texts in calls]
    found = []
    assert count_compilations(lambda: found.extend(probabilities(warm(texts)) for texts in calls)) == 0
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_several_inputs_are_computed_together_and_told_apart(pair):
    warm, cold = pair
    several = [TEXTS[:2], TEXTS[2:3], TEXTS[::-1]]
    inputs = [warm.tokenized(texts) for texts in several]
    outputs = warm.compute_each([one.features for one in inputs])
    for texts, one, of in zip(several, inputs, outputs, strict=True):
        found = probabilities(warm.answers_of(one, of))
        np.testing.assert_allclose(found, probabilities(cold(texts)), rtol=1e-4)


def test_several_threads_tokenize_at_once(pair):
    warm, _ = pair
    wanted = [warm.tokenized([text]).features.tokens["input_ids"].tolist() for text in TEXTS]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: warm.tokenized([TEXTS[i % 5]]).features.tokens["input_ids"], range(400)))
    assert all(ids.tolist() == wanted[i % 5] for i, ids in enumerate(found))


def test_which_texts_are_cut(pair):
    warm, _ = pair
    words = "day " * (warm.experiment.data.max_length - 2)  # and two tokens around them: it just fits
    texts = ["a day", words, words + "day", "a day", words * 9]
    assert warm.cut(warm.tokenized(texts)).tolist() == [False, False, True, False, True]
    assert warm.cut(warm.tokenized(texts[:1])).tolist() == [False]


@pytest.mark.parametrize("data", [[], ()])
def test_nothing_to_tokenize(pair, data):
    with pytest.raises(UserError, match="there is no text and no row to answer"):
        pair[0].tokenized(data)


def test_half_a_character_is_told(pair):
    with pytest.raises(UserError, match=r"texts, row 2: .*half a character"):
        pair[0].tokenized(["a", "b \ud800"])


def items(sizes) -> Items:
    return Items(np.arange(len(sizes) + 1), np.asarray(sizes))


@pytest.mark.parametrize("packing", ["auto", "off"])
@pytest.mark.parametrize("longest", [24, 100, 512])
def test_every_batch_has_one_of_the_shapes_and_room(packing, longest):
    experiment = config.Experiment(data=config.Data(max_length=longest, packing=packing))
    shapes = fixed_shapes(experiment, 2, 2048, together=False)
    assert all(shape.rows % 2 == 0 for shape in shapes) and len(shapes) == len(set(shapes))
    fixed, rng = Fixed(shapes, width=32, each=32), np.random.default_rng(0)
    for _ in range(60):
        sizes = rng.integers(2, rng.integers(3, longest + 1), rng.integers(1, 150))
        parts = fixed.parts(items(sizes))
        assert sorted(itertools.chain.from_iterable(part.items for part in parts)) == list(range(len(sizes)))
        for part in parts:
            assert part.shape in shapes
            assert part.rows.row.max() < part.shape.rows and part.rows.slot.max() < part.shape.slots
            assert (part.rows.start + sizes[part.items]).max() <= part.shape.length


def test_a_row_has_slots_for_what_lies_in_it():
    """A text a row has one, the parts of an input four; packed, so many as there may be, fewer where each costs."""

    def slots(packing, **kwargs):
        experiment = config.Experiment(data=config.Data(max_length=128, packing=packing))
        return {shape.length: shape.slots for shape in fixed_shapes(experiment, 1, 512, **kwargs)}

    assert slots("auto", together=False) == {16: 4, 32: 4, 64: 8, 128: 16}
    assert slots("auto", together=False, virtual=True) == {16: 4, 32: 4, 64: 4, 128: 8}
    assert slots("off", together=False) == slots("off", together=False, virtual=True)
    assert slots("off", together=False) == dict.fromkeys(range(8, 129, 8), 1)
    assert set(slots("off", together=True).values()) == {4}


def test_a_short_text_alone_has_the_smallest_shape():
    experiment = config.Experiment(data=config.Data(max_length=512))
    fixed = Fixed(fixed_shapes(experiment, 1, 4096, together=False), width=384, each=32)
    for size, length in ((9, 16), (17, 32), (33, 64), (100, 128), (300, 512)):
        (part,) = fixed.parts(items([size]))
        assert (part.shape.rows, part.shape.length) == (1, length)


def test_long_texts_do_not_make_short_ones_lie_in_long_rows():
    experiment = config.Experiment(data=config.Data(max_length=512))
    fixed = Fixed(fixed_shapes(experiment, 1, 4096, together=False), width=384, each=32)
    parts = fixed.parts(items([500] + [100] * 12))
    assert sum(part.shape.rows * part.shape.length for part in parts) <= 512 + 12 * 128


def test_an_item_without_room_is_told():
    experiment = config.Experiment(data=config.Data(max_length=64))
    fixed = Fixed(fixed_shapes(experiment, 1, 256, together=True), width=32, each=32)
    fixed.check(Items(np.asarray([0, 2]), np.asarray([120])), "rows")
    with pytest.raises(UserError, match=r"rows, row 2: it has 9,000 tokens in 3 parts; this server takes"):
        fixed.check(Items(np.asarray([0, 2, 5]), np.asarray([120, 9000])), "rows")
