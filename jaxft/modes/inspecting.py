"""--mode=inspect: where parameters live."""

from jaxft import config, program, tasks
from jaxft.devices import distributed
from jaxft.errors import UserError
from jaxft.hub import adapters
from jaxft.job import Body
from jaxft.storage.workdir import Workdir


def inspect(experiment: config.Experiment | None, workdir: str | None, draw: str = "") -> None:
    """Prints where each parameter lives and how much a device holds; of the model it reads config.json alone, no data.

    Args:
      experiment: None: that of the run in `workdir`.
      draw: also draws the parameters whose path this pattern matches.

    Raises:
      UserError: neither is given, a mesh or rules that do not fit, or a pattern that matches nothing.
    """
    from jaxft.report import tree

    if experiment is None:
        if not workdir:
            raise UserError("--workdir is missing; give the folder of the run, or an experiment by --config")
        experiment = Workdir(workdir).experiment()
    else:
        experiment = adapters.adopted(config.check(experiment, data=False))
    body = Body.of(experiment.model, experiment.data.max_length)
    task = tasks.build(experiment.task)
    composed = program.compose(experiment, body.model, task, steps=10**9)
    drawn = tree.wanted(composed, draw) if draw else []
    if distributed.primary():
        print(tree.text(composed))
        if "labels" in config.keys(experiment.task) and not task.options.labels:
            print("\nThe head is shown for one label: how many there are config.task.labels says, or the data.")
        tree.draw(drawn)
