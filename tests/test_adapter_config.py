"""The terms in which `peft` says what an adapter is: read, or refused by name; and what its tensors become here.

`tests/laws/test_peft_terms.py` compares what is computed with `peft` itself.
"""

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import support
from safetensors.numpy import load_file, save_file

from jaxft import adapt, config, models, program, tasks
from jaxft.errors import UserError
from jaxft.hub import adapter_config, adapters

WIDTH = support.SMALL["hidden_size"]
POOLER, QUERY = "bert.pooler.dense", "bert.encoder.layer.{}.attention.self.query"


def directory(folder: Path, kind: str = "LORA", **values: Any) -> Path:
    """A directory of `peft` with one tensor, to be refused or not before it is read."""
    part = {"LORA": "lora_A.weight", "ADALORA": "lora_A", "IA3": "ia3_l"}.get(kind)
    name = f"{adapter_config.INSIDE}bert.encoder.layer.0.attention.self.query.{part}" if part else adapters.VIRTUAL
    shape = (16, 1) if kind == "IA3" else (8, 16)
    save_file({name: np.ones(shape, np.float32)}, folder / adapters.WEIGHTS)
    known = {"peft_type": kind, "target_modules": ["query"], "num_virtual_tokens": 8} | values
    (folder / adapters.CONFIG).write_text(json.dumps(known))
    return folder


REFUSED: dict[str, Any] = {
    "bias": "lora_only",
    "lora_bias": True,
    "trainable_token_indices": [1, 2],
    "target_parameters": ["weight"],
    "layer_replication": [[0, 2]],
    "alora_invocation_tokens": [5],
    "use_qalora": True,
    "velora_config": {"rank": 1},
    "monteclora_config": {"n": 2},
    "use_bdlora": {"n": 2},
    "arrow_config": {"n": 2},
    "kasa_config": {"n": 2},
    "a_key_of_a_later_version": 1,
    "num_transformer_submodules": 2,
}
"""Keys that change what an adapter computes, in ways that are not there here."""


@pytest.mark.parametrize("key", REFUSED)
def test_a_term_that_cannot_be_read_is_refused_by_name(tmp_path, key):
    with pytest.raises(UserError, match=rf"adapter_config\.json: {key} is "):
        adapters.options(directory(tmp_path, **{key: REFUSED[key]}))


@pytest.mark.parametrize(
    "first", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "of a later version"]
)
def test_an_adapter_that_has_changed_its_base_is_refused(tmp_path, first):
    """Its corrections are of other weights than those of the base: together they would be wrong."""
    with pytest.raises(UserError, match=f"init_lora_weights is '{first}', which has changed the base model's weights"):
        adapters.options(directory(tmp_path, init_lora_weights=first))


@pytest.mark.parametrize(("kind", "name"), [
    ("LORA", "LoraConfig"), ("ADALORA", "AdaLoraConfig"), ("IA3", "IA3Config"),
    ("PROMPT_TUNING", "PromptTuningConfig"), ("PREFIX_TUNING", "PrefixTuningConfig"),
])  # fmt: skip
def test_every_key_of_peft_is_read_or_without_effect_or_refused(tmp_path, kind, name):
    """None is new since this was written; those that are refused may be there with their default."""
    peft = pytest.importorskip("peft", reason="the reference, peft, is not installed")
    options = getattr(peft, name)(num_virtual_tokens=8) if "TUNING" in kind else getattr(peft, name)(
        target_modules=["query"], **({"total_step": 9} if kind == "ADALORA" else {})
    )  # fmt: skip
    keys = {field.name for field in dataclasses.fields(options)}
    assert keys <= adapter_config.READ | adapter_config.WITHOUT_EFFECT | REFUSED.keys()
    assert not (adapter_config.READ | adapter_config.WITHOUT_EFFECT) & REFUSED.keys() - {
        "bias", "num_transformer_submodules",
    }  # fmt: skip
    options.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / adapters.CONFIG).read_text())
    assert adapters.options(directory(tmp_path, **(saved | {"kind": kind})))["adapt"]


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        ("LORA", {"r": 0}, "r is 0; it must be a number above 0"),
        ("LORA", {"lora_alpha": "8"}, "lora_alpha is '8'; it must be a number"),
        ("PROMPT_TUNING", {"num_virtual_tokens": None}, "num_virtual_tokens is None; it must be a number"),
        ("JAXFT", {}, "must hold `method` and `options`"),
        ("JAXFT", {"method": "adapters", "options": {}}, "must hold `method` and `options`"),
    ],
)
def test_a_config_that_is_broken(tmp_path, kind, values, said):
    with pytest.raises(UserError, match=said):
        adapters.options(directory(tmp_path, kind, **values))


