"""An export is read by transformers.js, in Node, which answers as a `Predictor` does.

It needs `npm install --ignore-scripts @huggingface/transformers` in a folder, and JAXFT_NODE_MODULES, which names the
`node_modules` there; see docs/export.md.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import ROOT
from test_predictor import CASES
from test_serve import opened

from jaxft import config
from jaxft.modes import exporting
from jaxft.predict.predictor import Predictor

TEXTS = [
    "what a lovely day in the café",
    "no",
    "the worst phone I ever had " * 4,
    "東京 is 大きい, isn't it?",
    "ok :-)",
]

MODULES = os.environ.get("JAXFT_NODE_MODULES", "")

if not shutil.which("node"):
    pytest.skip("node is not installed", allow_module_level=True)
if not (Path(MODULES) / "@huggingface" / "transformers" / "package.json").is_file():
    pytest.skip("JAXFT_NODE_MODULES names no node_modules with @huggingface/transformers", allow_module_level=True)


def asked(**request: Any) -> dict[str, Any]:
    """What `transformersjs.mjs` answers."""
    command = ["node", str(ROOT / "tests" / "transformersjs.mjs"), MODULES]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_classes(finished, tmp_path):
    directory = shutil.copytree(finished / "export", tmp_path / "export")
    exporting.export(str(directory), ["onnx"])
    wanted = [answer["probabilities"] for answer in Predictor.open(finished)(TEXTS)]
    found = asked(texts=TEXTS, classes=str(directory))["classes"]
    for here, there in zip(found, wanted, strict=True):
        assert here == pytest.approx(there, abs=1e-5)
    assert np.ptp([answer["positive"] for answer in wanted]) > 1e-3, "the texts are not answered alike"


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_embeddings(tmp_path, monkeypatch, pooling):
    monkeypatch.setitem(CASES, "embeddings", (config.SentenceEmbedding(pooling=pooling), TEXTS))
    predictor = opened("embeddings", tmp_path / "export")
    exporting.export(str(tmp_path / "export"), ["onnx"])
    wanted = np.asarray([answer["embedding"] for answer in predictor(TEXTS)])
    found = asked(texts=TEXTS, embeddings=str(tmp_path / "export"), pooling=pooling)["embeddings"]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert (wanted @ wanted.T).min() < 0.9, "the texts are not answered alike"
