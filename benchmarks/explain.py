"""How long explanations take: integrated gradients beside captum's, occlusion beside a loop in PyTorch.

    pip install captum
    python benchmarks/explain.py --workdir=/tmp/jaxft-quickstart --out=explain.json

Both explain the class that is predicted for the same texts of the run's training data, by the same steps and baseline,
in float32, from text to numbers of words. The two take turns; what is compiled is compiled before. captum gets texts of
like lengths together, padded, in batches of the size that is quickest on a fifth of the texts; PyTorch's occlusion is a
batch a text, as it is usually written: the text and its copies with a word masked.
"""

import argparse
import importlib.metadata
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import LayerIntegratedGradients  # pyright: ignore[reportMissingImports]
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import jaxft
from jaxft.data import sources
from jaxft.explain import methods
from jaxft.explain.explainer import GROUP
from jaxft.predict.predictor import Predictor

BATCHES = (32, 128, 512)
"""Rows of captum's internal batches that are tried."""

Scores = list[np.ndarray]
"""Of each text a number for each word."""


class Reference:
    """The run's export in PyTorch."""

    def __init__(self, folder: Path, max_length: int):
        self.model: Any = AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
        self.method = LayerIntegratedGradients(
            lambda ids, mask, types: self.model(ids, attention_mask=mask, token_type_ids=types).logits,
            self.model.get_input_embeddings(),
        )
        self.cut = {"truncation": True, "max_length": max_length}

    def integrated(self, texts: list[str], steps: int, batch: int) -> Scores:
        """Returns captum's integrated gradients; texts of like lengths are explained together, `batch` / steps."""
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
        together, found = max(batch // steps, 1), [np.zeros(0)] * len(texts)
        for start in range(0, len(order), together):
            chosen = order[start : start + together]
            encoded = self.tokenizer([texts[n] for n in chosen], padding=True, return_tensors="pt", **self.cut)
            ids, mask = encoded["input_ids"], encoded["attention_mask"]
            types = encoded.get("token_type_ids", torch.zeros_like(ids))
            words = [encoded.word_ids(row) for row in range(len(chosen))]
            empty = ids.clone()
            for row, of_row in enumerate(words):
                empty[row, [at for at, word in enumerate(of_row) if word is not None]] = self.tokenizer.pad_token_id
            with torch.no_grad():
                target = self.model(ids, attention_mask=mask, token_type_ids=types).logits.argmax(-1)
            tokens = self.method.attribute(
                ids,
                baselines=empty,
                target=target,
                additional_forward_args=(mask, types),
                n_steps=steps,
                method="gausslegendre",
                internal_batch_size=batch,
            )
            for row, number in enumerate(chosen):
                found[number] = of_words(tokens[row].sum(-1).detach().numpy(), words[row])
        return found

    def occluded(self, texts: list[str]) -> Scores:
        """Returns what the logit of the predicted class loses without each word: a batch a text."""
        found = []
        for text in texts:
            encoded = self.tokenizer(text, return_tensors="pt", **self.cut)
            words = encoded.word_ids()
            count = max(word for word in words if word is not None) + 1
            ids = encoded["input_ids"].repeat(count + 1, 1)
            for word in range(count):
                ids[word + 1, [at for at, other in enumerate(words) if other == word]] = self.tokenizer.mask_token_id
            with torch.no_grad():
                logits = self.model(ids).logits.numpy()
            one = logits[:, logits[0].argmax()]
            found.append(one[0] - one[1:])
        return found


def of_words(tokens: np.ndarray, words: list[int | None]) -> np.ndarray:
    """Returns the sum over the tokens of each word."""
    there = [at for at, word in enumerate(words) if word is not None]
    return np.bincount([word for word in words if word is not None], tokens[there])


def ours(predictor: Predictor, texts: list[str], method: str, steps: int = 0) -> Scores:
    """Returns what jaxft finds."""
    found = jaxft.explain(predictor, texts, method, samples=steps)
    return [np.asarray(one.explanations[0].scores) for one in found]


def timed(run: Callable[[], Scores]) -> tuple[float, float, Scores]:
    """Returns the seconds that it takes, those of all threads together, and what it finds."""
    began, busy = time.perf_counter(), time.process_time()
    found = run()
    return time.perf_counter() - began, time.process_time() - busy, found


def paired(one: Callable[[], Scores], other: Callable[[], Scores], rounds: int) -> dict[str, Any]:
    """Returns the seconds of both, in turns, the median of their ratios, and how far their numbers are apart.

    Those of all threads together hang less on what else the machine does.
    """
    turns = [(timed(one), timed(other)) for _ in range(rounds)]
    seconds, busy = (np.asarray([[side[kind] for side in turn] for turn in turns]).T for kind in (0, 1))
    first, second = (side[2] for side in turns[0])
    return {
        "jaxft": seconds[0].tolist(),
        "other": seconds[1].tolist(),
        "times_faster": float(np.median(seconds[1] / seconds[0])),
        "times_less_of_threads": float(np.median(busy[1] / busy[0])),
        "apart": max(float(np.abs(a - b).max()) for a, b in zip(first, second, strict=True)),
    }


def main() -> None:
    """Measures both pairs, and writes what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="a finished run of SequenceClassification")
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    predictor = Predictor.open(given.workdir)
    data = predictor.experiment.data
    split = sources.read(data)["train"]
    column = split.table.column(predictor.table.inputs[0]).to_pylist()
    chosen = np.random.default_rng(0).choice(len(column), given.texts, replace=False)
    texts = [str(column[n]) for n in chosen]
    reference = Reference(given.workdir / "export", data.max_length)
    methods.MOST_STEPS = given.steps  # captum does not double its steps: neither do we here
    some = texts[: max(given.texts // 5, 1)]
    tried = {batch: timed(partial(reference.integrated, some, given.steps, batch))[0] for batch in BATCHES}
    best = min(tried, key=lambda batch: tried[batch])
    versions = {name: importlib.metadata.version(name) for name in ("jax", "torch", "captum", "transformers")}
    found: dict[str, Any] = {"texts": given.texts, "steps": given.steps, "threads": torch.get_num_threads()}
    found |= {"versions": versions, "captum's batches": tried}
    pairs = {
        "occlusion": (lambda: ours(predictor, texts, "occlusion"), lambda: reference.occluded(texts)),
        "integrated_gradients": (
            lambda: ours(predictor, texts, "integrated_gradients", given.steps),
            lambda: reference.integrated(texts, given.steps, best),
        ),
    }
    for name, (one, other) in pairs.items():
        for start in (0, given.texts - given.texts % GROUP):  # what is compiled for a whole group, and for the last one
            if some := texts[start : start + GROUP]:
                ours(predictor, some, name, given.steps if name == "integrated_gradients" else 0)
        found[name] = paired(one, other, given.rounds)
        print(name, json.dumps(found[name]), flush=True)
    print(json.dumps(found, indent=1))
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
