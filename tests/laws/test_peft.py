"""Law 1 and law 6 for adapters: what `peft` computes, opened from its directories; and it opens ours."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import support
import torch_reference

from jaxft import config, models
from jaxft.adapt import adalora
from jaxft.errors import UserError
from jaxft.hub import adapters
from jaxft.models import nn
from jaxft.train import numbers
from jaxft.types import Params

HEAD = ["classifier", "pooler"]
"""Modules of BERT that `peft` is told to train whole."""


class Modules(NamedTuple):
    """What `peft` is told of an architecture: its own defaults where it has them.

    Attributes:
      attention: that it puts corrections on.
      scaled: and scales.
      fed: of these, those of which the inputs are scaled.
      inner: a layer more, that DoRA is put on.
      head: to be trained whole.
    """

    attention: list[str]
    scaled: list[str]
    fed: list[str]
    inner: str
    head: list[str]


BERT = Modules(["query", "value"], ["key", "value", "output.dense"], ["output.dense"], "intermediate.dense", HEAD)
LLAMA = Modules(["q_proj", "v_proj"], ["k_proj", "v_proj", "down_proj"], ["down_proj"], "up_proj", ["score"])
OF = {
    "bert": BERT,
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert", "electra"), BERT._replace(head=["classifier"])),
    "distilbert": Modules(
        ["q_lin", "v_lin"], ["k_lin", "v_lin", "lin2"], ["lin2"], "lin1", ["pre_classifier", "classifier"]
    ),
    "modernbert": Modules(["Wqkv"], ["Wqkv", "mlp.Wo"], ["mlp.Wo"], "mlp.Wi", ["head", "classifier"]),
    "modernbert-decoder": LLAMA._replace(
        scaled=["k_proj", "v_proj", "mlp.Wo"], fed=["mlp.Wo"], inner="mlp.Wi", head=["head", "classifier"]
    ),
    "deberta-v2": BERT._replace(
        attention=["query_proj", "value_proj"], scaled=["key_proj", "value_proj", "output.dense"]
    ),
    "albert": BERT._replace(scaled=["key", "value", "ffn_output"], fed=["ffn_output"], inner="ffn"),
    "mpnet": BERT._replace(
        attention=["attn.q", "attn.v"], scaled=["attn.k", "attn.v", "output.dense"], head=["classifier"]
    ),
    "eurobert": LLAMA._replace(head=["dense", "classifier"]),
    "gpt2": Modules(["c_attn"], ["c_attn", "mlp.c_proj"], ["mlp.c_proj"], "mlp.c_fc", ["score"]),
    **dict.fromkeys(("llama", "mistral"), LLAMA),
    **dict.fromkeys(("qwen2", "qwen3", "gemma3_text"), LLAMA._replace(scaled=["q_proj", "v_proj", "down_proj"])),
}
"""Not those of which the class of transformers has several layers that are one on the Hub and here (`nomic_bert`,
`gte`, `new`, `jina_embeddings_v3`): adapters of the one do not fit the other."""
WITHOUT = {
    "prefix": ("distilbert", "modernbert", "deberta-v2", "albert", "mpnet", "eurobert", *support.DECODERS),
    "prompt": ("distilbert", "electra", "albert", *support.DECODERS),
}
"""Architectures of which transformers takes no keys and values of a prefix, or that turn keys, which a prefix is not;
of which `peft` mistakes the size of an embedding for that of a hidden state, or which it hands embeddings, among which
their class cannot tell padding."""


def arguments(kind: str, modules: Modules) -> tuple[str, dict[str, Any]]:
    """`peft`'s class of a method, and its arguments."""
    return {
        "rslora": ("LoraConfig", {"r": 3, "lora_alpha": 5, "use_rslora": True, "target_modules": modules.attention}),
        "dora": (
            "LoraConfig",
            {"r": 2, "lora_alpha": 3, "use_dora": True, "target_modules": [modules.attention[-1], modules.inner]},
        ),
        "ia3": ("IA3Config", {"target_modules": modules.scaled, "feedforward_modules": modules.fed}),
        "prefix": ("PrefixTuningConfig", {"num_virtual_tokens": 3}),
        "prompt": ("PromptTuningConfig", {"num_virtual_tokens": 4}),
    }[kind]


