"""The labelled rows that a finished model is measured on: a file, or the run's own validation split."""

from jaxft import config
from jaxft.data import sources, splits
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.storage import paths
from jaxft.tables import Table


def of_file(inputs: str, experiment: config.Experiment, table: Table) -> Split:
    """Returns the rows of a file, as the table reads them.

    Raises:
      UserError: there is no such file, or a row or a label of it cannot be used.
    """
    file = str(paths.file_of("--input", inputs))
    split = table.read(sources.read_input(file, experiment.data)._replace(key=sources.INPUT))
    table.check_labels(split)
    return split


def of_run(experiment: config.Experiment, table: Table) -> dict[str, Split]:
    """Returns the splits of a run's own data, as it had them, by name.

    Raises:
      UserError: the data are not there any more, or cannot be used.
    """
    raw = {name: table.read(split) for name, split in sources.read(experiment.data).items()}
    heed = splits.carving(experiment.task)
    return splits.prepare(raw, experiment.data, experiment.seed, table.inputs, heed)[0]


def of_model(path: str, is_run: bool, inputs: str, experiment: config.Experiment, table: Table) -> Split:
    """Returns what a model is measured on: the rows of a file, or else the run's validation split.

    Args:
      path: the run, or the directory.
      inputs: the file; empty: there is none.

    Raises:
      UserError: there is neither, or it cannot be used.
    """
    if inputs:
        return of_file(inputs, experiment, table)
    if not is_run:
        raise UserError(f"--input is missing: {path} is no run, whose data could be used; give a labelled file")
    return validation(path, of_run(experiment, table))


def validation(path: str, made: dict[str, Split]) -> Split:
    """Returns the validation split of those of a run.

    Raises:
      UserError: it has none.
    """
    if "validation" not in made:
        raise UserError(f"{path} has no validation split to choose by; give a labelled file by --input")
    return made["validation"]
