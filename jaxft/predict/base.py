"""What a predictor takes of a model's directory, or of an adapter that is put on it."""

import dataclasses
from pathlib import Path

from jaxft import config, program
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.hub import adapters
from jaxft.job import Body
from jaxft.pretrained import load, load_adapter
from jaxft.types import Params


def as_trained(experiment: config.Experiment, meaning: adapters.Meaning) -> config.Experiment:
    """Returns the experiment, which reads and answers as an adapter was trained to."""
    data = dataclasses.replace(experiment.data, max_length=meaning.max_length, truncate=meaning.truncate)
    return dataclasses.replace(experiment, task=meaning.task, data=data)


def base_weights(body: Body, composed: program.Program, adapter: Path | None) -> tuple[Params, Params]:
    """Returns the parameters of the model's directory, which has the head as well, or is what the adapter is put on.

    Raises:
      UserError: there is no head, here or there.
    """
    params, accounting = load(body.directory, composed)
    trainable, frozen = composed.split(params)
    if adapter:
        there = adapters.held(adapter, composed)
        if new := [path for path in accounting.new if path not in there]:
            raise UserError(
                f"neither the adapter {adapter} nor its base {body.directory} has {', '.join(new[:3])}: what is not "
                "trained answers nothing; save the head with the adapter (peft: modules_to_save)"
            )
        trainable, notes = load_adapter(adapter, composed, trainable)
        for line in notes:
            say(line)
        return trainable, frozen
    if new := accounting.new:
        raise UserError(
            f"{body.directory}: the weights have no {', '.join(new[:3])} of the shape that config.json says; "
            "what is not trained answers nothing"
        )
    return trainable, frozen
