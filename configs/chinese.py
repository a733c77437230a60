"""Chinese texts and pairs of texts, the task as argument, with bert-base-chinese or hfl's; model and data from the Hub.

  python run.py --config=configs/chinese.py:tnews --workdir=/tmp/tnews
  python run.py --config=configs/chinese.py:chnsenticorp --workdir=/tmp/reviews \\
      --config.model.path=hfl/chinese-roberta-wwm-ext

Of CLUE (Xu et al. 2020) the labels of the test sets are hidden: results are those of the validation set. What its board
says of BERT-base on the test sets, accuracy:

  afqmc    0.7370  whether two questions ask the same   iflytek  0.6029  kinds of apps, of long texts
  tnews    0.5658  kinds of news, of headlines          cmnli    0.7969  what follows from a sentence

ChnSentiCorp, reviews good or bad: at best 0.947 on validation, 0.950 on test, in the mean 0.943 and 0.947 (Cui et al.
2021, "Pre-Training with Whole Word Masking for Chinese BERT", BERT-base). jaxft has not been run on them where it was
written, which the Hub cannot be reached from.
"""

from typing import NamedTuple

from jaxft.config import Data, Experiment, Model, Optimizer, SequenceClassification, Train
from jaxft.errors import UserError, nearest


class Texts(NamedTuple):
    """Where a task's data are on the Hub, its columns, and how long its texts are."""

    source: str
    subset: str
    text: str
    text_pair: str
    max_length: int
    test: str


TASKS = {
    "afqmc": Texts("clue/clue", "afqmc", "sentence1", "sentence2", 128, ""),
    "tnews": Texts("clue/clue", "tnews", "sentence", "", 128, ""),
    "iflytek": Texts("clue/clue", "iflytek", "sentence", "", 512, ""),
    "cmnli": Texts("clue/clue", "cmnli", "sentence1", "sentence2", 128, ""),
    "chnsenticorp": Texts("lansinuote/ChnSentiCorp", "", "text", "", 256, "test"),
}


def get_config(task: str = "chnsenticorp") -> Experiment:
    if task not in TASKS:
        raise UserError(f"--config=configs/chinese.py:{task}: no such task; {nearest(task, TASKS)}")
    texts = TASKS[task]
    return Experiment(
        name=f"chinese-{task}",
        model=Model(path="google-bert/bert-base-chinese"),
        task=SequenceClassification(text=texts.text, text_pair=texts.text_pair),
        data=Data(source=texts.source, subset=texts.subset, max_length=texts.max_length, test=texts.test),
        optimizer=Optimizer(learning_rate=2e-5),
        train=Train(batch_size=64 if task == "chnsenticorp" else 32, epochs=3),
    )
