"""Sentence embeddings: vectors of texts, from pairs (or triples) that belong together, for search and clustering.

  python run.py --config=configs/embeddings.py:pairs.csv --workdir=/tmp/pairs \\
      --config.task.texts="('question', 'passage')"
  python run.py --config=configs/embeddings.py:sts.csv --workdir=/tmp/sts \\
      --config.task.texts="('sentence1', 'sentence2')" --config.task.score=cosine

The argument is a file or a folder. With two texts a row, those of other rows of the batch are what a text is to be told
from, so larger batches are harder and better; a third column names one more such text for each row. With a score the
cosine of the two texts is fitted to it. The export opens in sentence-transformers.

Measured: MiniLM, a model of English, on the Chinese questions and paragraphs of XQuAD (764 pairs of 30 articles, one
epoch, 64 tokens, batch 32, learning rate 1e-4) finds for questions about 12 other articles the paragraph that answers
them with MRR@10 0.374 before, 0.454 +- 0.010 after; trained by PyTorch 0.462 +- 0.008 (three seeds, mean +- standard
deviation). With --dropout=0, which leaves nothing to chance, both end at a test loss of 2.8253 and MRR@10 0.4549:

  python benchmarks/tasks_vs_torch.py --data=DIR --out=/tmp/tasks.jsonl --only=embeddings
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
