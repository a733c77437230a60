"""The command line: absl flags in, an exit code out."""

import re
import sys

from absl import flags

from jaxft.cli import arguments
from jaxft.cli.ending import EXIT_FAILED, EXIT_PREEMPTED, EXIT_USER, explain, leave, leave_on_sigterm
from jaxft.cli.modes import MODES
from jaxft.errors import UserError

__all__ = ["EXIT_FAILED", "EXIT_PREEMPTED", "EXIT_USER", "leave", "main"]


def main(argv: list[str], usage: str | None) -> int:
    """Runs one command line; prints one line and returns 2 where the user made a mistake."""
    argv = arguments.in_order(argv)
    values = flags.FlagValues()
    arguments.define(values, argv)
    debug = any(re.fullmatch(r"--?debug(=(true|t|1))?", arg.lower()) for arg in argv)
    hook = sys.unraisablehook
    try:
        if not debug:
            sys.unraisablehook = lambda _: None  # on a full disk TensorStore's threads print what orbax raises
        with leave_on_sigterm():
            return _run(argv, usage or "", values)
    except Exception as error:
        if debug:
            raise
        code, line = explain(error)
        if not line:
            raise
        print(f"error: {line}", file=sys.stderr)
        return code
    finally:
        sys.unraisablehook = hook


def _run(argv: list[str], usage: str, values: flags.FlagValues) -> int:
    if any(arg in ("--help", "-h", "--helpfull", "-help") for arg in argv):
        print(f"{usage}\n{arguments.keys(argv)}\n\nflags:\n{values.main_module_help() or values.get_help()}")
        return 0
    known = arguments.check_config(argv)
    try:
        rest = values(argv)[1:]
    except flags.IllegalFlagValueError as error:
        raise arguments.wrong_type(error, known) from error
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}; write --flag=value")
    arguments.check_used(values)
    return MODES[values.mode].run(values)
