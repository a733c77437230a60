"""Fine-tunes a pretrained encoder, and evaluates, predicts with and exports what came of it.

  jaxft --config=quickstart --workdir=/tmp/qs
  jaxft --config=glue:sst2 --workdir=/tmp/sst2 --config.optimizer.learning_rate=3e-5
  jaxft --config=quickstart --workdir=/tmp/qs --config.train.epochs=2 --extend
  jaxft --mode=evaluate --workdir=/tmp/qs --input=labelled.csv
  jaxft --mode=predict --workdir=/tmp/qs --input=texts.txt --output=answers.jsonl
  jaxft --mode=export --workdir=/tmp/qs
  jaxft --mode=plan --config=quickstart --topology=v5e:4x4
  jaxft --mode=inspect --config=quickstart --draw=bert/pooler/dense/kernel

`python -m jaxft` is the same. --config takes a file, or the name of one that comes with jaxft. Any key of the
experiment can be set by --config.KEY=VALUE:
"""

import sys

from jaxft.devices import memory


def main(usage: str | None = __doc__) -> None:
    """Runs the command line of this process and ends it: the command `jaxft`, `python -m jaxft` and `run.py`."""
    memory.keep()
    from jaxft import cli  # jax and the rest only now: `keep` may start the process over

    cli.leave(cli.main(sys.argv, usage))


if __name__ == "__main__":
    main()
