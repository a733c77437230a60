"""Sentence embeddings: vectors of texts, from pairs (or triples) that belong together, for search and clustering.

  python run.py --config=configs/embeddings.py:pairs.csv --workdir=/tmp/pairs \\
      --config.task.texts="('question', 'passage')"
  python run.py --config=configs/embeddings.py:sts.csv --workdir=/tmp/sts \\
      --config.task.texts="('sentence1', 'sentence2')" --config.task.score=cosine

The argument is a file or a folder. With two texts a row, those of other rows of the batch are what a text is to be told
from, so larger batches are harder and better; a third column names one more such text for each row. With a score the
cosine of the two texts is fitted to it. The export opens in sentence-transformers.
"""

from jaxft.config import Data, Experiment, Model, Optimizer, SentenceEmbedding, Train


def get_config(source: str = "") -> Experiment:
    return Experiment(
        name="embeddings",
        model=Model(path="google-bert/bert-base-uncased"),
        task=SentenceEmbedding(),
        data=Data(source=source),
        optimizer=Optimizer(learning_rate=2e-5),
        train=Train(batch_size=64, epochs=1),
    )
