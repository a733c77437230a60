"""What a user gets wrong on the command line and in a config file; see `mistakes`."""

from mistakes import CONFIGS, Rows, experiment_file, flags, on_run

COMMAND_LINE: Rows = {
    "no config file": (
        flags(f"--config={CONFIGS}/quikstart.py"),
        [f"there is no file {CONFIGS}/quikstart.py", f"did you mean '{CONFIGS}/quickstart.py'?"],
    ),
    "no such key": (
        flags("--config.optimizer.learning_rte=1"),
        ["--config.optimizer.learning_rte: there is no such key", "did you mean 'optimizer.learning_rate'?"],
    ),
    "the last part of a key": (flags("--config.epochs=1"), ["--config.epochs", "did you mean 'train.epochs'?"]),
    "a key that is switched off": (
        lambda room: [*room.train(), "--noconfig.compute.rematt"],
        ["--config.compute.rematt: there is no such key", "'compute.remat'?"],
    ),
    "a group of keys": (
        flags("--config.optimizer=adam"),
        ["--config.optimizer", "it is a group of keys: optimizer.name, optimizer.learning_rate, optimizer.schedule"],
    ),
    "a word for an integer": (
        flags("--config.train.batch_size=many"),
        ["config.train.batch_size is 'many'; it must be of type int (examples a step"],
    ),
    "a fraction for an integer": (
        flags("--config.train.batch_size=1.5"),
        ["config.train.batch_size is '1.5'; it must be of type int"],
    ),
    "a word for a number": (
        flags("--config.optimizer.learning_rate=fast"),
        ["config.optimizer.learning_rate is 'fast'; it must be of type float (peak learning rate)"],
    ),
    "no finite number": (flags("--config.optimizer.learning_rate=nan"), ["config.optimizer.learning_rate is nan"]),
    "a word for true or false": (
        flags("--config.compute.remat=maybe"),
        ["config.compute.remat is 'maybe'; it must be of type bool"],
    ),
    "half a tuple": (
        flags("--config.data.columns=('a',"),
        ["config.data.columns is \"('a',\"; it must be of type tuple[str, ...], written a,b or \"('a', 'b')\""],
    ),
    "a tuple of numbers": (flags("--config.task.labels=(0,1)"), ["config.task.labels is (0, 1)", "tuple[str, ...]"]),
    "too small": (flags("--config.train.batch_size=0"), ["config.train.batch_size is 0; it must be at least 1"]),
    "too large": (
        flags("--config.data.validation_fraction=2"),
        ["config.data.validation_fraction is 2", "it must be at most 0.9"],
    ),
    "no such choice": (
        flags("--config.optimizer.schedule=liner"),
        ["config.optimizer.schedule is 'liner'", "did you mean 'linear'?"],
    ),
    "an empty path": (flags("--config.model.path="), ["config.model.path is empty", "--config.model.path="]),
    "no length": (
        flags("--config.train.steps=0", "--config.train.epochs=0"),
        ["config.train.steps and config.train.epochs are both 0"],
    ),
    "no such flag": (flags("--wrokdir=x"), ["wrokdir", "Did you mean: workdir"]),
    "no run and no config to inspect": (
        lambda room: ["--mode=inspect"],
        ["--workdir is missing; give the folder of the run, or an experiment by --config"],
    ),
    "no such mode": (flags("--mode=trian"), ["--mode=trian", "train|evaluate|predict|explain|export"]),
    "no flag": (lambda room: [*room.train(), "quickstart.py"], ["unexpected argument 'quickstart.py'", "--flag=value"]),
    "no value": (lambda room: [*room.train(), "--input"], ["Missing value for flag --input"]),
    "two configs": (
        lambda room: [*room.train(), "--config", "other.py"],
        ["--config is given 2 times", "other.py", "give it once"],
    ),
    "a plan for nothing": (
        flags("--mode=plan"),
        ["--topology is missing; give v4, v5e, ", "such as v5e:4x4; cpu:8; or gpu"],
    ),
    "a plan for no topology": (
        flags("--mode=plan", "--topology=v9:2x2"),
        ["--topology=v9:2x2: there is no such topology; give v4, v5e, v5p, v6e, tpu7x with a size"],
    ),
    "a plan for no such slice": (
        flags("--mode=plan", "--topology=v5e:3x3"),
        ["--topology=v5e:3x3: v5e comes in 1x1, 2x2, 2x4, 4x4, "],
    ),
    "a plan for what is not here": (
        flags("--mode=plan", "--topology=gpu"),
        ["--topology=gpu: there is no GPU here that JAX can use"],
    ),
    "a plan of nothing": (lambda room: ["--mode=plan", "--topology=cpu:8"], ["--config is missing"]),
    "no --workdir": (lambda room: [f"--config={CONFIGS}/quickstart.py"], ["--workdir is missing"]),
    "no --config": (lambda room: [f"--workdir={room.path}/run"], ["--config is missing", "configs/quickstart.py"]),
    "an empty --config": (flags("--config="), ["--config is empty", "configs/quickstart.py"]),
    "a key without --config": (
        lambda room: [f"--workdir={room.path}/run", "--config.train.steps=1"],
        ["--config.train.steps without --config"],
    ),
    "a bad key before --config": (
        lambda room: ["--config.train.stepps=1", *room.train()],
        ["--config.train.stepps: there is no such key", "did you mean 'train.steps'?"],
    ),
    "a bad value before --config": (
        lambda room: ["--config.train.steps=one", *room.train()],
        ["config.train.steps is 'one'; it must be of type int"],
    ),
    "a config that is no Python": (
        lambda room: room.train(f"--config={room.write('notes.txt', 'x')}"),
        ["notes.txt is no Python file", "must end in .py"],
    ),
    "no config of that name": (flags("--config=quikstart"), ["no file quikstart", "did you mean 'quickstart'?"]),
    "a packaged config without its argument": (flags("--config=glue:sts"), ["glue.py:sts: no such task", "'stsb'?"]),
    "no such format": (on_run("export", "--format=onx"), ["--format onx", "did you mean 'onnx'?"]),
    "no --input": (on_run("predict"), ["--input is missing"]),
    "an ensemble of one": (
        lambda room: on_run("predict", f"--input={room.write('a.txt', 'a')}", f"--runs={room.run}")(room),
        ["a mean is of two runs or more, each once; give others than --workdir"],
    ),
    "an ensemble and an adapter": (
        lambda room: on_run("predict", f"--input={room.write('a.txt', 'a')}", "--runs=b", "--adapter=c")(room),
        ["--runs has models that answer together, on which c cannot be put; leave one out"],
    ),
    "folds of nothing": (
        lambda room: [*room.train(f"--workdir={room.path}/folds"), "--mode=crossfit", "--crossfit.folds=1"],
        ["--crossfit.folds is 1; it must be at least 2"],
    ),
    "votes without noise": (
        lambda room: [
            *room.train(f"--workdir={room.path}/pate", f"--input={room.write('p.txt', 'x')}"),
            *("--mode=pate", "--pate.sigma=0"),
        ],
        ["--pate.sigma is 0.0; without noise nothing is private"],
    ),
    "a way to attack that there is not": (
        on_run("attack", "--attack.methods=typos"),
        ["--attack.methods: there is no 'typos'; did you mean 'typo'?"],
    ),
    "an attack on no word": (on_run("attack", "--attack.words=0"), ["--attack.words is 0; it must be at least 1"]),
    "a service of no text": (
        on_run("serve", "--serve.texts=0"),
        ["--serve.texts is 0; it must be at least 1"],
    ),
    "an adapter without a name": (
        on_run("serve", "--adapters=/tmp/a"),
        ["--adapters: '/tmp/a' is no NAME=PATH; write --adapters=first=/path/one"],
    ),
    "a port that there is not": (
        on_run("serve", "--port=70000"),
        ["--port=70000 on --host=127.0.0.1", "choose another"],
    ),
    "nothing to serve": (
        lambda room: ["--mode=serve", f"--workdir={room.path}", "--port=0"],
        ["holds no run (no config.json)"],
    ),
    "no such GLUE task": (flags(f"--config={CONFIGS}/glue.py:sts"), ["glue.py:sts: no such task", "'stsb'?"]),
}