KINDS = ("rslora", "dora", "ia3", "prefix", "prompt")


@pytest.fixture(scope="module")
def peft(torch):
    return pytest.importorskip("peft", reason="the reference, peft, is not installed")


class Ours:
    """A model with an adaptation, on the body in the folder's `base`, and four examples."""

    def __init__(
        self, folder: Path, case: support.Case, keep_gradients: bool = False, hf: Any = support.SMALL, **keys: Any
    ):
        self._folder, self._case = folder, case
        self._experiment = config.Experiment(task=case.options, model=config.Model(path=str(folder / "base")), **keys)
        model, self.params = torch_reference.load(folder / "base", case.task, dropout=0.0)
        self.composed = support.compose(case.task, model, keep_gradients=keep_gradients, **keys)
        self._features = support.random_features(np.random.default_rng(0), case, [9, 24, 4, 7], hf)
        self.inputs = torch_reference.torch_inputs(self._features, case.task, 24, pad=hf.get("pad_token_id", 0))
        self._host = support.lay_out(self._features, case.task, 24, slots=0)
        self.batch = support.arrays(self._host)

    def outputs(self, trainable: Params, frozen: Params) -> dict[str, np.ndarray]:
        found = self.composed.eval_step((trainable, frozen), self.batch).outputs
        return support.by_example(found, self._case.task, self._host, self._features)

    def tensors(self, trainable: Params) -> dict[str, np.ndarray]:
        return adapters.tensors(self._experiment, {path: np.asarray(x) for path, x in nn.flatten(trainable).items()})

    def write(self, trainable: Params) -> None:
        """Into the folder's `ours`."""
        adapters.write(self._folder / "ours", self._experiment, trainable)

    def read(self, name: str, trainable: Params) -> Params:
        return adapters.read(self._folder / name, self.composed, trainable)


def plain(name: str) -> str:
    """The name of a parameter in `peft`'s files, of that in its model."""
    if name.startswith("prompt_encoder."):
        return adapters.VIRTUAL
    return name.replace(".modules_to_save", "").replace(".default", "").replace("vector.weight", "vector")


CELLS = [(name, kind) for name in OF for kind in KINDS if name not in WITHOUT.get(kind, ())]
ONCE = [("bert", kind) for kind in KINDS] + [("modernbert", "rslora"), ("deberta-v2", "ia3")]


def test_these_are_its_own_defaults(peft):
    from peft.utils import constants

    found = {
        part: getattr(constants, f"TRANSFORMERS_MODELS_TO_{method}_MODULES_MAPPING")
        for part, method in (("attention", "LORA_TARGET"), ("scaled", "IA3_TARGET"), ("fed", "IA3_FEEDFORWARD"))
    }
    for part, mapping in found.items():
        known = [name for name in OF if name in mapping]
        assert len(known) >= 3 and all(getattr(OF[name], part) == mapping[name] for name in known), part


