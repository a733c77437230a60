"""ChnSentiCorp, Chinese reviews of hotels, books and computers, good or bad, with bert-base-chinese from the Hub.

  python run.py --config=configs/chnsenticorp.py --workdir=/tmp/chnsenticorp

Reference (Cui et al. 2021, "Pre-Training with Whole Word Masking for Chinese BERT", BERT-base): accuracy 0.947
validation (mean 0.943), 0.950 test (mean 0.947). jaxft has not been run on it where it was written, which the Hub
cannot be reached from.
"""

from jaxft.config import Data, Experiment, Model, Optimizer, SequenceClassification, Train


def get_config() -> Experiment:
    return Experiment(
        name="chnsenticorp",
        model=Model(path="google-bert/bert-base-chinese"),
        task=SequenceClassification(text="text", label="label"),
        data=Data(source="lansinuote/ChnSentiCorp", max_length=256),
        optimizer=Optimizer(learning_rate=2e-5),
        train=Train(batch_size=64, epochs=3),
    )