def test_what_peft_leaves_out_is_its_default(tmp_path):
    lora = adapters.options(directory(tmp_path))["lora"]
    assert (lora.rank, lora.alpha, lora.dropout, lora.targets) == (8, 8.0, 0.0, ("query",))
    adalora = adapters.options(directory(tmp_path, "ADALORA", deltaT=3, beta1=0.5, beta2=0.6, orth_reg_weight=0.1))
    assert adalora["adalora"] == config.AdaLora(
        rank=12, target=8, every=3, beta1=0.5, beta2=0.6, orthogonality=0.1, targets=("query",)
    )


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("PREFIX_TUNING", {"adapt": "prefix", "prefix": config.Prefix(length=5)}),
        ("PROMPT_TUNING", {"adapt": "prompt", "prompt": config.Prompt(length=5)}),
    ],
)
def test_virtual_tokens(tmp_path, kind, found):
    assert adapters.options(directory(tmp_path, kind, num_virtual_tokens=5)) == found


def test_corrections_outside_the_body_alone(tmp_path):
    save_file(
        {f"{adapter_config.INSIDE}bert.pooler.dense.lora_A.weight": np.ones((8, 16), np.float32)},
        directory(tmp_path) / adapters.WEIGHTS,
    )
    with pytest.raises(UserError, match=r"no layer of the model's body has a lora_A"):
        adapters.options(tmp_path)


def test_a_pattern_is_for_the_end_of_a_name():
    values = {"rank_pattern": {"query": 1, "key": 2, "1.*value": 3}, "r": 8}
    names = ("layer.0.query", "query", "layer.0.subquery", "layer.0.key.x", "layer.1.self.value", "layer.0.self.value")
    assert [adapter_config.rank_of(values, name) for name in names] == [1, 1, 8, 8, 3, 8]


def test_rank_and_scale_where_none_is_written_are_those_of_peft():
    assert adapter_config.rank_of({}, "query") == 8 and adapter_config.scale({}, "query") == 1
    assert adapter_config.scale({"r": 4}, "query") == 2 and adapter_config.scale({"lora_alpha": 4}, "query") == 0.5
    assert adapter_config.scale({"r": 4, "lora_alpha": 6, "use_rslora": True}, "query") == 3


def test_what_layers_are_named():
    """The names that are given where they say all, else those of the layers that have a correction."""
    layers = {f"bert.encoder.layer.{i}.attention.self.{name}": (8, 16) for i in (0, 1, 10) for name in ("key", "value")}
    inside = sorted(layers)
    names = tuple(name.replace(".", "/") for name in inside)

    def targets(**values: Any) -> tuple[str, ...]:
        return adapter_config._targets(values, inside)

    assert targets(target_modules=["key", "value", "absent"]) == ("key", "value")
    assert targets(target_modules=["self.key", "0.attention.self.value"]) == ("self/key", "0/attention/self/value")
    assert targets(target_modules="all-linear") == targets(target_modules="ALL-LINEAR") == ()
    for values in (
        {"target_modules": ".*"},
        {"target_modules": None},
        {"target_modules": ["key"], "layers_to_transform": 0},
        {"target_modules": ["key"], "layers_to_transform": [0]},
        {"target_modules": "all-linear", "exclude_modules": ["query"]},
    ):
        assert targets(**values) == names, values
    assert targets(target_modules=["key"], layers_to_transform=[], exclude_modules=None) == ("key",)


