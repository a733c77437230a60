"""Multiple choice, in the shape of SWAG or RACE: a text, perhaps a question, and choices, of which one is right.

  python run.py --config=configs/multiple_choice.py:FILE_OR_FOLDER --workdir=/tmp/choices \\
      --config.task.context=article --config.task.question=question --config.task.choices="('options',)" \\
      --config.task.label=answer

The argument is a file (.jsonl, .csv, .parquet) or a folder with train, dev and test. Choices are a list in one column,
as above (RACE), or a column each (SWAG), and may be of different number from row to row; the label is the number of the
right one (from 0), its letter or its text. SWAG from the Hub:

  python run.py --config=configs/multiple_choice.py:allenai/swag --workdir=/tmp/swag --config.data.subset=regular \\
      --config.task.context=sent1 --config.task.question=sent2 \\
      --config.task.choices="('ending0', 'ending1', 'ending2', 'ending3')"

It has not been run on either where it was written, which the Hub cannot be reached from.
"""

from jaxft.config import Data, Experiment, Model, MultipleChoice, Optimizer, Train


def get_config(source: str = "") -> Experiment:
    return Experiment(
        name="multiple-choice",
        model=Model(path="google-bert/bert-base-uncased"),
        task=MultipleChoice(),
        data=Data(source=source),
        optimizer=Optimizer(learning_rate=5e-5),
        train=Train(batch_size=16, epochs=3),
    )
