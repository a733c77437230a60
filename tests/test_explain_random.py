"""Explanations of a model that had nothing to learn are no better than a random order of words (ERASER's measure)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import experiment

import jaxft
from jaxft import config, modes
from jaxft.explain.explainer import Explained
from jaxft.predict.predictor import Predictor

WORDS = ["apple", "river", "stone", "music", "table", "green", "walks", "quiet", "north", "paper", "seven", "clock"]
LENGTH = 6
METHODS = ("integrated_gradients", "gradient_x_input", "occlusion", "leave_one_out", "lime", "shap")


def rows(shortcut: bool) -> list[dict[str, Any]]:
    """Texts of drawn words; in half of them one is "zebra", which the label is, or has nothing to do with."""
    rng, made = np.random.default_rng(0), []
    for n in range(96):
        words, there = list(rng.choice(WORDS, LENGTH, replace=False)), n % 2 == 0
        if there:
            words[int(rng.integers(LENGTH))] = "zebra"
        label = there if shortcut else n // 2 % 2 == 0  # as often with it as without
        made.append({"text": " ".join(words), "sentiment": "yes" if label else "no"})
    return made


def trained(model: Path, cache: Path, folder: Path, shortcut: bool) -> Predictor:
    e = experiment(model, cache, train={"epochs": 8, "eval_every": 100, "log_every": 50})
    e.data = config.Data(max_length=16, shapes=1, validation_fraction=0.0, cache=str(cache))
    modes.train(e, str(folder), data={"train": rows(shortcut)})
    return Predictor.open(folder)


def better(found: list[Explained]) -> float:
    """By how much more the probability loses without the strongest words than without words in a random order."""
    measured = [one.explanations[0].faithfulness or {} for one in found]
    return float(np.mean([one["comprehensiveness"]["area"] - one["comprehensiveness"]["random"] for one in measured]))


@pytest.mark.matrix
def test_what_was_learned_from_random_labels_is_no_reason(tiny_model, cache, tmp_path):
    """The same texts and model: with its label the word is found and matters; with random ones no word does."""
    held = [row["text"] for row in rows(False) if "zebra" in row["text"]][:24]
    for shortcut in (True, False):
        predictor = trained(tiny_model, cache, tmp_path / str(shortcut), shortcut)
        for method in METHODS:
            samples = 64 if method == "lime" else 0
            found = jaxft.explain(predictor, held, method, "yes", samples=samples, faithfulness=True)
            if not shortcut:
                assert better(found) < 0.01, (method, better(found))
                continue
            assert better(found) > 0.1, (method, better(found))
            first = [one.units[int(np.argmax(one.explanations[0].scores))].text for one in found]
            assert first.count("zebra") >= 0.9 * len(held), (method, first)
