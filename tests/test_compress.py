"""Models made smaller: what goes first, what stays, and that PyTorch computes the same from what is left."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import support
import torch_reference

from jaxft import models
from jaxft.errors import UserError
from jaxft.hub import export
from jaxft.models import nn
from jaxft.out import prune

CASE = support.TASKS["single_label"]
QUICK = ("bert", "modernbert")
LENGTHS = [6, 4, 5, 6]


def small(kind: str) -> tuple[models.Model, prune.Sized]:
    """A random model with a head; its feed-forward nets have 24 units."""
    hf = support.ARCHITECTURES[kind]
    model = models.build(hf, dropout=0.0)
    return model, prune.Sized(dict(hf), support.random_params(CASE.task, model, seed=3))


def examples(hf: dict[str, Any]) -> Any:
    return support.random_features(np.random.default_rng(4), CASE, LENGTHS, hf)


def logits(sized: prune.Sized) -> np.ndarray:
    """Of the same examples, by a model of these sizes."""
    features, model = examples(sized.hf), models.build(sized.hf, dropout=0.0)
    host = support.lay_out(features, CASE.task, max(LENGTHS))
    outputs = CASE.task.forward(sized.params, model, support.arrays(host), nn.Run())
    return support.by_example(outputs, CASE.task, host, features)["logits"]


def of_torch(torch: Any, model: Any, hf: dict[str, Any]) -> np.ndarray:
    inputs = torch_reference.torch_inputs(examples(hf), CASE.task, max(LENGTHS), hf.get("pad_token_id", 0))
    with torch.no_grad():
        return torch_reference.answers(CASE.task, model, inputs)[1]["logits"].numpy()


def without_effect(model: models.Model, sized: prune.Sized, units: dict[str, np.ndarray]) -> prune.Sized:
    """The same, but that nothing reads these units."""
    flat = nn.flatten(sized.params)
    for layer, end in prune.outer_layers(model).items():
        flat[f"{end}/kernel"] = flat[f"{end}/kernel"].at[units[layer]].set(0.0)
    return prune.Sized(sized.hf, nn.unflatten(flat))


@pytest.mark.parametrize("kind", support.once(support.ARCHITECTURES, *QUICK))
def test_units_that_nothing_reads_go_first_and_change_nothing(kind: str):
    model, sized = small(kind)
    rng = np.random.default_rng(5)
    idle = {layer: np.sort(rng.permutation(24)[:9]) for layer in model.facts.layers}
    sized = without_effect(model, sized, idle)
    host = support.lay_out(examples(sized.hf), CASE.task, max(LENGTHS))
    scores = prune.importance(CASE.task, model, sized.params, [support.arrays(host)] * 2)
    keep = prune.most_important(scores, 15)
    for layer, kept in keep.items():
        assert sorted([*kept, *idle[layer]]) == list(range(24)), layer
    found = prune.with_units(model, sized, keep)
    assert found.hf[model.facts.inner_key] == 15
    declared = nn.flatten(CASE.task.param_spec(models.build(found.hf)))
    assert {path: x.shape for path, x in nn.flatten(found.params).items()} == {p: x.shape for p, x in declared.items()}
    np.testing.assert_allclose(logits(found), logits(sized), atol=1e-5)


def test_importance_is_the_sum_of_what_batches_say():
    """Against activation x gradient, written down for one net."""
    model, sized = small("bert")
    batches = [support.arrays(support.lay_out(examples(sized.hf), CASE.task, 8))]
    once, twice = (prune.importance(CASE.task, model, sized.params, batches * n) for n in (1, 2))
    layer = model.facts.layers[-1]
    np.testing.assert_allclose(twice[layer], 2 * once[layer], rtol=1e-6)
    path, step = f"{prune.outer_layers(model)[layer]}/kernel", 1e-2
    flat = nn.flatten(sized.params)

    def loss(factor: float, unit: int) -> float:
        changed = nn.unflatten(flat | {path: flat[path].at[unit].multiply(factor)})
        return float(CASE.task.loss(CASE.task.forward(changed, model, batches[0], nn.Run()), batches[0])[0])

    for unit in (0, 7):
        slope = (loss(1 + step, unit) - loss(1 - step, unit)) / (2 * step)
        assert abs(abs(slope) - once[layer][unit]) < 2e-2 * max(map(float, once[layer]))


@pytest.mark.parametrize("kind", support.once(support.ARCHITECTURES, *QUICK))
def test_all_units_and_layers_are_the_model_itself(kind: str):
    model, sized = small(kind)
    same = prune.with_units(model, sized, {layer: np.arange(24) for layer in model.facts.layers})
    same = prune.with_layers(model, same, range(prune.depth(model)))
    assert models.build(same.hf) == models.build(sized.hf)
    there, here = nn.flatten(sized.params), nn.flatten(same.params)
    assert here.keys() == there.keys() and all((np.asarray(here[path]) == there[path]).all() for path in there)


@pytest.mark.parametrize("kind", support.once(support.ARCHITECTURES, *QUICK))
def test_pytorch_opens_a_smaller_one(torch, kind: str, tiny_model, tmp_path: Path):
    """Fewer units, other ones in each layer, and a layer less."""
    import transformers

    model, sized = small(kind)
    rng = np.random.default_rng(6)
    found = prune.with_units(model, sized, {layer: rng.permutation(24)[:10] for layer in model.facts.layers})
    keep = [0, *range(2, prune.depth(model))] if model.facts.repeats == 1 else [0, 1]
    found = prune.with_layers(models.build(found.hf, 0.0), found, keep)
    hf, architecture = torch_reference.in_transformers(found.hf), model.hf_class(CASE.task.hf_class)
    if hf["model_type"] != found.hf["model_type"]:
        pytest.skip("its code is on the Hub; transformers has the same under another name, which is tried")
    hf |= support.published(CASE.task)
    export.export(tmp_path / "small", found.params, hf, architecture, tiny_model, "A small model.\n")
    kind_of_torch = getattr(transformers, architecture)
    theirs = kind_of_torch.from_pretrained(tmp_path / "small", attn_implementation="eager").eval()
    np.testing.assert_allclose(of_torch(torch, theirs, found.hf), logits(found), atol=1e-4)


@pytest.mark.parametrize("kind", support.once([k for k in support.FILES if k != "albert"], *QUICK))
def test_a_layer_less_is_pytorchs_model_with_that_layer_deleted(torch, kind: str, tmp_path: Path):
    hf = support.with_layers(support.ARCHITECTURES[kind], 3)
    theirs = torch_reference.torch_model(hf, CASE.task, seed=7)
    torch_reference.save(theirs, tmp_path, hf)
    model, params = torch_reference.load(tmp_path, CASE.task, 0.0)
    found = prune.with_layers(model, prune.Sized(hf, params), [0, 2])
    (stack,) = [x for x in theirs.modules() if isinstance(x, torch.nn.ModuleList) and len(x) == 3]
    del stack[1]
    theirs.config.num_hidden_layers, theirs.config.use_cache = 2, False
    for key, values in model.facts.per_layer.items():
        setattr(theirs.config, key, [values[0], values[2]])
    np.testing.assert_allclose(logits(found), of_torch(torch, theirs, hf), atol=1e-4)


def test_older_names_of_a_size_have_the_new_one_too():
    """Of NomicBERT on the Hub, whose own code reads these alone."""
    hf = support.ARCHITECTURES["nomic_bert"] | {"n_inner": 24, "n_layer": 2}
    found = prune.with_settings(models.build(hf), hf, {"intermediate_size": 10})
    assert (found["intermediate_size"], found["n_inner"], found["n_layer"]) == (10, 10, 2)


def test_the_layer_that_is_needed_least_goes():
    """By a loss that names it; ModernBERT's first layer, which has no normalization, stays whatever it says."""
    model, sized = small("modernbert")
    marked = {
        i: np.asarray(nn.flatten(sized.params)[f"{layer}/mlp_norm/scale"]) for i, layer in enumerate(model.facts.layers)
    }

    def loss(costs: dict[int, float]):
        def of(sized: prune.Sized) -> float:
            left = [np.asarray(x) for path, x in nn.flatten(sized.params).items() if path.endswith("mlp_norm/scale")]
            return sum(cost for i, cost in costs.items() if not any((x == marked[i]).all() for x in left))

        return of

    assert prune.least_needed(model, sized, 2, loss({0: 0.0, 1: 3.0, 2: 2.0})) == [0, 1]
    assert prune.least_needed(model, sized, 1, loss({0: 0.0, 1: 3.0, 2: 2.0})) == [0]
    assert prune.least_needed(*small("albert"), 2, loss({})) == [0, 1]


def test_what_cannot_be_made_smaller_is_one_line():
    model, sized = small("modernbert")
    for wrong, said in (
        (lambda: prune.with_layers(model, sized, [1, 2]), "layer 0 must stay"),
        (lambda: prune.least_needed(model, sized, 4, lambda _: 0.0), "has 3 layers; keep 1 to 3"),
        (lambda: prune.with_units(model, sized, {"model/layers/0": np.arange(25)}), "24 units; keep 1 to 24"),
        (lambda: prune.with_layers(*small("albert"), [0]), "multiple of the model's 2 groups"),
    ):
        with pytest.raises(UserError, match=said) as error:
            wrong()
        assert "\n" not in str(error.value)


def test_layers_are_counted_as_config_json_does():
    """Of ALBERT also where a group is several layers."""
    for hf in (*support.ARCHITECTURES.values(), support.ARCHITECTURES["albert"] | {"inner_group_num": 2}):
        model = models.build(hf)
        assert prune.depth(model) == hf[model.facts.depth_key]
