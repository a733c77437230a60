"""The arrays of a batch as they are laid out on the host: `jaxft.data.batches`."""

import numpy as np
import pytest
import support

from jaxft.batch import IGNORED, BatchShape, put_before
from jaxft.data.batches import assemble
from jaxft.data.features import Features
from jaxft.data.packing import Rows

TARGETS = support.TASKS["token"].task.targets
FEATURES = Features(
    np.asarray([0, 2, 5, 6]),
    {"input_ids": np.asarray([11, 12, 21, 22, 23, 31], np.int32), "labels": np.asarray([1, 2, 0, 1, 2, 1], np.int32)},
    {},
)
SHAPE = BatchShape(rows=3, length=5, slots=2)
PLACES = Rows(row=np.asarray([0, 1, 0]), slot=np.asarray([0, 0, 1]), start=np.asarray([0, 1, 3]))


def test_every_token_is_where_its_example_lies():
    host = assemble(FEATURES, np.arange(3), PLACES, SHAPE, TARGETS)
    found = {name: array.tolist() for name, array in host.arrays.items()}
    assert found["input_ids"] == [[11, 12, 0, 31, 0], [0, 21, 22, 23, 0], [0] * 5]
    assert found["segment_ids"] == [[1, 1, 0, 2, 0], [0, 1, 1, 1, 0], [0] * 5]
    assert found["positions"] == [[0, 1, 0, 0, 0], [0, 0, 1, 2, 0], [0] * 5]
    assert found["labels"] == [[1, 2, IGNORED, 1, IGNORED], [IGNORED, 0, 1, 2, IGNORED], [IGNORED] * 5]
    assert found["starts"] == [[0, 3], [1, 0], [0, 0]]
    assert found["weights"] == [[1, 1], [1, 0], [0, 0]]
    assert found["order"] == [[0, 2], [1, 0], [0, 0]]
    assert host.tokens == 6


@pytest.mark.parametrize("rows", [(0, 1), (1, 2), (1, 3), (2, 3)])
def test_a_process_holds_its_own_rows(rows):
    whole = assemble(FEATURES, np.arange(3), PLACES, SHAPE, TARGETS)
    part = assemble(FEATURES, np.arange(3), PLACES, SHAPE, TARGETS, rows)
    for name, array in part.arrays.items():
        np.testing.assert_array_equal(array, whole.arrays[name][slice(*rows)], err_msg=name)
    assert part.tokens == whole.tokens  # of the whole batch


def test_virtual_tokens_come_first_in_their_example():
    """Two for each of two slots: an example's own positions begin after them, and they have no targets."""
    host = assemble(FEATURES, np.arange(3), PLACES, SHAPE, TARGETS)
    batch, places = put_before(support.arrays(host), TARGETS, 2)
    found = {name: np.asarray(x).tolist() for name, x in batch.items()}
    assert found["input_ids"][:2] == [[-2, -1, 11, 12, -2, -1, 31, 0, 0], [-2, -1, 21, 22, 23, -2, -1, 0, 0]]
    assert found["segment_ids"][:2] == [[1, 1, 1, 1, 2, 2, 2, 0, 0], [1, 1, 1, 1, 1, 2, 2, 0, 0]]
    assert found["positions"][:2] == [[0, 1, 2, 3, 0, 1, 2, 2, 2], [0, 1, 2, 3, 4, 0, 1, 2, 2]]
    assert found["labels"][0] == [IGNORED, IGNORED, 1, 2, IGNORED, IGNORED, 1, IGNORED, IGNORED]
    assert found["token_type_ids"] == [[0] * 9] * 3
    assert found["starts"] == [[0, 4], [0, 5], [0, 2]]
    assert found["weights"] == [[1, 1], [1, 0], [0, 0]]
    assert np.take_along_axis(np.asarray(batch["input_ids"]), np.asarray(places), 1).tolist() == (
        host.arrays["input_ids"].tolist()
    )
