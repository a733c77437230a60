"""Fine-tunes a pretrained encoder, and evaluates, predicts with and exports what came of it.

  python run.py --config=configs/quickstart.py --workdir=/tmp/qs
  python run.py --config=configs/glue.py:sst2 --workdir=/tmp/sst2 --config.optimizer.learning_rate=3e-5
  python run.py --config=configs/quickstart.py --workdir=/tmp/qs --config.train.epochs=2 --extend
  python run.py --mode=evaluate --workdir=/tmp/qs --input=labelled.csv
  python run.py --mode=predict --workdir=/tmp/qs --input=texts.txt --output=answers.jsonl
  python run.py --mode=export --workdir=/tmp/qs
  python run.py --mode=plan --config=configs/quickstart.py --topology=v5e:4x4
  python run.py --mode=inspect --config=configs/quickstart.py --draw=bert/pooler/dense/kernel

Any key of the experiment can be set by --config.KEY=VALUE:
"""

from jaxft.__main__ import main

if __name__ == "__main__":
    main(__doc__)