def test_layers_are_in_their_order(tmp_path):
    numbers = (10, 2, 0)
    tensors = {f"{adapter_config.INSIDE}{QUERY.format(i)}.lora_A.weight": np.ones((8, 16), np.float32) for i in numbers}
    save_file(tensors, directory(tmp_path, target_modules=".*") / adapters.WEIGHTS)
    wanted = tuple(QUERY.format(i).replace(".", "/") for i in (0, 2, 10))
    assert adapters.options(tmp_path)["lora"].targets == wanted


def tensors_of(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Random ones, by names in which `__` stands for a point."""
    rng = np.random.default_rng(0)
    return {
        name.replace("__", "."): rng.normal(size=shape).astype(np.float32) for name, shape in sorted(shapes.items())
    }


def read(folder: Path, kind: str, modules: dict[str, dict[str, np.ndarray]], **values: Any) -> tuple[Any, Any, Any]:
    """What is read of a directory with these tensors a module, what it was before, and the program."""
    found = {f"{adapter_config.INSIDE}{name}.{part}": x for name, own in modules.items() for part, x in own.items()}
    save_file(found, folder / adapters.WEIGHTS)
    known = {"peft_type": kind, "target_modules": ".*"} | values
    (folder / adapters.CONFIG).write_text(json.dumps(known))
    task = config.SequenceClassification(labels=("a", "b"), problem="single_label")
    e = config.Experiment(task=task, **adapters.options(folder))
    composed = program.compose(e, models.build(support.SMALL), tasks.build(task), steps=10)
    whole = composed.adaptation.extend(support.random_params(composed.task, composed.model, seed=1), jax.random.key(0))
    start = jax.tree.map(np.asarray, composed.split(whole)[0])
    return adapters.read(folder, composed, start), start, e


def low_rank(rank: int, **more: tuple[int, ...]) -> dict[str, np.ndarray]:
    shapes = {"lora_A__weight": (rank, WIDTH), "lora_B__weight": (WIDTH, rank)}
    return tensors_of(**shapes, **more)


def product(own: dict[str, np.ndarray]) -> np.ndarray:
    """B A, transposed as kernels lie here."""
    return (own["lora_B.weight"].astype(np.float64) @ own["lora_A.weight"].astype(np.float64)).T


@pytest.mark.parametrize("rslora", [False, True])
def test_ranks_and_scales_of_layers(tmp_path, rslora):
    """Each layer's correction is its own scale times B A, whatever rank all of them are given here."""
    modules = {QUERY.format(0): low_rank(2), QUERY.format(1): low_rank(5), POOLER: low_rank(3)}
    keys = {"r": 2, "lora_alpha": 6, "use_rslora": rslora}
    patterns = {"rank_pattern": {"1.attention.self.query": 5, "pooler.dense": 3}, "alpha_pattern": {"pooler.dense": 1}}
    found, start, e = read(tmp_path, "LORA", modules, **keys, **patterns)
    assert e.lora.rank == 5
    here = e.lora.alpha / (5**0.5 if rslora else 5)
    root = (lambda rank: rank**0.5) if rslora else (lambda rank: rank)
    for i, rank in ((0, 2), (1, 5)):
        own = found["lora"]["bert"]["encoder"]["layer"][str(i)]["attention"]["self"]["query"]
        assert own["a"].shape == (WIDTH, 5)
        wanted = 6 / root(rank) * product(modules[QUERY.format(i)])
        np.testing.assert_allclose(here * own["a"] @ own["b"], wanted, rtol=1e-4, atol=1e-5)
    pooler, before = (tree["bert"]["pooler"]["dense"] for tree in (found, start))
    np.testing.assert_allclose(pooler["kernel"] - before["kernel"], 1 / root(3) * product(modules[POOLER]), atol=1e-5)
    np.testing.assert_array_equal(pooler["bias"], before["bias"])


def test_a_pooler_with_dora(tmp_path):
    """Its columns have the lengths that were learned, and the directions of the sum."""
    modules = {name: low_rank(2, lora_magnitude_vector=(WIDTH,)) for name in (QUERY.format(0), QUERY.format(1), POOLER)}
    found, start, _ = read(tmp_path, "LORA", modules, r=2, lora_alpha=5, use_dora=True)
    whole = start["bert"]["pooler"]["dense"]["kernel"] + 2.5 * product(modules[POOLER])
    wanted = whole / np.sqrt((whole**2).sum(0)) * modules[POOLER]["lora_magnitude_vector"]
    np.testing.assert_allclose(found["bert"]["pooler"]["dense"]["kernel"], wanted, atol=1e-5)


@pytest.mark.parametrize("alpha", [6, 0])
def test_adalora_with_ranks_that_were_cut(tmp_path, alpha):
    """A rank that was cut is zeros; the scale is alpha / rank, or 1 without alpha (peft adds 1e-5 to the rank)."""
    shapes = {"lora_A": (2, WIDTH), "lora_B": (WIDTH, 2), "lora_E": (2, 1)}
    modules = {name: tensors_of(**shapes) for name in (QUERY.format(0), QUERY.format(1), POOLER)}
    found, start, e = read(tmp_path, "ADALORA", modules, init_r=4, target_r=2, lora_alpha=alpha)
    own = found["adalora"]["bert"]["encoder"]["layer"]["0"]["attention"]["self"]["query"]
    there = modules[POOLER]
    wanted = (alpha or 4) / (4 + 1e-5) * (there["lora_B"] @ (there["lora_A"] * there["lora_E"])).T
    assert own["value"].shape == (4,) and e.adalora.rank == 4
    np.testing.assert_allclose((own["a"] * own["value"]) @ own["b"], wanted, rtol=1e-4, atol=1e-5)
    pooler, before = (tree["bert"]["pooler"]["dense"]["kernel"] for tree in (found, start))
    np.testing.assert_allclose(pooler - before, wanted, atol=1e-5)


@pytest.mark.parametrize("row", [False, True])
def test_ia3_of_a_pooler(tmp_path, row):
    """A row rescales what goes in, a column what comes out, with the bias."""
    scale = tensors_of(ia3_l=(1, WIDTH) if row else (WIDTH, 1))
    modules = {QUERY.format(0): tensors_of(ia3_l=(WIDTH, 1)), QUERY.format(1): tensors_of(ia3_l=(WIDTH, 1))}
    found, start, e = read(tmp_path, "IA3", modules | {POOLER: scale}, feedforward_modules=".*pooler.*")
    assert (len(e.ia3.outputs), len(e.ia3.inputs)) == (2, 0)
    pooler, before = (tree["bert"]["pooler"]["dense"] for tree in (found, start))
    factor = scale["ia3_l"].reshape(-1)
    np.testing.assert_allclose(pooler["kernel"], before["kernel"] * (factor[:, None] if row else factor), rtol=1e-5)
    np.testing.assert_allclose(pooler["bias"], before["bias"] * (1 if row else factor), rtol=1e-5)


def test_a_saved_pooler_with_a_correction(tmp_path):
    """The kernel that is saved is the one that is corrected, not that of the base."""
    modules = {QUERY.format(0): low_rank(2), QUERY.format(1): low_rank(2)}
    modules[POOLER] = low_rank(2) | tensors_of(weight=(WIDTH, WIDTH))
    found, _, _ = read(tmp_path, "LORA", modules, r=2, lora_alpha=2)
    wanted = modules[POOLER]["weight"].T + product(modules[POOLER])
    np.testing.assert_allclose(found["bert"]["pooler"]["dense"]["kernel"], wanted, atol=1e-5)


def test_ranks_that_disagree(tmp_path):
    """The scale would be wrong."""
    modules = {QUERY.format(0): low_rank(2), QUERY.format(1): low_rank(3)}
    with pytest.raises(
        UserError, match=r"lora_A of bert\.\S*layer\.1\.\S*query has 3 ranks; adapter_config.json says 2"
    ):
        read(tmp_path, "LORA", modules, r=2, alpha_pattern={"query": 3})


def test_a_part_of_the_head_that_should_be_there(tmp_path):
    modules = {QUERY.format(0): low_rank(2), QUERY.format(1): low_rank(2)}
    said = r"base_model\.model\.classifier\.bias is missing, which modules_to_save says it holds"
    with pytest.raises(UserError, match=said):
        read(tmp_path, "LORA", modules, r=2, modules_to_save=["classifier", "score"])
    found, start, _ = read(tmp_path, "LORA", modules, r=2, modules_to_save=["score"])
    np.testing.assert_array_equal(found["classifier"]["kernel"], start["classifier"]["kernel"])


def test_ia3_of_no_layer():
    e = config.Experiment(adapt="ia3", ia3=config.IA3(inputs=(), outputs=()))
    task = tasks.build(config.SequenceClassification(labels=("a", "b"), problem="single_label"))
    with pytest.raises(UserError, match=r"ia3\.outputs and config\.ia3\.inputs are both empty"):
        program.compose(e, models.build(support.SMALL), task, steps=10)


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("prefix", {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 16}),
        ("prompt", {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 8}),
        ("adapter", {"peft_type": "JAXFT", "method": "adapter", "options": config.to_dict(config.Adapter())}),
        ("lora", {"peft_type": "LORA", "r": 8, "lora_alpha": 16.0, "use_dora": False, "lora_dropout": 0.0}),
        ("adalora", {"peft_type": "LORA", "r": 12, "lora_alpha": 12, "use_rslora": False}),
        ("ia3", {"peft_type": "IA3", "feedforward_modules": ["bert.encoder.layer.0.output.dense"]}),
    ],
)
def test_what_is_written(method, wanted):
    layers = ("bert/encoder/layer/0/output/dense", "bert/encoder/layer/0/attention/self/value")
    paths = [*(f"{method}/{layer}/a" for layer in layers), "classifier/kernel", "bert/pooler/dense/bias"]
    e = config.Experiment(adapt=method, model=config.Model(path="a/b"), task=config.TokenClassification())
    e = adapt.resolved(e, models.build(support.SMALL))
    found = adapter_config.written(e, paths, bare=False)
    assert found["base_model_name_or_path"] == "a/b" and found["task_type"] == "TOKEN_CLS"
    assert found["modules_to_save"] == ["classifier", "pooler"]
    assert {key: found.get(key) for key in wanted} == wanted
    if "target_modules" in found:
        assert found["target_modules"] == sorted(layer.replace("/", ".") for layer in layers)
        bare = adapter_config.written(e, paths, bare=True)["target_modules"]
        assert bare == ["encoder.layer.0.attention.self.value", "encoder.layer.0.output.dense"]


