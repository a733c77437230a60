"""Documents longer than the model, read whole: a file or folder as `text_files.py` takes it.

  python run.py --config=configs/long_documents.py:reports.jsonl --workdir=/tmp/reports

A document is cut into windows of `data.max_length` tokens that share `task.stride`; of each class the largest logit of
all windows counts. `--config.task.windows=mean` is for what is said all over a document; with `attention` the model
learns which windows count. With a model that reads 8,192 tokens itself:

  python run.py --config=configs/long_documents.py:reports.jsonl --workdir=/tmp/reports \\
      --config.model.path=answerdotai/ModernBERT-base --config.data.max_length=8192 --config.task.windows=

A batch is of documents: eight of six windows are what forty-eight texts are elsewhere.
"""

from jaxft.config import Compute, Data, Experiment, Model, Optimizer, SequenceClassification, Train


def get_config(source: str = "") -> Experiment:
    return Experiment(
        name="long-documents",
        model=Model(path="google-bert/bert-base-uncased"),
        task=SequenceClassification(text="text", label="label", windows="max", stride=64),
        data=Data(source=source, max_length=512, shapes=2),
        optimizer=Optimizer(learning_rate=3e-5),
        train=Train(batch_size=8, epochs=3),
        compute=Compute(remat=True),
    )
