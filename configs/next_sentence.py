"""Continued pretraining as BERT's own: guess hidden tokens, and tell whether one text follows another.

  python run.py --config=configs/next_sentence.py:notes.txt --workdir=/tmp/following

The lines of a text file make up documents, with blank lines between them; in a table a row is a document. Both heads
come from the checkpoint where it has them (google-bert/bert-base-uncased does). What comes out opens as
BertForPreTraining, and is a start for any other task, as that of configs/mlm.py is.
"""

from jaxft.config import Data, Experiment, Model, NextSentence, Optimizer, Train


def get_config(source: str) -> Experiment:
    return Experiment(
        name="next_sentence",
        model=Model(path="google-bert/bert-base-uncased"),
        task=NextSentence(),
        data=Data(source=source, documents=True),
        optimizer=Optimizer(learning_rate=1e-4),
        train=Train(batch_size=32, epochs=3),
    )