@pytest.mark.parametrize("said", [*adapter_config.TASKS.values(), "SEQ_2_SEQ_LM", None])
def test_an_adapter_is_of_the_task_it_says(tmp_path, said):
    """As far as jaxft has a name for what it says, and it says anything."""
    folder = directory(tmp_path, **({"task_type": said} if said else {}))
    kinds = [name for name, one in adapter_config.TASKS.items() if one == said]
    for name in [*adapter_config.TASKS, "MaskedLM"]:
        with nullcontext() if not kinds or name in kinds else pytest.raises(UserError) as raised:
            adapter_config.check_task(folder, getattr(config, name)())
        if raised is not None:
            file = folder / "adapter_config.json"
            assert str(raised.value) == f"{file}: task_type is {said}, that of {kinds[0]}; here it is {name}"


@pytest.mark.parametrize(
    "values", [{"method": "adapter"}, {"method": "adapter", "options": []}, {"method": "other", "options": {}}, {}]
)
def test_a_method_of_our_own_that_is_not_whole(tmp_path, values):
    with pytest.raises(UserError, match="must hold `method` and `options`, as jaxft writes them; fetch it again"):
        adapter_config.method_of(directory(tmp_path, "JAXFT", **values))
    assert adapter_config.method_of(directory(tmp_path, "JAXFT", method="adapter", options={})) == "adapter"


