"""A task of one's own: predict a count, such as the replies to a message, by Poisson regression.

    python run.py --config=examples/task.py:messages.csv --workdir=/tmp/counts \\
        --config.model.path=google-bert/bert-base-cased

The table has the columns `text` and `count`. docs/tasks.md says what the parts of a task are for.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from jaxft import config, tables, tasks
from jaxft.batch import Target
from jaxft.data.columns import with_numbers, with_text
from jaxft.data.sources import require_columns


@dataclasses.dataclass(kw_only=True)
class Counts(config.Task):
    text: str = config.knob("text", "column with the text")
    count: str = config.knob("count", "column with the count")


@dataclasses.dataclass(frozen=True)
class Poisson(tasks.Task):
    options: Counts
    hf_class: str = "ForSequenceClassification"

    @property
    def targets(self):
        return {"counts": Target("example", np.float32)}

    @property
    def outputs(self):
        return {"log_rate": "example"}

    def param_spec(self, model):
        return model.param_spec(model.head("text", outputs=1))

    def forward(self, params, model, batch, run):
        logits = model.of_examples(model.head("text", outputs=1), params, batch, run)
        return {"log_rate": logits[..., 0]}  # [rows, slots]

    def loss(self, outputs, batch):
        each = jnp.exp(outputs["log_rate"]) - batch["counts"] * outputs["log_rate"]
        return (batch["weights"] * each).sum(), batch["weights"].sum()


@dataclasses.dataclass(frozen=True)
class CountTable(tables.Table):
    options: Counts
    metric: str = "log_likelihood"

    @property
    def inputs(self):
        return (self.options.text,)

    def read(self, split, labelled=True):
        columns = {"task.text": self.options.text, "task.count": self.options.count if labelled else ""}
        require_columns(split, columns)
        split = with_text(split, self.options.text)
        return with_numbers(split, self.options.count) if labelled else split

    def features(self, split, tokenizer, max_length, labelled=True):
        encoded = tokenizer(split.table[self.options.text].to_pylist(), truncation=True, max_length=max_length)
        counts = {"counts": split.table[self.options.count].to_numpy().astype(np.float32)} if labelled else {}
        return {"input_ids": encoded["input_ids"], "token_type_ids": encoded["token_type_ids"]} | counts

    def metrics(self, outputs, features, split):
        log_rate = outputs["log_rate"]
        return {"log_likelihood": float(np.mean(features.examples["counts"] * log_rate - np.exp(log_rate)))}

    def predictions(self, outputs, features, split):
        return ({"prediction": float(rate)} for rate in np.exp(outputs["log_rate"]))

    def plots(self, outputs, features, split):
        return {"labels": features.examples["counts"], "scores": np.exp(outputs["log_rate"])}

    def published(self, model, max_length):
        settings = {"num_labels": 1, "problem_type": "regression"}
        return tables.Published("text-classification", "(its logit is the log of the rate)", settings)


tables.register("counts", Counts, task=Poisson, table=CountTable)


def get_config(source=""):
    return config.Experiment(name="counts", task=Counts(), data=config.Data(source=source))
