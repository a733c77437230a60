"""Continued pretraining of a decoder: guess each token of your own text from those before it.

  python run.py --config=configs/clm.py:notes.txt --workdir=/tmp/clm

The text is a file (.txt, a line a text; CSV, JSON lines or Parquet with a column `text`), or a folder of them named
after splits. Each text is an example of its own, or several pieces where it is longer than data.max_length, and several
share a row of a batch without seeing each other; each ends with the token that the tokenizer has for that (task.end).
What comes out opens with AutoModelForCausalLM, and is a start for a classifier too:

  python run.py --config=configs/text_files.py:reviews.csv --workdir=/tmp/reviews --config.model.path=/tmp/clm/export

With --config.adapt=lora the adapter in the workdir opens with peft. Scores of words never exist for all tokens at once:
a vocabulary of 262,144 needs no more memory for them than one of 32,000.
"""

from jaxft.config import CausalLM, Data, Experiment, Model, Optimizer, Train


def get_config(source: str) -> Experiment:
    return Experiment(
        name="clm",
        model=Model(path="HuggingFaceTB/SmolLM2-135M"),
        task=CausalLM(),
        data=Data(source=source, max_length=512),
        optimizer=Optimizer(learning_rate=1e-4),
        train=Train(batch_size=32, epochs=3),
    )
