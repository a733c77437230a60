"""The command line: absl flags in, an exit code out."""

import dataclasses
import errno
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from absl import flags, logging
from ml_collections import config_flags
from ml_collections.config_flags import tuple_parser

from jaxft import config
from jaxft.config import files
from jaxft.errors import TrainingError, UserError, causes, nearest, system_error

STARTED = time.time()
"""When the command line began: it imports this file, and nothing else does."""

EXIT_USER, EXIT_FAILED, EXIT_PREEMPTED = 2, 1, 75
"""A mistake that the user can mend; a run that cannot go on; SIGTERM, after which the same command resumes."""

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

BROKEN = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would become larger than is allowed here",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk cannot be read or written",
    errno.ENOTDIR: "a file where a folder must be",
    errno.ENOENT: "gone while the run was using it",
}
"""What the file system can do to a run, in words."""

UNFINISHED = ".orbax-checkpoint-tmp"
"""In the names of what orbax has not finished writing."""

OUT_OF_MEMORY = (
    "the device has too little memory for this run; lower config.train.batch_size or config.data.max_length, raise "
    "config.train.accumulate, set config.compute.remat=true or config.compute.dtype=bfloat16, or split parameters over "
    "devices by config.mesh.fsdp (--mode=plan tells what is needed)"
)


class _Texts(tuple_parser.TupleParser):
    """Reads `a,b` as well as `('a', 'b')`."""

    def parse(self, argument: Any) -> tuple:
        if isinstance(argument, str) and not argument.lstrip().startswith(("(", "[", "'", '"')):
            return tuple(filter(None, map(str.strip, argument.split(","))))
        return super().parse(argument)


config_flags.register_flag_parser_for_type(tuple[str, ...], _Texts())


def main(argv: list[str], usage: str | None) -> int:
    """Runs one command line; prints one line and returns 2 where the user made a mistake."""
    argv = _in_order(argv)
    values = flags.FlagValues()
    _define(values, argv)
    debug = any(re.fullmatch(r"--?debug(=(true|t|1))?", arg.lower()) for arg in argv)
    hook = sys.unraisablehook
    try:
        if not debug:
            sys.unraisablehook = lambda _: None  # on a full disk TensorStore's threads print what orbax raises
        with _leave_on_sigterm():
            return _run(argv, usage or "", values)
    except Exception as error:
        if debug:
            raise
        code, line = _explain(error)
        if not line:
            raise
        print(f"error: {line}", file=sys.stderr)
        return code
    finally:
        sys.unraisablehook = hook


def leave(code: int) -> None:
    """Ends the process; after a failure even where threads do not end, as orbax's when its folder is gone."""
    if code in (EXIT_USER, EXIT_FAILED):
        sys.stdout.flush()
        sys.unraisablehook = threading.excepthook = lambda _: None  # the line has been said; these would add pages
        end = threading.Timer(10, os._exit, [code])
        end.daemon = True
        end.start()
    sys.exit(code)


