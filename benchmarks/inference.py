"""Answers of one model by jaxft, onnxruntime and PyTorch: milliseconds a batch, from token ids to outputs on the host.

  pip install -e '.[bench]' && make quickstart
  python run.py --mode=export --workdir=/tmp/jaxft-quickstart --format=int8
  python benchmarks/inference.py --workdir=/tmp/jaxft-quickstart --out=inference.json

Each contestant computes the same random examples, and they take turns; the median over `--rounds` counts. "packed" is
the Predictor of a service, whose batches have the shapes that `warm` has compiled; onnxruntime has the engines of the
export's graphs, which sort and pad; PyTorch pads a batch to its longest example, as `Trainer` and `pipeline` do, eager
and compiled for any size. All have the threads of the machine's cores.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import numpy as np
import onnxruntime
import torch
from transformers import AutoModelForSequenceClassification

import jaxft
from jaxft.data.features import Features

CASES = {"1 x 16": [16], "1 x 128": [128], "32 x 16..128, ragged": None, "32 x 128": [128] * 32}
"""Name -> tokens of each example; None: as many draws as fit, evenly distributed."""

Contestant = Callable[[Features], Any]


def examples(lengths: list[int] | None, words: int) -> Features:
    """Examples of random tokens."""
    rng = np.random.default_rng(0)
    sizes = np.asarray(lengths) if lengths else rng.integers(16, 129, 32)
    ids = rng.integers(words // 30, words, sizes.sum()).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return Features(offsets, {"input_ids": ids, "token_type_ids": np.zeros_like(ids)}, {})


def of_torch(directory: Path, compiled: bool) -> Contestant:
    """PyTorch on a batch that is padded to its longest example."""
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    run: Any = torch.compile(model, dynamic=True) if compiled else model

    def compute(features: Features) -> np.ndarray:
        ids = torch.zeros(len(features), int(features.lengths.max()), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, (low, high) in enumerate(zip(features.offsets, features.offsets[1:], strict=False)):
            ids[row, : high - low] = torch.from_numpy(features.tokens["input_ids"][low:high])
            mask[row, : high - low] = 1
        with torch.inference_mode():
            return run(input_ids=ids, attention_mask=mask).logits.numpy()

    return compute


def contestants(workdir: str, tokens: int) -> dict[str, Contestant]:
    """Name -> what computes."""
    packed = jaxft.Predictor.open(workdir)
    packed.warm(tokens)
    found: dict[str, Contestant] = {"jaxft, packed": lambda features: packed.compute(features)["logits"]}
    for name, engine in (("onnxruntime", "onnx"), ("onnxruntime, int8", "int8")):
        predictor = jaxft.Predictor.open(workdir, engine=engine)
        found[name] = lambda features, of=predictor: of.compute(features)["logits"]
    directory = Path(workdir) / "export"
    return found | {"PyTorch": of_torch(directory, False), "PyTorch, compiled": of_torch(directory, True)}


def measured(found: dict[str, Contestant], features: Features, rounds: int) -> dict[str, Any]:
    """Milliseconds of each, in turns, and how far its answers are from the first one's."""
    answers = {name: compute(features) for name, compute in found.items()}
    first = next(iter(answers.values()))
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, compute in found.items():
            began = time.perf_counter()
            compute(features)
            times[name].append(time.perf_counter() - began)
    off = {name: float(np.abs(found - first).max()) for name, found in answers.items()}
    return {"ms": {name: float(np.median(of)) * 1e3 for name, of in times.items()}, "off": off}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", default="/tmp/jaxft-quickstart", help="a finished run, with both graphs")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=4096, help="of the largest batch of the packed Predictor")
    parser.add_argument("--skip", default="", help="contestants to leave out, by name, set off by commas")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = contestants(options.workdir, options.tokens)
    for name in filter(None, options.skip.split(",")):
        del found[name.strip()]
    words = jaxft.Predictor.open(options.workdir).engine.model.facts.vocabulary
    result: dict[str, Any] = {
        **machine.described(),
        "versions": {"jaxft": jaxft.__version__, "onnxruntime": onnxruntime.__version__, "torch": torch.__version__},
    }
    print(f"{'ms':24}" + "".join(f"{name:>20}" for name in found))
    for case, lengths in CASES.items():
        features = examples(lengths, words)
        rounds = options.rounds * (10 if len(features) == 1 else 1)
        result[case] = measured(found, features, rounds) | {"tokens": int(features.offsets[-1])}
        print(f"{case:24}" + "".join(f"{ms:20.1f}" for ms in result[case]["ms"].values()), flush=True)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
