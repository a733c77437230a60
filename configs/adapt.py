"""The quickstart, but not every parameter learns: the method as argument; docs/adapt.md says which is for what.

  python run.py --config=configs/adapt.py:lora --workdir=/tmp/lora
  python run.py --config=configs/adapt.py:lora --workdir=/tmp/dora --config.lora.dora=true --config.lora.rank=4
  python run.py --config=configs/adapt.py:freeze --workdir=/tmp/freeze --config.freeze.last_layers=2
  python run.py --config=configs/adapt.py:adapter --workdir=/tmp/houlsby --config.adapter.placement=houlsby
  python run.py --config=configs/adapt.py:adalora --workdir=/tmp/adalora --config.adalora.target=4
  python run.py --config=configs/adapt.py:bitfit --workdir=/tmp/bitfit
  python run.py --config=configs/adapt.py:mixout --workdir=/tmp/mixout --config.mixout.rate=0.5
  python run.py --config=configs/adapt.py:ia3 --workdir=/tmp/ia3
  python run.py --config=configs/adapt.py:prefix --workdir=/tmp/prefix --config.prefix.length=8
  python run.py --config=configs/adapt.py:prompt --workdir=/tmp/prompt --config.prompt.length=16

In any other config it is one line, or one flag; most methods want ten times the learning rate of full fine-tuning:

  python run.py --config=configs/quickstart.py --workdir=/tmp/lora --config.adapt=lora \\
      --config.optimizer.learning_rate=3e-3
"""

from configs import quickstart
from jaxft.config import METHODS, Experiment
from jaxft.errors import UserError, nearest

RATES = {"full": 1e-4, "mixout": 1e-4, "freeze": 1e-3}
"""Where to begin: as the quickstart does, else the best of a few rates in a short run (docs/adapt.md); others: 3e-3."""


def get_config(method: str = "lora") -> Experiment:
    if method not in METHODS:
        raise UserError(f"--config=configs/adapt.py:{method}: no such method; {nearest(method, METHODS)}")
    experiment = quickstart.get_config()
    experiment.name, experiment.adapt = f"tweets-minilm-{method}", method
    experiment.optimizer.learning_rate = RATES.get(method, 3e-3)
    return experiment
