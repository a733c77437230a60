"""Experiment files: Python files whose `get_config()` returns an Experiment."""

import importlib.util
import traceback
from pathlib import Path

from jaxft.config.checks import check_sections
from jaxft.config.experiment import Experiment
from jaxft.errors import UserError, nearest

PACKAGED = Path(__file__).parents[1] / "configs"
"""Those that come with jaxft: in a checkout a link to `configs/`, in an installed package the files themselves."""


def find(target: str) -> str:
    """Returns `FILE.py` or `FILE.py:ARGUMENT` for a target that may be the name of a packaged file instead.

    `quickstart` and `glue:sst2` are such names. A file of that very name in the current directory goes first.
    """
    path, colon, argument = target.partition(":")
    packaged = PACKAGED / f"{path}.py"
    if path and path == Path(path).name and not Path(path).is_file() and packaged.is_file():
        return f"{packaged}{colon}{argument}"
    return target


def load(target: str) -> Experiment:
    """Returns the experiment of `configs/quickstart.py`, `mine.py:ARGUMENT`, or by name `quickstart`, `glue:sst2`.

    Raises:
      UserError: there is no such file, it cannot be run, or what it returns is no experiment.
    """
    path, _, argument = find(target).partition(":")
    if not path:
        raise UserError("--config is empty; give an experiment file, e.g. --config=configs/quickstart.py")
    file = Path(path)
    if not file.is_file():
        beside = [str(f) for f in file.parent.glob("*.py")] if file.parent.is_dir() else []
        named = [f.stem for f in PACKAGED.glob("*.py")] if path == file.name else []
        raise UserError(f"--config: there is no file {path}; {nearest(path, [*named, *beside])}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise UserError(f"--config: {path} is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        experiment = module.get_config(argument) if argument else module.get_config()
    except UserError:
        raise
    except Exception as error:  # a config file is the user's program: whatever it raises is theirs to mend
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == spec.origin]
        where = f", line {lines[-1]}" if lines else ""
        raise UserError(f"{target}{where}: {type(error).__name__}: {error}") from error
    if not isinstance(experiment, Experiment):
        raise UserError(f"{path}: get_config returns a {type(experiment).__name__}; it must return a jaxft Experiment")
    check_sections(experiment)
    return experiment
