"""Laws 1, 2 and 6 for every architecture and task, on a batch whose rows are packed with examples of other lengths."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import support
import torch_reference
from safetensors.numpy import load_file

from jaxft import models
from jaxft.errors import UserError
from jaxft.hub import export

LENGTHS = [7, 3, 9, 5, 4, 6]
"""Of the examples: several share a row, none is as long as another; questions have three choices."""


def has_head(kind: str, case: support.Case) -> bool:
    try:
        case.task.param_spec(models.build(support.ARCHITECTURES[kind]))
    except UserError:
        return False
    return True


CELLS = [(kind, name) for kind in support.ARCHITECTURES for name, case in support.TASKS.items() if has_head(kind, case)]
ONCE = [
    (kind, name) for kind, name in CELLS if kind != "bert" and name in ("single_label", "token", "answers", "masked_lm")
]
"""A cell for each head, of the architectures that tests/laws/test_parity.py does not ask the same of."""
MISSING = {("roberta", "next_sentence")}
"""What there is no class of in transformers."""


def test_every_head_is_there():
    every = {(kind, name) for kind in support.ARCHITECTURES for name in support.TASKS}
    assert every - set(CELLS) == MISSING
    with pytest.raises(UserError, match="Roberta has no head for 'pair'; it has heads for text, choice, token, span, "):
        support.TASKS["next_sentence"].task.param_spec(models.build(support.ARCHITECTURES["roberta"]))


@pytest.mark.parametrize(("kind", "name"), support.once(CELLS, *ONCE))
def test_it_is_the_model_of_transformers(torch, kind: str, name: str, tiny_model, tmp_path: Path):
    """Law 1, packed, two layers; and law 6: the export has the tensors, names and dtypes that it came from."""
    case, hf, seed = support.TASKS[name], support.ARCHITECTURES[kind], sum(map(ord, kind + name))
    lengths = LENGTHS if case.padded else [6] * 6
    features = support.random_features(np.random.default_rng(seed), case, lengths, hf)
    theirs = torch_reference.torch_model(hf, case.task, seed)
    theirs.save_pretrained(tmp_path / "theirs")
    model, params = torch_reference.load(tmp_path / "theirs", case.task)
    inputs = torch_reference.torch_inputs(features, case.task, max(lengths), hf.get("pad_token_id", 0))
    host = support.lay_out(features, case.task, 2 * max(lengths), slots=0)
    assert host.rows.slots > 1, "several examples share a row"
    torch_reference.assert_parity(theirs, inputs, case.task, model, params, features, host)
    settings, kind = hf | support.published(case.task), model.hf_class(case.task.hf_class)
    export.export(tmp_path / "ours", params, settings, kind, tiny_model, "A small model.\n")
    there, here = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "ours"))
    here = {name.removeprefix("" if case.task.hf_class else f"{model.prefix}."): x for name, x in here.items()}
    assert {name: x.dtype for name, x in here.items()} == {name: x.dtype for name, x in there.items()}
    assert all((here[name] == there[name]).all() for name in there)


@pytest.mark.parametrize(
    ("kind", "name"),
    support.once(
        itertools.product(support.ARCHITECTURES, ("single_label", "token", "masked_lm")), ("roberta", "masked_lm")
    ),
)
def test_packed_is_padded(kind: str, name: str):
    """Law 2, dropout on: the loss and the gradients."""
    case, hf = support.TASKS[name], support.ARCHITECTURES[kind]
    model = models.build(hf, dropout=0.3)
    features = support.random_features(np.random.default_rng(2), case, LENGTHS, hf)
    composed = support.compose(case.task, model, keep_gradients=True)
    params = support.random_params(case.task, model, seed=2)
    (packed, a), (padded, b) = (
        support.gradients(composed, params, support.lay_out(features, case.task, 12, slots)) for slots in (0, 1)
    )
    support.assert_close(packed | {"loss": a["loss"]}, padded | {"loss": b["loss"]}, 1e-5, floor=1e-3)
