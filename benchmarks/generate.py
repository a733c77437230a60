"""Answers of a language model by jaxft and by `generate` of transformers: seconds and tokens a second.

  pip install -e '.[bench]'
  python benchmarks/generate.py --out=generate.json

A random model of the sizes of DistilGPT2, or of those of SmolLM2-135M (--model=smollm), continues 8 prompts of 8 to 64
random tokens by 128 tokens each, of which none ends an answer; both have the same weights in float32, take the best
token each time, and take turns. transformers reads the prompts padded at their beginnings, with its own cache, eager.
The median over `--rounds` counts; compiling is no part of it and is told by itself. That both write the same tokens is
checked: two scores may be as good as equal, so the share of answers that agree is in the result.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import jaxft
from jaxft import config, hub, models, program, sharding, tasks
from jaxft.generate.options import Options
from jaxft.generate.writing import written
from jaxft.predict.engine import CompiledEngine
from jaxft.pretrained import load

MODELS: dict[str, dict[str, Any]] = {
    "distilgpt2": {"model_type": "gpt2", "n_layer": 6},
    "smollm": {
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
    },
}
"""Name -> sizes."""

Prompts = Sequence[Sequence[int]]


def engine(directory: Path) -> CompiledEngine:
    """The engine of the model in a directory."""
    model, task = models.build(hub.read_config(directory)), tasks.build(config.CausalLM())
    e = config.Experiment(task=config.CausalLM())
    composed = program.compose(e, model, task, steps=1, mesh=sharding.make_mesh(e.mesh))
    return CompiledEngine(e, composed, composed.split(load(directory, composed)[0]))


def of_torch(directory: Path, new: int) -> Callable[[Prompts], list[list[int]]]:
    """What transformers writes behind prompts that are padded at their beginnings."""
    model: Any = AutoModelForCausalLM.from_pretrained(directory).eval()

    def write(prompts: Prompts) -> list[list[int]]:
        length = max(map(len, prompts))
        ids = torch.tensor([[0] * (length - len(prompt)) + [*prompt] for prompt in prompts])
        mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with torch.inference_mode():
            found = model.generate(
                ids, attention_mask=mask, max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0
            )
        return found[:, length:].tolist()

    return write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="distilgpt2", choices=MODELS)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--new", type=int, default=128, help="tokens of an answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**MODELS[options.model])).save_pretrained(folder)
        ours, theirs = engine(Path(folder)), of_torch(Path(folder), options.new)
    words = ours.model.facts.vocabulary
    prompts = [rng.integers(3, words, size).tolist() for size in rng.integers(8, 65, options.rows)]
    how = Options(max_new_tokens=options.new, rows=options.rows)
    write = {
        "jaxft": lambda prompts: [one.tokens for one in written(ours, prompts, (), how)],
        "transformers": theirs,
    }
    began = time.perf_counter()
    first = {name: each(prompts) for name, each in write.items() if name == "jaxft"}
    compiling = time.perf_counter() - began
    first |= {"transformers": theirs(prompts)}
    times: dict[str, list[float]] = {name: [] for name in write}
    for _ in range(options.rounds):
        for name, each in write.items():
            began = time.perf_counter()
            each(prompts)
            times[name].append(time.perf_counter() - began)
    seconds = {name: float(np.median(of)) for name, of in times.items()}
    same = np.mean([one == other for one, other in zip(first["jaxft"], first["transformers"], strict=True)])
    result = {
        **machine.described(),
        "versions": {"jaxft": jaxft.__version__, "torch": torch.__version__},
        "model": options.model,
        "seconds": seconds,
        "tokens_per_second": {name: options.rows * options.new / of for name, of in seconds.items()},
        "times_as_fast": seconds["transformers"] / seconds["jaxft"],
        "first_answers_seconds": compiling,
        "answers_that_agree": float(same),
    }
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
