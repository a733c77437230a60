"""Any number of labels a text: a list of them, names in one column, or a column of 0 and 1 a label.

  python run.py --config=configs/multi_label.py:comments.csv --workdir=/tmp/comments \\
      --config.task.label_columns="('toxic', 'insult', 'threat')"
  python run.py --config=configs/multi_label.py:articles.csv --workdir=/tmp/articles \\
      --config.task.label=topics --config.task.delimiter=";"

The argument is a file or a folder, as for text_files.py. Thresholds are those of the best F1 of each label on
validation; they are in the export's config.json, and predictions use them.
"""

from jaxft.config import Data, Experiment, Model, Optimizer, SequenceClassification, Train


def get_config(source: str = "") -> Experiment:
    return Experiment(
        name="multi-label",
        model=Model(path="google-bert/bert-base-uncased"),
        task=SequenceClassification(problem="multi_label"),
        data=Data(source=source),
        optimizer=Optimizer(learning_rate=5e-5),
        train=Train(batch_size=32, epochs=3),
    )
