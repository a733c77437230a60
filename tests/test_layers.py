"""Which layers of a student are to be as which of a teacher's, and what a batch has of them."""

import dataclasses
from typing import Any

import pytest
import support

from jaxft import config, models, objectives
from jaxft.errors import UserError
from jaxft.objectives import layers
from jaxft.objectives.layers import PREFIX, States

MODEL = models.build(support.SMALL | {"num_attention_heads": 4})
OPTIONS = config.Objective(teacher=("a",), layers=("1:1", "2:4"), teacher_width=24, relation_heads=2)
ON = {"hidden": 0.7, "attention": 0.3, "relations": 1.5}


def test_layers_are_paired():
    options = config.Objective()
    assert layers.pairs(options, 3, 6) == {1: 2, 2: 4, 3: 6} and layers.pairs(options, 2, 3) == {1: 2, 2: 3}
    assert layers.pairs(options, 6, 3) == {1: 1, 2: 1, 3: 2, 4: 2, 5: 3, 6: 3}
    named = config.Objective(layers=("1:4", "3:2"))
    assert layers.pairs(named, 3, 6) == layers.pairs(named, 3) == {1: 4, 3: 2}
    for pair, said in (
        ("3", r"has '3'; write STUDENT:TEACHER"),
        ("3:x", r"has '3:x'; write STUDENT:TEACHER"),
        ("4:6", "has '4:6', but the model has layers 1 to 3"),
        ("3:7", "has '3:7', but the teacher has layers 1 to 6"),
        ("0:1", "has '0:1', but the model has layers 1 to 3"),
        ("1:0", "has '1:0', but the teacher has layers 1 to 6"),
    ):
        with pytest.raises(UserError, match=rf"config\.objective\.layers {said}"):
            layers.pairs(config.Objective(layers=(pair,)), 3, 6)


def test_a_batch_has_what_is_compared():
    """Hidden states and queries of both layers that are named, and values of the last; each once."""
    found = States.of(OPTIONS, ON, MODEL)
    assert found.wanted == {"hidden": (1, 2), "attention": (1, 2), "relations": (2,)}
    assert found.heads == {"attention": 4, "relations": 2}
    names = [f"{part}/{layer}" for part in ("hidden", "query", "key") for layer in (1, 2)]
    sizes = {name.removeprefix(PREFIX): (target.per, target.size) for name, target in found.targets.items()}
    assert sizes == {name: ("token", (16,) if "hidden" in name else (24,)) for name in [*names, "value/2"]}
    assert len(found.names) == len({*found.names}) == len(sizes)
    plain = States.of(dataclasses.replace(OPTIONS, teacher_width=0, relation_heads=0, layers=()), ["relations"], MODEL)
    assert plain.wanted == {"relations": (2,)} and plain.heads["relations"] == 4
    assert {target.size for target in plain.targets.values()} == {(16,)}
    assert not States.of(OPTIONS, {}, MODEL).targets


def test_sizes_of_a_model():
    repeated = models.build(support.ARCHITECTURES["albert"])
    assert (layers.depth(MODEL), layers.across(MODEL)) == (2, 16) and layers.depth(repeated) == 4
    assert layers.across(models.build(support.ARCHITECTURES["qwen3"])) == 24, "four heads of six numbers"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"relation_heads": 5}, "relation_heads is 5, which does not divide the model's 16 numbers of a query"),
        ({"relation_heads": 16}, "is 16, which does not divide the teacher's 24 numbers of a query"),
        ({"layers": ("3:1",)}, "has '3:1', but the model has layers 1 to 2"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(keys: dict[str, Any], said: str):
    with pytest.raises(UserError, match=said):
        States.of(dataclasses.replace(OPTIONS, **keys), ON, MODEL)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"objective.teacher": ()}, r"objective\.hidden compares with the states of one teacher, but .* names none; "),
        ({"objective.teacher": ("a", "b")}, r"objective\.teacher names 2; name one"),
        ({"adapt": "prompt"}, r"objective\.hidden compares token by token, among which adapt=prompt puts others"),
    ],
)
def test_what_does_not_compose_is_refused(keys: dict[str, Any], said: str):
    case = support.TASKS["single_label"]
    experiment = config.Experiment(task=case.options)
    support.set_keys(experiment, {"objective.teacher": ("a",), "objective.hidden": 1.0} | keys)
    with pytest.raises(UserError, match=said):
        objectives.check(experiment, case.task, {})
