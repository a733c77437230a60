"""The arguments of a command line: which flags there are, in what order they come, and which a mode uses."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags import tuple_parser

from jaxft import config
from jaxft.cli.modes import MODES
from jaxft.config import files
from jaxft.errors import UserError, nearest

PROCESSES = {
    "coordinator": (
        "",
        "several processes: HOST:PORT of process 0; empty: JAX finds out (TPU, Slurm, ...)",
    ),
    "processes": (0, "how many processes there are; 0: JAX finds out; 1: this one alone"),
    "process": (-1, "which of the processes this is, from 0; -1: JAX finds out"),
    "start_timeout": (300, "seconds within which all processes must have met"),
    "heartbeat_timeout": (100, "seconds without a sign of life after which a process is dead and the others stop"),
}
"""The flags of a run of several processes."""


class _Texts(tuple_parser.TupleParser):
    """Reads `a,b` as well as `('a', 'b')`."""

    def parse(self, argument: Any) -> tuple:
        if isinstance(argument, str) and not argument.lstrip().startswith(("(", "[", "'", '"')):
            return tuple(filter(None, map(str.strip, argument.split(","))))
        return super().parse(argument)


config_flags.register_flag_parser_for_type(tuple[str, ...], _Texts())


OF_MODES: dict[str, tuple[Any, str]] = {
    "workdir": (
        None,
        "folder of the run: train writes it, crossfit, pate and setfit several in it; evaluate, predict, chat, "
        "explain, calibrate, attack, audit, export, compress, soup, serve and inspect read it; predict, chat, explain, "
        "calibrate, attack, audit, compress, soup, serve, export --format: or that of any model; plan: where plan.json "
        "is written",
    ),
    "input": (
        None,
        "predict, explain: a text, CSV, JSON or Parquet file; evaluate, calibrate, attack, audit, compress, soup, "
        "export --format=int8: a labelled file, instead of the run's own splits; compress, for words alone: any text; "
        "pate: public rows, which are to be labelled",
    ),
    "output": (
        "",
        "predict, explain, attack: JSON lines file to write; empty: standard output; explain, attack: or a page, "
        "FILE.html; evaluate --compare: either; audit: a page, or FILE.json; compress, soup: new folder of the model",
    ),
    "draw": ("", "inspect: draw the parameters whose path this pattern matches"),
    "adapter": ("", "predict, chat, explain: folder of an adapter, of this run, of another or from peft, to use"),
    "format": ("", "export: further formats of the model, in its export: onnx, int8, stablehlo"),
    "max_loss": (
        0.01,
        "export: int8 is written where the metric is worse by at most so much than that of the float32 graph",
    ),
    "engine": (
        "jax",
        "predict, evaluate, calibrate, serve: what computes: jax; onnx or int8: the graph of that format in the "
        "export, by onnxruntime on the CPU",
    ),
    "host": ("127.0.0.1", "serve, train --metrics_port: address to listen at; 0.0.0.0: all of this machine"),
    "port": (8000, "serve: port to listen at; 0: any that is free"),
    "adapters": ("", "serve: adapters on the model, NAME=PATH,OTHER=PATH; a request names one by `model`"),
    "serve.tokens": (0, "serve: tokens of a batch, about; 0: 1,024 on CPU, 16,384 elsewhere"),
    "serve.body": (1 << 20, "serve: bytes of a request's body"),
    "serve.texts": (256, "serve: texts or rows of a request"),
    "serve.characters": (20_000, "serve: characters of a text; what follows is cut off, which the answer says"),
    "serve.request_tokens": (65_536, "serve: tokens of a request, once its texts are cut"),
    "serve.queue": (1024, "serve: texts that wait or are computed; then a request is answered by 429"),
    "serve.seconds": (30, "serve: seconds that a request may take; then it is answered by 504"),
    "serve.log_texts": (False, "serve: write texts and rows into the log"),
    "overwrite": (False, "train: delete the run that --workdir holds and start anew"),
    "extend": (False, "train: go on with the run that --workdir holds, for more steps, epochs or patience than it had"),
    "profile": (0, "train: write a trace of so many steps into WORKDIR/profile"),
    "metrics_port": (0, "train: port at which Prometheus reads how far it is; 0: none"),
    "topology": ("", "plan: devices to plan for, e.g. v5e:4x4, cpu:8 (simulated), gpu"),
    "evaluate.intervals": (
        0.0,
        "evaluate: confidence intervals of the test split's metrics, or of a file's, at this level, e.g. 0.95; 0: none",
    ),
    "evaluate.groups": (
        "",
        "evaluate: a column of the test split or of the file; each of its values is measured by itself too",
    ),
    "compare": (
        "",
        "evaluate: another run, on the same rows: whether one is better, and, in --output, which answers differ",
    ),
    "calibrate.coverage": (
        0.0,
        "calibrate: answers have sets, or intervals of scores, that hold the truth so often, e.g. 0.9; 0: none",
    ),
    "calibrate.sets": ("", "calibrate: how sets are made: plain or adaptive; empty: plain"),
    "calibrate.distance": (False, "calibrate: answers say how far a text is from the run's training rows"),
    "compress.layers": (0, "compress: keep so many layers; 0: all"),
    "compress.inner": (0, "compress: keep so many units of each feed-forward net; 0: all"),
    "compress.words": ("", "compress: used: keep the words that the run's texts use, or those of --input; empty: all"),
    "runs": (
        "",
        "soup: other runs of the same model and labels, set off by commas; predict, evaluate, serve: other runs or "
        "models of the same task, which answer with --workdir by the mean of what each says",
    ),
    "soup.how": ("greedy", "soup: greedy: of the runs those that validation is not worse with; uniform: of all"),
    "crossfit.folds": (5, "crossfit: parts of the rows, each held out once while a run is trained on the others"),
    "predict.dropout": (
        0,
        "predict: answers are the mean of so many passes with dropout, and say how far these disagree; 0: one without",
    ),
    "pate.teachers": (10, "pate: parts of the private rows, each seen by one teacher alone"),
    "pate.sigma": (2.0, "pate: standard deviation of the noise on the votes for each class"),
    "pate.delta": (1e-5, "pate: the delta that epsilon is said for; well below 1 / private rows"),
    "setfit.pairs": (20, "setfit: of each text with one of its class, and as many with one of another"),
    "setfit.head_epochs": (50.0, "setfit: passes over the rows in which the head alone learns"),
    "setfit.head_rate": (1e-3, "setfit: learning rate of the head"),
    "explain.method": (
        "integrated_gradients",
        "explain: integrated_gradients, gradient_x_input, smoothgrad, occlusion, leave_one_out, lime, shap, "
        "exact_shap, partition_shap, attention_rollout or attcat",
    ),
    "explain.target": (
        "",
        "explain: name of a label, several with commas, or all; of tags also WORD=TAG; of answers start or end; of "
        "language models words; empty: what is predicted",
    ),
    "explain.units": ("words", "explain: what gets a number: words, phrases, sentences or tokens"),
    "explain.baseline": ("", "explain: what stands in a word's place: pad, mask or delete; empty: the method's own"),
    "explain.samples": (0, "explain: steps, draws, samples or pairs of orders; 0: the method's own"),
    "explain.seed": (0, "explain: of what the method draws"),
    "explain.faithfulness": (False, "explain: measure whether the strongest words matter to the model"),
    "explain.agreement": ("", "explain: methods, set off by commas, whose order of the words is compared"),
    "explain.examples": (0, "explain: so many training rows that taught each answer, and as many against it; 0: none"),
    "explain.counterfactuals": (
        "",
        "explain: a masked language model, by whose words the fewest are replaced that change the answer; empty: none",
    ),
    "generate.max_new_tokens": (
        0,
        "predict, evaluate, chat: continue each text by so many tokens at most, as a language model does; 0: they say "
        "how likely a text is, but for chat, where it is 512",
    ),
    "generate.temperature": (0.0, "predict, evaluate, chat: divides scores before a token is drawn; 0: none is drawn"),
    "generate.top_k": (0, "predict, evaluate, chat: draw among so many tokens, the best; 0: all"),
    "generate.top_p": (1.0, "predict, evaluate, chat: draw among the fewest tokens that are so likely together"),
    "generate.min_p": (0.0, "predict, evaluate, chat: draw among tokens so likely, in parts of the likeliest"),
    "generate.repetition_penalty": (1.0, "predict, evaluate, chat: makes tokens of the text less likely; 1: not"),
    "generate.no_repeat_ngram": (0, "predict, evaluate, chat: no run of so many tokens comes twice; 0: any may"),
    "generate.beams": (1, "predict, evaluate, chat: continuations of a text at a time, of which the best counts"),
    "generate.length_penalty": (1.0, "predict, evaluate, chat: beams compare log probability / tokens ** this"),
    "generate.stop": (
        "",
        "predict, evaluate, chat: words that end an answer, set off by commas; \\n is the end of a line",
    ),
    "generate.answers": (1, "predict: so many answers to each text: drawn, or the best of the beams"),
    "generate.seed": (0, "predict, evaluate, chat: of what is drawn"),
    "generate.rows": (8, "predict, evaluate, chat: texts that are continued together"),
    "generate.reference": (
        "",
        "evaluate: column of --input with what a text should be continued with; of conversations it may be empty: what "
        "is said last in each",
    ),
    "generate.metric": (
        "",
        "evaluate: MODULE:FUNCTION of your own, of the texts that are written and those of --generate.reference",
    ),
    "chat.system": ("", "chat: message of the system that the conversation begins with"),
    "attack.methods": (
        "",
        "attack: typo, swap, delete, case, punctuation, neighbours, hotflip, several with commas; empty: all",
    ),
    "attack.words": (3, "attack: words of a text that may be changed"),
    "attack.candidates": (8, "attack: what each method tries for a word, at most"),
    "attack.rows": (200, "attack: rows that are drawn; 0: all"),
    "attack.seed": (0, "attack: of what is drawn"),
    "audit.crossfit": ("", "audit: folder of a crossfit, whose doubtful labels the page has"),
    "audit.canaries": ("", "audit: a file of texts with secrets, whose exposure by a language model the page has"),
    "plan.search": (False, "plan: look for the best mesh, recomputation and accumulation"),
    "plan.exact": (False, "plan: compile for TPU as a run does; takes several times as long"),
}
"""The flags that some modes use, see `MODES`: name -> default and meaning, which begins with these modes."""


def define(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines all flags; which keys there are the experiment tells that `argv` names."""
    flags.DEFINE_enum("mode", "train", list(MODES), "what to do", flag_values=values)
    for name, (default, doc) in {**OF_MODES, **PROCESSES}.items():
        if isinstance(default, bool):
            flags.DEFINE_bool(name, default, doc, flag_values=values)
        elif isinstance(default, int):
            bound = 0 if name in OF_MODES else None
            flags.DEFINE_integer(name, default, doc, lower_bound=bound, flag_values=values)
        elif isinstance(default, float):
            flags.DEFINE_float(name, default, doc, lower_bound=0.0, flag_values=values)
        else:
            flags.DEFINE_string(name, default, doc, flag_values=values)
    flags.DEFINE_bool("debug", False, "show the traceback of an error", flag_values=values)
    flags.DEFINE_bool("help", False, "show this text", short_name="h", flag_values=values)
    config_flags.DEFINE_config_file(
        "config",
        None,
        "train, crossfit, pate, setfit, inspect, plan: experiment file, FILE.py or FILE.py:ARGUMENT, or the name of "
        "one that comes with jaxft, e.g. glue:sst2",
        flag_values=values,
        lock_config=False,
        sys_argv=argv,
    )