def test_layers_of_ia3_that_change_what_they_are_fed():
    """Any of the patterns is enough."""
    e = config.Experiment(adapt="ia3", ia3=config.IA3(inputs=("output/dense", "intermediate"), outputs=("value",)))
    layers = ("intermediate/dense", "output/dense", "attention/self/value")
    found = adapter_config.written(e, [f"ia3/bert/encoder/layer/0/{layer}/scale" for layer in layers], bare=False)
    fed = [f"bert.encoder.layer.0.{layer}.dense" for layer in ("intermediate", "output")]
    assert found["feedforward_modules"] == fed


def test_training_goes_on_with_the_method_of_the_adapter(tmp_path):
    folder = directory(tmp_path, r=3)
    asked = config.Experiment(model=config.Model(path="a/b", adapter=str(folder)))
    found = adapters.adopted(asked)
    assert found.adapt == "lora" and found.lora.rank == 3
    assert adapters.adopted(dataclasses.replace(asked, adapt="lora")).lora.rank == 3
    with pytest.raises(UserError, match=r"config\.adapt is 'ia3', but config\.model\.adapter .* is of lora"):
        adapters.adopted(dataclasses.replace(asked, adapt="ia3"))
    plain = config.Experiment(adapt="ia3")
    assert adapters.adopted(plain) is plain