CONFIG_FILES: Rows = {
    "it raises": (experiment_file("return {}['lr']"), ["mine.py, line 5: KeyError: 'lr'"]),
    "it is no Python": (experiment_file("return ("), ["mine.py: SyntaxError: '(' was never closed (mine.py, line 5)"]),
    "it sets no such key": (
        experiment_file("return Experiment(train=Train(batchsize=8))"),
        ["mine.py, line 5: TypeError", "'batchsize'"],
    ),
    "it sets an attribute that is no key": (
        experiment_file("e = Experiment(); e.train.batchsize = 8; return e"),
        ["mine.py, line 5: AttributeError: no key 'batchsize'; did you mean 'batch_size'?"],
    ),
    "it has a value of the wrong type": (
        experiment_file("return Experiment(optimizer=Optimizer(learning_rate='1e-4'))"),
        ["config.optimizer.learning_rate is '1e-4'; it must be of type float"],
    ),
    "it has a dict for a section": (
        experiment_file("return Experiment(train={'batch_size': 8})"),
        ["config.train is a dict; it must be a Train of jaxft.config"],
    ),
    "it has another section": (
        experiment_file("return Experiment(train=Data())"),
        ["config.train is a Data; it must be a Train"],
    ),
    "it has no get_config": (experiment_file("pass", head="def config():"), ["mine.py", "no attribute 'get_config'"]),
    "it returns something else": (experiment_file("return {}"), ["get_config returns a dict", "a jaxft Experiment"]),
    "it takes no argument": (
        flags(f"--config={CONFIGS}/quickstart.py:x"),
        ["quickstart.py:x: TypeError: get_config() takes 0 positional arguments but 1 was given"],
    ),
}