MISSING = {
    "config": "give an experiment file, e.g. --config=configs/quickstart.py",
    "input": "give a text, CSV or JSON lines file",
    "output": "give a new folder for the model",
    "runs": "give the folders of other runs, --runs=A,B",
    "workdir": "give the folder of the run",
}
"""Flag -> what to do where a mode needs it."""


def check_used(values: flags.FlagValues) -> None:
    """Makes sure that the mode has the flags that it needs, and that no flag is given which it does not use.

    Raises:
      UserError: it lacks one, or one is given in vain.
    """
    mode = MODES[values.mode]
    for name in OF_MODES:
        flag = values[name]
        if flag.value not in (flag.default, None, "") and name not in mode.flags:
            raise UserError(_in_vain(name, values.mode))
    for name in mode.needs:
        if not values[name].value:
            raise UserError(f"--{name} is missing; {MISSING[name]}")


def _in_vain(name: str, mode: str) -> str:
    """Says that a mode does not use a flag, and which ones do."""
    key = "config" if name.startswith("config.") else name
    users = [other for other, one in MODES.items() if key in one.flags]
    return f"--{name} is not used by --mode={mode}; it is for --mode={', '.join(users)}"


def check_config(argv: list[str]) -> Mapping[str, dataclasses.Field]:
    """Loads the config file once by itself, and looks up each `--config.KEY`, so that mistakes are named plainly.

    Returns:
      The keys that there are.

    Raises:
      UserError: a file or a key that there is not, or a mode that takes its experiment from elsewhere.
    """
    given, others = _split(argv)
    keyed = [match[2] for arg in others if (match := re.match(r"--?(no)?config\.([^=]*)", arg))]
    mode = MODES.get(name := (_split(argv, "mode")[0] or ["train"])[-1])
    if mode and "config" not in mode.flags and (given or keyed):
        flag = "config" if given else f"config.{keyed[0]}"
        raise UserError(f"{_in_vain(flag, name)}; here the experiment is that of the run in --workdir")
    if not given:
        if keyed:
            raise UserError(f"--config.{keyed[0]} without --config; give --config=FILE.py as well")
        return {}
    if len(given) > 1:
        raise UserError(f"--config is given {len(given)} times: {', '.join(given)}; give it once")
    known = {key: field for key, _, field in config.walk(config.load(given[0]))}
    for key in keyed:
        if key not in known:
            group = [name for name in known if name.startswith(f"{key}.")]
            hint = f"it is a group of keys: {', '.join(group)}" if group else nearest(key, known)
            raise UserError(f"--config.{key}: there is no such key; {hint}")
    return known


