"""XNLI (Conneau et al. 2018), what follows from a sentence, the language as argument; model and data from the Hub.

  python run.py --config=configs/xnli.py:zh --workdir=/tmp/xnli-zh
  python run.py --config=configs/xnli.py:en --workdir=/tmp/xnli-en --config.model.path=FacebookAI/xlm-roberta-base

Training is on the sentences of MultiNLI in the language, translated by machine where it is not English, validation and
test on those of XNLI. Published for models that were trained on English alone, accuracy on English, and the mean over
all 15 languages: 0.882 and 0.798 of mdeberta-v3-base, 0.858 and 0.762 of xlm-roberta-base (the former's model card).
jaxft has not been run on it where it was written, which the Hub cannot be reached from.
"""

from jaxft.config import Data, Experiment, Model, Optimizer, SequenceClassification, Train
from jaxft.errors import UserError, nearest

LANGUAGES = ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")


def get_config(language: str = "en") -> Experiment:
    if language not in LANGUAGES:
        raise UserError(f"--config=configs/xnli.py:{language}: no such language; {nearest(language, LANGUAGES)}")
    return Experiment(
        name=f"xnli-{language}",
        model=Model(path="microsoft/mdeberta-v3-base"),
        task=SequenceClassification(text="premise", text_pair="hypothesis"),
        data=Data(source="facebook/xnli", subset=language),
        optimizer=Optimizer(learning_rate=2e-5, warmup=0.1),
        train=Train(batch_size=32, epochs=2),
    )