@pytest.mark.parametrize(("architecture", "kind"), support.once(CELLS, *ONCE))
def test_peft_computes_the_same(torch, peft, tmp_path, architecture: str, kind: str):
    """Logits, loss and gradients from its directory; and its logits from the directory that is written of that."""
    case, hf = support.TASKS["single_label"], support.ARCHITECTURES[architecture]
    base = torch_reference.torch_model(hf, case.task, seed=0)
    base.save_pretrained(tmp_path / "base")
    modules = OF[architecture]
    name, options = arguments(kind, modules)
    options |= {"task_type": "SEQ_CLS", "modules_to_save": modules.head}
    theirs = peft.get_peft_model(base, getattr(peft, name)(**options)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = Ours(tmp_path, case, keep_gradients=True, hf=hf, **adapters.options(tmp_path / "theirs"))
    inputs = torch_reference.read_by(theirs, ours.inputs)
    found = theirs(**inputs)
    found.loss.backward()
    logits = found.logits.detach().numpy()

    state = ours.composed.init(ours.params)
    trainable = ours.read("theirs", state.trainable)
    support.assert_close(ours.outputs(trainable, state.frozen), {"logits": logits}, 1e-4)
    ours.write(trainable)
    state, metrics = ours.composed.train_step(state.replace(trainable=trainable), ours.batch)
    assert float(metrics["loss"]) == pytest.approx(float(found.loss.detach()), rel=1e-4)
    grads = {plain(n): p.grad.numpy() for n, p in theirs.named_parameters() if p.requires_grad}
    support.assert_close(ours.tensors(state.opt_state), grads, 1e-4, floor=1e-3)
    assert_opens(torch, peft, tmp_path, inputs, logits)


def assert_opens(torch, peft, tmp_path, inputs: dict[str, Any], logits: np.ndarray) -> None:
    """`peft` opens the directory `ours` on the model `base`, and finds these logits."""
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=logits.shape[-1])
    again = peft.PeftModel.from_pretrained(base, tmp_path / "ours").eval()
    with torch.no_grad():
        support.assert_close({"": again(**inputs).logits.numpy()}, {"": logits}, 1e-4)


def test_adalora_is_written_as_lora(torch, peft, tmp_path):
    case = support.TASKS["single_label"]
    torch_reference.torch_model(support.SMALL, case.task, seed=0).save_pretrained(tmp_path / "base")
    ours = Ours(tmp_path, case, **support.ADAPTATIONS["adalora"])
    trainable, frozen = ours.composed.split(ours.params)
    values = {path: x + 0.3 if path.endswith("/value") else x for path, x in nn.flatten(trainable).items()}
    trainable = nn.unflatten(values)
    ours.write(trainable)
    assert_opens(torch, peft, tmp_path, ours.inputs, ours.outputs(trainable, frozen)["logits"])
    assert ours.composed.merge is not None
    merged = ours.composed.merge(ours.read("ours", trainable), frozen)
    for path, x in nn.flatten(ours.composed.merge(trainable, frozen)).items():
        np.testing.assert_allclose(nn.flatten(merged)[path], x, atol=1e-6, err_msg=path)


def test_adalora_of_peft_is_read(torch, peft, tmp_path):
    """Of which some ranks were cut, so that layers differ in rank."""
    case = support.TASKS["single_label"]
    base = torch_reference.torch_model(support.SMALL, case.task, seed=0)
    base.save_pretrained(tmp_path / "base")
    ranks = {"init_r": 4, "target_r": 2, "lora_alpha": 6, "total_step": 10, "tinit": 1, "tfinal": 3}
    options = peft.AdaLoraConfig(task_type="SEQ_CLS", target_modules=["query"], modules_to_save=HEAD, **ranks)
    theirs = peft.get_peft_model(base, options).eval()
    keep = [True, False, True, True]
    cut = "bert.encoder.layer.0.attention.self.query.lora_E.default"
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_E" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
                parameter *= torch.tensor(keep)[:, None] if cut in name else 1.0
    theirs.peft_config["default"].rank_pattern = {cut: keep}
    theirs.save_pretrained(tmp_path / "theirs")
    ours = Ours(tmp_path, case, **adapters.options(tmp_path / "theirs"))
    with torch.no_grad():
        logits = theirs(**ours.inputs).logits.numpy()
    trainable, frozen = ours.composed.split(ours.params)
    found = ours.outputs(ours.read("theirs", trainable), frozen)
    support.assert_close(found, {"logits": logits}, 1e-4)