def _define(values: flags.FlagValues, argv: list[str]) -> None:
    flags.DEFINE_enum("mode", "train", list(MODES), "what to do", flag_values=values)
    flags.DEFINE_string(
        "workdir",
        None,
        "folder of the run: written by train, read by the others; predict: or of any model",
        flag_values=values,
    )
    flags.DEFINE_string(
        "input",
        None,
        "predict: a text, CSV or JSON lines file; evaluate: a labelled file, instead of the run's own splits",
        flag_values=values,
    )
    flags.DEFINE_string("output", "", "predict: JSON lines file to write; empty: standard output", flag_values=values)
    flags.DEFINE_string("draw", "", "inspect: draw the parameters whose path this pattern matches", flag_values=values)
    flags.DEFINE_string(
        "adapter", "", "predict: folder of an adapter, of this run, of another or from peft, to use", flag_values=values
    )
    flags.DEFINE_bool(
        "overwrite", False, "train: delete the run that --workdir holds and start anew", flag_values=values
    )
    flags.DEFINE_integer(
        "profile", 0, "train: write a trace of so many steps into WORKDIR/profile", lower_bound=0, flag_values=values
    )
    flags.DEFINE_string(
        "topology", "", "plan: devices to plan for, e.g. v5e:4x4, cpu:8 (simulated), gpu", flag_values=values
    )
    flags.DEFINE_bool(
        "plan.search", False, "plan: look for the best mesh, recomputation and accumulation", flag_values=values
    )
    flags.DEFINE_bool(
        "plan.exact", False, "plan: compile for TPU as a run does; takes several times as long", flag_values=values
    )
    for name, (default, doc) in PROCESSES.items():
        define = flags.DEFINE_string if isinstance(default, str) else flags.DEFINE_integer
        define(name, default, doc, flag_values=values)
    flags.DEFINE_bool("debug", False, "show the traceback of an error", flag_values=values)
    flags.DEFINE_bool("help", False, "show this text", short_name="h", flag_values=values)
    config_flags.DEFINE_config_file(
        "config",
        None,
        "experiment file, FILE.py or FILE.py:ARGUMENT, or the name of one that comes with jaxft, e.g. glue:sst2",
        flag_values=values,
        lock_config=False,
        sys_argv=argv,
    )


def _run(argv: list[str], usage: str, values: flags.FlagValues) -> int:
    if any(arg in ("--help", "-h", "--helpfull", "-help") for arg in argv):
        print(f"{usage}\n{_keys(argv)}\n\nflags:\n{values.main_module_help() or values.get_help()}")
        return 0
    known = _check_config(argv)
    try:
        rest = values(argv)[1:]
    except flags.IllegalFlagValueError as error:
        raise _wrong_type(error, known) from error
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}; write --flag=value")
    mode = MODES[values.mode]
    for name in mode.needs:
        if not values[name].value:
            raise UserError(f"--{name} is missing; {MISSING[name]}")
    return mode.run(values)


@contextmanager
def _leave_on_sigterm() -> Iterator[None]:
    """Outside the training loop, which answers SIGTERM itself: leave at once with the code for "start again".

    Nothing has to be saved there, and what is on disk is whole. Threads that compile are not waited for.
    """

    def leave(number: int, frame: object) -> None:
        os.write(2, b"stopped by SIGTERM; start the same command again\n")
        os._exit(EXIT_PREEMPTED)

    if threading.current_thread() is not threading.main_thread():  # no other one may set signal handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


MISSING = {
    "config": "give an experiment file, e.g. --config=configs/quickstart.py",
    "input": "give a text, CSV or JSON lines file",
    "workdir": "give the folder of the run",
}
"""Flag -> what to do where a mode needs it."""


class Mode(NamedTuple):
    """What `--mode=NAME` does.

    Attributes:
      run: does it, and returns the exit code.
      needs: the flags that it cannot do without, those of `MISSING`.
    """

    run: Callable[[flags.FlagValues], int]
    needs: tuple[str, ...]


def _together(run: Callable[[Any, flags.FlagValues], object]) -> Callable[[flags.FlagValues], int]:
    """Returns what calls `run(jaxft.modes, values)` in each of the processes of a run, once they have met."""

    def started(values: flags.FlagValues) -> int:
        from jaxft.devices import distributed  # jax and all that follows: not needed for --help or a misspelt flag

        distributed.initialize(
            values.coordinator,
            values.processes,
            values.process,
            start_timeout=values.start_timeout,
            heartbeat_timeout=values.heartbeat_timeout,
            preemptible=values.mode == "train",
        )
        logging.use_absl_handler()
        logging.set_verbosity(logging.FATAL)  # what orbax logs as an error, with pages of traceback, it raises as well
        from jaxft import modes
        from jaxft.devices.distributed import say
        from jaxft.train.loop import Preempted

        try:
            run(modes, values)
        except Preempted as stopped:
            say(str(stopped))
            return EXIT_PREEMPTED
        except Exception as error:
            if values.debug or not distributed.lost(error):
                raise
            print(f"error: {distributed.PEER_LOST} ({str(error).splitlines()[0][:200]})", file=sys.stderr)
            distributed.leave(EXIT_FAILED)
            return EXIT_FAILED
        return 0

    return started


