"""Do conformal sets keep their promise? Of a run's test split, calibrated on one half and measured on the other.

  make quickstart
  python benchmarks/sure.py --workdir=/tmp/jaxft-quickstart

The model has learned from none of these rows and was not chosen by them. How many rows of the second half have a set
that holds the truth is beta-binomial; its 95% interval is printed beside what one split gives, and the mean of 200.
"""

import argparse

import numpy as np
from scipy import stats

from jaxft import Predictor
from jaxft.modes import measured
from jaxft.sure import calibration, conformal
from jaxft.tables.sequence_classification import SequenceClassification

LEVELS = (0.8, 0.9, 0.95)
SPLITS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True)
    predictor = Predictor.open(parser.parse_args().workdir)
    table = predictor.table
    assert isinstance(table, SequenceClassification), "a run of SequenceClassification"
    features, found = predictor.measured(measured.of_run(predictor.experiment, table)["test"])
    logits, labels = table.rows(found.outputs, features)
    half, rng = len(labels) // 2, np.random.default_rng(0)
    orders = [rng.permutation(len(labels)) for _ in range(SPLITS)]
    print(f"{half:,} rows to calibrate on, {len(labels) - half:,} to measure on")
    for level in LEVELS:
        rank = int(np.ceil((half + 1) * level - 1e-9))
        law = stats.betabinom(len(labels) - half, rank, half + 1 - rank)
        interval = [law.ppf(end) / (len(labels) - half) for end in (0.025, 0.975)]
        for sets in conformal.SETS:
            each = []
            for order in orders:
                first, rest = order[:half], order[half:]
                made = calibration.fit(table.options.problem, logits[first], labels[first], level, sets)
                each.append(calibration.figures(made, logits[rest], labels[rest]))
            held, size = (np.asarray([one[name] for one in each]) for name in ("covered", "size"))
            within = np.mean((interval[0] <= held) & (held <= interval[1]))
            print(
                f"{level:.0%} {sets:8}  held {held[0]:.1%} (95% interval {interval[0]:.1%} to {interval[1]:.1%}), "
                f"{size[0]:.2f} labels; of {SPLITS} splits {held.mean():.1%}, {within:.0%} within the interval"
            )


if __name__ == "__main__":
    main()