def in_order(argv: list[str]) -> list[str]:
    """Returns the command line with `--config=FILE` first, as absl needs it to know the keys; names become files."""
    given, others = _split(argv)
    return [argv[0], *(f"--config={files.find(target)}" for target in given), *others]


def _split(argv: list[str], flag: str = "config") -> tuple[list[str], list[str]]:
    """Returns the values of a flag, in the forms that absl reads, and the other arguments."""
    given, others, rest = [], [], iter(argv[1:])
    for arg in rest:
        name, equals, value = arg.lstrip("-").partition("=") if arg.startswith("-") else ("", "", "")
        if name == flag:
            given.append(value if equals else next(rest, ""))
        else:
            others.append(arg)
    return given, others


def wrong_type(error: flags.Error, known: Mapping[str, dataclasses.Field]) -> flags.Error | UserError:
    """Returns, of a key, what its value must be, rather than what the parser says."""
    match = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
    if not match or match[1] not in known:
        return error
    return UserError(f"config.{match[1]} is {match[2]!r}; it must be {config.meaning(known[match[1]])}")


def keys(argv: list[str]) -> str:
    """Returns every key with its default and meaning, for --help: of the experiment that is given, or of all tasks."""
    given = _split(argv)[0]
    experiments = (
        [config.load(given[0])] if given else [config.Experiment(task=task()) for task in config.TASKS.values()]
    )
    width = max(len(key) for experiment in experiments for key in config.keys(experiment)) + 2

    def lines(section: config.Section, prefix: str = "") -> Iterator[str]:
        for key, holder, field in config.walk(section, prefix):
            yield f"  {key:{width}}{field.metadata['doc']} [{getattr(holder, field.name)!r}]"

    found = []
    for line in lines(experiments[0]):
        if line.startswith("  task."):
            continue
        if line.startswith("  data.source "):
            for one in experiments:
                found += ["", f"  task: {type(one.task).__name__}", *lines(one.task, "task.")]
            found.append("")
        found.append(line)
    return "\n".join(found)