def test_adapters_of_sentence_embeddings_open(torch, peft, tmp_path):
    """On the body alone, which has no head and no names around it."""
    from transformers import AutoModel

    case = support.TASKS["embeddings"]
    torch_reference.torch_model(support.SMALL, case.task, seed=0).save_pretrained(tmp_path / "base")
    ours = Ours(tmp_path, case, **support.ADAPTATIONS["lora"])
    trainable, frozen = ours.composed.split(ours.params)
    trainable = jax.tree.map(lambda x: x + 0.1, trainable)
    ours.write(trainable)
    base = AutoModel.from_pretrained(tmp_path / "base", add_pooling_layer=False)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "ours").eval()
    found = torch_reference.embedded(theirs, ours.inputs)[1]
    support.assert_close(ours.outputs(trainable, frozen), {"embeddings": found["embeddings"].numpy()}, 1e-4)
    again = ours.read("ours", trainable)
    support.assert_close(nn.flatten(again), nn.flatten(trainable), 0.0)


def test_a_tensor_without_a_place(torch, peft, tmp_path):
    """Embeddings have no corrections here: what `peft` has learned of them must not get lost."""
    case = support.TASKS["single_label"]
    base = torch_reference.torch_model(support.SMALL, case.task, seed=0)
    targets = ["query", "word_embeddings"]
    peft.get_peft_model(base, peft.LoraConfig(task_type="SEQ_CLS", target_modules=targets)).save_pretrained(tmp_path)
    composed = support.compose(case.task, models.build(support.SMALL), **adapters.options(tmp_path))
    with pytest.raises(UserError, match=r"word_embeddings\.lora_embedding_A has no place in the model"):
        adapters.read(tmp_path, composed, composed.init(support.random_params(case.task, composed.model, 0)).trainable)


def test_adalora_has_the_budget_of_the_authors_code(peft):
    """`peft` took its allocator from them."""
    from peft.tuners.adalora.layer import RankAllocator

    options = config.AdaLora(rank=12, target=5, start=0.1, end=0.3)
    theirs = RankAllocator.__new__(RankAllocator)
    theirs.peft_config = peft.AdaLoraConfig(init_r=12, target_r=5, tinit=20, tfinal=60, deltaT=1, total_step=200)
    theirs.init_bgt, theirs.target_bgt = 12 * 7, 5 * 7
    expected = [theirs.budget_schedule(step)[0] for step in range(200)]
    np.testing.assert_allclose(adalora.budget(options, 7, 200, jnp.arange(200)), expected, atol=1)
    assert adalora.budget(options, 7, 200, 20) == 84 and adalora.budget(options, 7, 200, 140) == 35


def test_adalora_keeps_within_the_budget():
    case, keys = support.TASKS["single_label"], support.ADAPTATIONS["adalora"]
    model = models.build(support.SMALL)
    spec = case.task.param_spec(model)
    experiment = config.Experiment(task=case.options, **keys)
    method = adalora.build(experiment, spec, model)
    transform = method.optimizer(optax.sgd(0.1))
    trainable: Any = method.split(method.extend(support.random_params(case.task, model, 0), jax.random.key(0)))[0]
    state, update, rng = transform.init(trainable), jax.jit(transform.update), np.random.default_rng(0)
    layers = 6 * support.SMALL["num_hidden_layers"]
    for step in range(10):
        grads = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), trainable)
        updates, state = update(grads, state, trainable, numbers=numbers.of(experiment.optimizer, 10))
        trainable = optax.apply_updates(trainable, updates)
        values = jnp.concatenate([x for path, x in nn.flatten(trainable).items() if path.endswith("/value")])
        if step >= 1:
            assert int(jnp.count_nonzero(values)) == int(adalora.budget(experiment.adalora, layers, 10, step)), step
    assert int(jnp.count_nonzero(values)) == 2 * layers


def test_a_directory_that_does_not_fit(tmp_path):
    with pytest.raises(UserError, match="is it the directory of an adapter"):
        adapters.options(tmp_path)
    (tmp_path / adapters.CONFIG).write_text('{"peft_type": "LORAA"}')
    with pytest.raises(UserError, match="did you mean 'LORA'"):
        adapters.options(tmp_path)