def test_what_is_written_is_read_or_refused(tmp_path):
    e = config.Experiment(adapt="lora", task=config.SequenceClassification(labels=("a", "b"), problem="single_label"))
    composed = program.compose(e, models.build(support.SMALL), tasks.build(e.task), steps=10)
    start = composed.split(support.random_params(composed.task, composed.model, seed=0))[0]
    adapters.write(tmp_path, e, start)
    assert not (tmp_path / adapters.CARD).exists()
    adapters.write(tmp_path, e, start, card="It is small, naïve and good.\n")
    assert (tmp_path / adapters.CARD).read_text(encoding="utf-8") == "It is small, naïve and good.\n"
    for name in (adapters.CONFIG, adapters.MEANING):  # for people too: a key a line
        assert (tmp_path / name).read_text().count("\n") > len(json.loads((tmp_path / name).read_text()))
    tensors = load_file(tmp_path / adapters.WEIGHTS)
    one = next(name for name in tensors if name.endswith("key.lora_B.weight"))
    save_file(tensors | {one: np.ones((3, 8), np.float32)}, tmp_path / adapters.WEIGHTS)
    with pytest.raises(UserError, match=rf"{one} is \[3, 8\]; lora/.*/key/b is \[8, 16\] in this experiment"):
        adapters.read(tmp_path, composed, start)
    save_file({name: x for name, x in tensors.items() if name != one}, tmp_path / adapters.WEIGHTS)
    with pytest.raises(UserError, match=rf"{one} is missing; lora/.*/key/b is \[8, 16\] in this experiment"):
        adapters.read(tmp_path, composed, start)


def test_a_method_of_our_own_is_read(tmp_path):
    own = config.Adapter(size=7, activation="relu", placement="houlsby")
    read = adapters.options(directory(tmp_path, "JAXFT", method="adapter", options=config.to_dict(own)))
    assert read == {"adapt": "adapter", "adapter": own}


def test_the_first_of_several_terms_is_named(tmp_path):
    with pytest.raises(UserError, match=r"json: kasa_config is "):
        adapters.options(
            directory(tmp_path, lora_bias=True, use_qalora=True, kasa_config={"n": 2}, eva_config={"n": 2})
        )
