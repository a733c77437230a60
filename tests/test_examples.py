"""examples/: whole files that work as they stand; and so does the Python in README.md."""

import functools
import json
import re
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import support
from runs import ROOT, environment, example, experiment, weights, write_config

from jaxft import models, modes, program

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_loss_of_ones_own_trains(tiny_model, cache, finished, tmp_path):
    results = modes.train(experiment(tiny_model, cache), str(tmp_path / "run"), loss=example("loss").loss)
    assert np.isfinite(results["test/loss"])
    assert weights(tmp_path / "run") != weights(finished)


def test_the_loss_is_what_it_says(torch):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(4, 3, 5)), rng.integers(0, 5, (4, 3))
    weight = rng.integers(0, 2, (4, 3)).astype(np.float32)
    total, count = example("loss").loss({"logits": jnp.asarray(logits)}, {"labels": labels, "weights": weight})
    flat = torch.tensor(logits.reshape(-1, 5))[weight.reshape(-1) > 0]
    wanted = (
        torch.nn.functional.cross_entropy(
            flat, torch.tensor(labels.reshape(-1)[weight.reshape(-1) > 0]), label_smoothing=0.1, reduction="sum"
        )
        - 0.1 * torch.distributions.Categorical(logits=flat).entropy().sum()
    )
    np.testing.assert_allclose(float(total), float(wanted), rtol=1e-5)
    assert float(count) == weight.sum()


def test_a_loop_of_ones_own(tiny_model):
    losses = example("loop").train(str(tiny_model), steps=40)
    assert len(losses) == 40 and np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])


def test_an_objective_of_ones_own():
    """Without hidden words it is the plain one; with them packed is padded."""
    case, model = support.TASKS["single_label"], models.build(support.SMALL | {"num_hidden_layers": 1}, dropout=0.2)
    features = support.random_features(np.random.default_rng(0), case, [9, 24, 4, 7], support.SMALL)
    params = support.random_params(case.task, model, seed=0)

    def found(slots: int, parts: program.Parts) -> dict:
        composed = support.compose(case.task, model, keep_gradients=True, parts=parts)
        grads, metrics = support.gradients(composed, params, support.lay_out(features, case.task, 24, slots))
        return {**grads, "loss": metrics["loss"]}

    consistent = functools.partial(example("objective").consistent, case.task, model, 3)
    plain = found(0, program.Parts())
    support.assert_close(found(0, program.Parts(objective=consistent(share=0.0))), plain, 1e-6, floor=1e-3)
    hidden = program.Parts(objective=consistent(share=0.3))
    packed = found(0, hidden)
    support.assert_close(packed, found(1, hidden), 1e-5, floor=1e-3)
    assert packed["loss"] > plain["loss"] + 1e-4


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("page", "name"), [("tasks", "task"), ("adapt", "method"), ("objectives", "objective")])
def test_a_page_shows_lines_of_the_example_that_it_links_to(page, name):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    _, section = text.split(f"[examples/{name}.py](../examples/{name}.py)")
    assert blocks(section)
    whole = plain((ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8"))
    assert all(plain(block) in whole for block in blocks(section))


def plain(code: str) -> str:
    """Without indentation and empty lines."""
    return "\n".join(line.strip() for line in code.splitlines() if line.strip())


def test_readme(tmp_path, tiny_model, cache):
    """Each block by itself, as it stands, but that the quickstart is a short run, and /tmp another folder."""
    (tmp_path / "configs").mkdir()
    write_config(tmp_path / "configs" / "quickstart.py", experiment(tiny_model, cache))
    short = f"from jaxft.config import files\n\nfiles.PACKAGED = files.Path({str(tmp_path / 'configs')!r})\n"
    assert blocks(README)
    for number, code in enumerate(blocks(README)):
        file = tmp_path / f"block{number}.py"
        file.write_text(short + code.replace("/tmp/", f"{tmp_path}/"))
        env = environment() | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
        done = subprocess.run([sys.executable, file], capture_output=True, text=True, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
    (results,) = tmp_path.glob("*/results.json")
    assert np.isfinite(json.loads(results.read_text())["test/loss"])
