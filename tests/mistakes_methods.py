"""What a user gets wrong about which parameters learn; see `mistakes`."""

import json

from mistakes import Room, Rows, flags, predict

from jaxft.hub import adapters


def ia3(room: Room) -> str:
    """The directory of an adapter, as far as its configuration goes."""
    values = {"peft_type": "IA3", "target_modules": ["key"], "feedforward_modules": []}
    return str(room.write(f"ia3/{adapters.CONFIG}", json.dumps(values)).parent)


METHODS: Rows = {
    "a method that there is not": (
        flags("--config.adapt=frozen"),
        ["config.adapt is 'frozen'", "did you mean 'freeze'?"],
    ),
    "layers that begin anew and do not learn": (
        flags("--config.adapt=lora", "--config.model.reinit=1"),
        ["config.model.reinit is 1, but with adapt=lora layers that begin anew would not learn"],
    ),
    "nothing that is frozen, in few bits": (
        flags("--config.compute.frozen=nf4"),
        ["config.compute.frozen is nf4, but with adapt=full every parameter learns", "(config.adapt=lora)"],
    ),
    "frozen parameters in a form that there is not": (
        flags("--config.adapt=lora", "--config.compute.frozen=int4"),
        ["config.compute.frozen is 'int4'", "did you mean 'int8'?"],
    ),
    "more layers than there are": (
        flags("--config.adapt=freeze", "--config.freeze.last_layers=3"),
        ["config.freeze.last_layers is 3, but the model has only 2 layers"],
    ),
    "a pattern that names nothing": (
        flags("--config.adapt=freeze", "--config.freeze.learn=('qery',)"),
        ["config.freeze.learn has 'qery'", "there are: ", "bert/encoder/layer/*/attention/self/query/kernel, "],
    ),
    "a target that names nothing": (
        flags("--config.adapt=lora", "--config.lora.targets=('query', 'vaule')"),
        ["config.lora.targets has 'vaule'", "there are: bert/encoder/layer/*/attention/self/query, "],
    ),
    "a prompt that leaves no position": (
        flags("--config.adapt=prompt", "--config.prompt.length=60"),
        ["config.prompt.length is 60 and config.data.max_length ", "together more than the model's 64 positions"],
    ),
    "two averages": (
        flags("--config.optimizer.ema=0.9", "--config.optimizer.swa=0.5"),
        ["config.optimizer.ema and config.optimizer.swa are both set, but one average is evaluated"],
    ),
    "two passes that are the same": (
        flags("--config.objective.r_drop=1", "--config.model.dropout=0"),
        ["config.objective.r_drop compares two passes", "no dropout rate is above zero; set config.model.dropout"],
    ),
    "an attack that there is not": (
        flags("--config.objective.adversarial=fgsm"),
        ["config.objective.adversarial is 'fgsm'", "did you mean 'fgm'?"],
    ),
    "no adapter to go on from": (
        flags("--config.model.adapter=/nowhere"),
        ["no adapter_config.json in /nowhere; is it the directory of an adapter?"],
    ),
    "an adapter of another method": (
        lambda room: room.train(f"--config.model.adapter={ia3(room)}", "--config.adapt=lora"),
        ["config.adapt is 'lora', but config.model.adapter", "is of ia3; leave one of them out"],
    ),
    "no adapter": (
        predict("a.txt", "x\n", "--adapter=/nowhere"),
        ["no adapter_config.json in /nowhere; is it the directory of an adapter?"],
    ),
}
