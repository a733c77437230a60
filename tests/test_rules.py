"""Sharding rules: which of them counts, and what they make of a parameter. Nothing is placed on a device."""

from typing import Any

import jax
import pytest
from jax.sharding import PartitionSpec

from jaxft import config, sharding
from jaxft.errors import UserError
from jaxft.models.nn import Leaf

DEVICES = [jax.devices()[0]] * 8
"""The rules look at the shape of a mesh alone."""
MESH = sharding.make_mesh(config.Mesh(data=1, fsdp=2, tensor=4), DEVICES)


def spec(rules: list[str], path: str = "layers/0/query/kernel", shape: tuple[int, ...] = (16, 8)) -> PartitionSpec:
    return sharding.param_spec(path, Leaf(shape, ("embed", "heads")), MESH, sharding.read_rules(rules))


def test_the_last_pattern_that_matches_counts():
    broad, narrow = ".*/kernel=none|fsdp", "layers/0/.*=tensor|none"
    assert spec([broad, narrow]) == PartitionSpec(("tensor",), None)
    assert spec([narrow, broad]) == PartitionSpec(None, ("fsdp",))
    assert spec([broad, narrow], "layers/1/query/kernel") == PartitionSpec(None, ("fsdp",))


def test_a_pattern_is_of_the_whole_path_and_goes_before_axes():
    assert spec([]) == PartitionSpec(("fsdp",), ("tensor",))
    assert spec(["kernel=none|none"]) == spec(["layers/0=none|none"]) == PartitionSpec(("fsdp",), ("tensor",))
    assert spec([".*kernel=tensor+fsdp"]) == PartitionSpec(("tensor", "fsdp"))
    assert spec(["heads=none"]) == PartitionSpec(("fsdp",), None)
    assert spec(["embed=none", "heads=fsdp+tensor", "heads=fsdp"]) == PartitionSpec(None, ("fsdp",))


@pytest.mark.parametrize(
    ("rules", "shape", "said"),
    [
        ([".*=fsdp|tensor|none"], (16, 8), r"has 2 dimensions, but '\.\*' splits 3"),
        ([".*=none|fsdp+tensor"], (16, 12), r"splits 12 over fsdp\+tensor, which is 8 and no divisor"),
        (["embed=tensor"], (16, 8), "embed and heads are both split over tensor; add heads=none"),
        (["kernel"], (16, 8), "'kernel' is no rule"),
        (["=fsdp"], (16, 8), "'=fsdp' is no rule"),
        (["mlp=fsdp|none"], (16, 8), r"mlp is one dimension; .* write mlp=fsdp\+tensor"),
        ([".*=fsdp|fsdp"], (16, 8), "names fsdp twice"),
        (["mlp=tensors"], (16, 8), "no mesh axis 'tensors'; .*tensor"),
        (["(=fsdp"], (16, 8), r"\( is no regular expression"),
    ],
)
def test_rules_that_do_not_fit(rules, shape, said):
    with pytest.raises(UserError, match=said):
        spec(rules, shape=shape)


def test_a_dimension_that_is_not_divided_stays_whole():
    assert spec([], shape=(15, 8)) == PartitionSpec(None, ("tensor",))
    assert spec([], shape=(16, 6)) == PartitionSpec(("fsdp",), None)
    rules = sharding.read_rules(["mlp=fsdp+tensor", "embed=fsdp"])
    found = sharding.partition_spec((8, 8, 8), ("mlp", "embed", None), MESH, rules)  # pyright: ignore
    assert found == PartitionSpec(("fsdp", "tensor"), None, None)  # of two that ask for fsdp, the first has it


def test_sizes_of_a_mesh():
    def shape(**sizes: Any) -> tuple[int, ...]:
        return sharding.make_mesh(config.Mesh(**sizes), DEVICES).devices.shape

    assert shape(data=-1, fsdp=2, tensor=2) == (2, 2, 2) and shape(data=8, fsdp=1, tensor=1) == (8, 1, 1)
    assert shape(data=2, fsdp=-1, tensor=1) == (2, 4, 1) and shape(data=1, fsdp=2, tensor=-1) == (1, 2, 4)
    for wrong in ({"data": -1, "fsdp": -1}, {"data": 0}, {"data": 3, "fsdp": 1}, {"data": -1, "fsdp": 3}):
        with pytest.raises(UserError, match=r"config\.mesh is data"):
            shape(**{"tensor": 1, "fsdp": 1, **wrong})
