"""GLUE (Wang et al. 2019) with bert-base-cased, the task as argument; model and data from the Hugging Face Hub.

  python run.py --config=configs/glue.py:sst2 --workdir=/tmp/sst2

The published results of these settings on the validation sets, by the Hugging Face PyTorch Trainer
(transformers, examples/pytorch/text-classification/README.md); jaxft has not been run on them where it was written,
which the Hub cannot be reached from:

  cola   Matthews 0.5653             qqp   accuracy 0.9071, F1 0.8749
  sst2   accuracy 0.9232             mnli  accuracy 0.8391, mismatched 0.8410
  mrpc   F1 0.8885, accuracy 0.8407  qnli  accuracy 0.9066
  stsb   Pearson 0.8864,             rte   accuracy 0.6570
         Spearman 0.8848             wnli  accuracy 0.5634

The labels of the test sets are hidden, so results are those of the validation set; of mnli, `test` is the mismatched
validation set.
"""

from jaxft.config import Data, Experiment, Model, Optimizer, SequenceClassification, Train
from jaxft.errors import UserError, nearest

TASKS = {
    "cola": (("sentence", ""), "matthews"),
    "sst2": (("sentence", ""), "accuracy"),
    "mrpc": (("sentence1", "sentence2"), "f1"),
    "qqp": (("question1", "question2"), "accuracy"),
    "stsb": (("sentence1", "sentence2"), "pearson"),
    "mnli": (("premise", "hypothesis"), "accuracy"),
    "qnli": (("question", "sentence"), "accuracy"),
    "rte": (("sentence1", "sentence2"), "accuracy"),
    "wnli": (("sentence1", "sentence2"), "accuracy"),
}
"""Task -> its columns, and the metric that selects the checkpoint."""


def get_config(task: str = "sst2") -> Experiment:
    if task not in TASKS:
        raise UserError(f"--config=configs/glue.py:{task}: no such task; {nearest(task, TASKS)}")
    (text, text_pair), metric = TASKS[task]
    problem = "regression" if task == "stsb" else "single_label"
    return Experiment(
        name=f"glue-{task}",
        model=Model(path="google-bert/bert-base-cased"),
        task=SequenceClassification(text=text, text_pair=text_pair, problem=problem),
        data=Data(
            source="nyu-mll/glue",
            subset=task,
            validation="validation_matched" if task == "mnli" else "validation",
            test="validation_mismatched" if task == "mnli" else "",
        ),
        optimizer=Optimizer(learning_rate=2e-5, warmup=0.0, weight_decay=0.0),
        train=Train(batch_size=32, epochs=5 if task in ("mrpc", "wnli") else 3, metric=metric),
    )