def _plan(values: flags.FlagValues) -> int:
    """Alone, whatever processes a run would have: the devices that it plans for are not here."""
    if "://" in (values.workdir or ""):
        raise UserError(f"--workdir {values.workdir}: a plan is written to a folder of this machine; give one")
    from jaxft.plan import topology

    topology.start(values.topology)
    from jaxft.plan import mode

    how = {name: bool(values[f"plan.{name}"].value) for name in ("exact", "search")}
    mode.plan(values.config, values.topology, values.workdir or "", **how)
    return 0


MODES = {
    "train": Mode(
        _together(
            lambda modes, given: modes.train(
                given.config, given.workdir, overwrite=given.overwrite, profile=given.profile, started=STARTED
            )
        ),
        needs=("workdir", "config"),
    ),
    "evaluate": Mode(
        _together(lambda modes, given: modes.evaluate(given.workdir, inputs=given.input or "")), needs=("workdir",)
    ),
    "predict": Mode(
        _together(lambda modes, given: modes.predict(given.workdir, given.input, given.output, given.adapter)),
        needs=("workdir", "input"),
    ),
    "export": Mode(_together(lambda modes, given: modes.export(given.workdir)), needs=("workdir",)),
    "inspect": Mode(_together(lambda modes, given: modes.inspect(given.config, given.workdir, given.draw)), needs=()),
    "plan": Mode(_plan, needs=("config",)),
}


def _check_config(argv: list[str]) -> Mapping[str, dataclasses.Field]:
    """Loads the config file once by itself, and looks up each `--config.KEY`, so that mistakes are named plainly.

    Returns:
      The keys that there are.
    """
    given, others = _split(argv)
    keyed = [match[2] for arg in others if (match := re.match(r"--?(no)?config\.([^=]*)", arg))]
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


def _in_order(argv: list[str]) -> list[str]:
    """Returns the command line with `--config=FILE` first, as absl needs it to know the keys; names become files."""
    given, others = _split(argv)
    return [argv[0], *(f"--config={files.find(target)}" for target in given), *others]


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Returns the values of `--config`, in the forms that absl reads, and the other arguments."""
    given, others, rest = [], [], iter(argv[1:])
    for arg in rest:
        name, equals, value = arg.lstrip("-").partition("=") if arg.startswith("-") else ("", "", "")
        if name == "config":
            given.append(value if equals else next(rest, ""))
        else:
            others.append(arg)
    return given, others


def _wrong_type(error: flags.Error, known: Mapping[str, dataclasses.Field]) -> flags.Error | UserError:
    """Of a key: what its value must be, rather than what the parser says."""
    match = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
    if not match or match[1] not in known:
        return error
    return UserError(f"config.{match[1]} is {match[2]!r}; it must be {config.meaning(known[match[1]])}")


def _keys(argv: list[str]) -> str:
    """Every key with its default and meaning, for --help: of the experiment that is given, or of all tasks."""
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


def _explain(error: BaseException) -> tuple[int, str]:
    """The exit code and the line for an error; no line where it is a defect of ours."""
    if isinstance(error, TrainingError):
        return EXIT_FAILED, str(error)
    if isinstance(error, UserError | flags.Error):
        return EXIT_USER, " ".join(str(error).split())
    number, file = system_error(error)
    file = "" if UNFINISHED in file else file  # it is gone by now
    if number in BROKEN:
        return EXIT_USER, f"{file or '--workdir'}: {BROKEN[number]}; what is on disk is whole: mend and resume"
    if any("RESOURCE_EXHAUSTED" in str(cause) for cause in causes(error)):  # of a full disk it is said, too
        return EXIT_USER, OUT_OF_MEMORY
    return EXIT_FAILED, ""
