"""What each transform of docs/objectives.md does to a run: accuracy on tweets that no run saw, beside the plain run.

  pip install -e '.[bench]'
  python benchmarks/objectives.py --out=objectives.jsonl --folder=/tmp/objectives
  python benchmarks/objectives.py --out=objectives.jsonl --folder=/tmp/objectives --only="plain;r_drop" --groups=0

The quickstart's model and tweets, cut at 32 tokens, `TRAINED` of them with labels. A group
is other tweets and another head; all its runs begin with that head (a soup wants it) and are tested on the same tweets.
"plain" is five runs of a group, with other orders of the data and other dropout. What a row costs is in plain runs:
steps x passes forward and backward; "twice" and "four times as long" are the plain run at the costs of others. Every
run is its last step; validation chooses layers and greedy soups alone.

A run adds its line to the file and is not made again where the file holds it: the command goes on where it was cut off.
At the end comes a table: means over the groups, and the standard deviation of the groups' means.
"""

import argparse
import json
import shutil
import statistics
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from jaxft import config, modes, objectives
from jaxft.attack.options import Options as Attack
from jaxft.config import files
from jaxft.data import sources
from jaxft.data.order import permutation
from jaxft.modes.pairing import Options as Pairs
from jaxft.predict.predictor import Predictor

TRAINED, VALIDATED, TESTED, UNLABELLED = 480, 300, 1_000, 1_920
BATCH, LENGTH = 24, 32
STEPS = 2 * TRAINED // BATCH
RATE = 2e-4  # so few steps learn little at the quickstart's
MEMBERS, LAYERS = 5, 3
A_CLASS, FEW_STEPS, SOME = 8, 80, 200
SURE = 0.8
ATTACK = Attack(words=2, candidates=3, rows=100)


class Group(NamedTuple):
    """Tweets, and the runs on them."""

    number: int
    folder: Path

    def split(self, name: str, part: str = "all") -> Path:
        return self.folder / part / f"{name}.jsonl"

    def run(self, row: str, member: int = 0) -> Path:
        return self.folder / "runs" / (f"{row} {member}" if member else row)


Made = Callable[[Group, str, int], list[Path]]
"""`(group, row, member) -> models` that answer together, made where they are not there yet."""


def experiment(group: Group, row: str, member: int = 0) -> config.Experiment:
    """The experiment of a run of a row."""
    e, of = config.load(files.find("quickstart")), ROWS[row]
    e.name, e.seed = row, 10 * group.number + member
    e.task = config.SequenceClassification()
    e.data = config.Data(source=str(group.split("train", of.part)), validation_fraction=0.0, max_length=LENGTH)
    e.data.packing, e.data.shapes = "off", 1  # so that all groups share a compiled step
    e.train = config.Train(batch_size=BATCH, steps=of.steps)
    e.optimizer.learning_rate = RATE
    if of.start:
        e.model.path = str(group.folder / of.start)
    for key, value in of.keys.items():
        section, name = key.split(".")
        setattr(getattr(e, section), name, value(group) if callable(value) else value)
    return e


def trained(group: Group, row: str, member: int) -> list[Path]:
    """A run's export; what it could go on from is not kept."""
    start = group.folder / "start"
    if ROWS[row].start and not start.exists():
        start.symlink_to(trained(group, "start", 0)[0])
    run = group.run(row, member)
    modes.train(experiment(group, row, member), run)
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return [run / "export"]


def smaller(group: Group, row: str, member: int) -> list[Path]:
    """A run that begins with those layers of the plain run that validation misses most."""
    start = group.folder / "three"
    if not start.exists():
        modes.compress(*map(str, (*teacher(group), start)), layers=LAYERS, inputs=str(group.split("validation")))
    return trained(group, row, member)


def paired(group: Group, row: str, member: int) -> list[Path]:
    """The classifier that --mode=setfit makes."""
    run = group.run(row)
    modes.setfit(experiment(group, row), str(run), Pairs())
    return [run / "head" / "export"]


def pseudo(group: Group, row: str, member: int) -> list[Path]:
    """A run on the 200 tweets with labels and those without, labelled by the run on the 200 where it is sure."""
    file = group.split("train", ROWS[row].part)
    if not file.exists():
        texts = [json.loads(line)["text"] for line in group.split("unlabelled").read_text().splitlines()]
        answers = Predictor.open(group.run("200 labels") / "export")(texts)
        sure = [
            {"text": text, "label": one["prediction"]} for text, one in zip(texts, answers, strict=True) if sure_of(one)
        ]
        labelled = [json.loads(line) for line in group.split("train", "some").read_text().splitlines()]
        write(file, [*labelled, *sure])
    return trained(group, row, member)


def sure_of(answer: Mapping[str, Any]) -> bool:
    return max(answer["probabilities"].values()) >= SURE


def unlabelled(group: Group) -> str:
    return str(group.split("unlabelled"))


def plain_runs(group: Group, row: str, member: int) -> list[Path]:
    return [group.run("plain", one) / "export" for one in range(MEMBERS)]


def souped(how: str) -> Made:
    """What makes the mean of the plain runs."""

    def made(group: Group, row: str, member: int) -> list[Path]:
        run = group.run(row)
        if not run.exists():
            first, *others = map(str, plain_runs(group, row, member))
            modes.soup(first, others, str(run), how=how, inputs=str(group.split("validation")))
        return [run]

    return made


def teacher(group: Group) -> tuple[str, ...]:
    return (str(group.run("plain") / "export"),)


def better_teacher(group: Group) -> tuple[str, ...]:
    return (str(group.run("plain, twice as long") / "export"),)


class Row(NamedTuple):
    """A row of the table: how it is made.

    Attributes:
      keys: of its experiment, beside the plain one's; of a function what it returns of the group.
      part: of the tweets: all, some (200 with labels) or few (8 of a class).
      start: the model that its runs begin with.
      cost: of what is made of other runs, in plain runs.
      attacked: whether --mode=attack is tried on the first of its runs.
    """

    keys: Mapping[str, Any] = {}
    steps: int = STEPS
    part: str = "all"
    start: str = "start"
    members: int = 1
    made: Made = trained
    cost: float = 0.0
    attacked: bool = False


THREE: dict[str, Any] = {"start": "three", "made": smaller, "steps": 2 * STEPS, "cost": 1.0}
TAUGHT: dict[str, Any] = {"objective.teacher": teacher, "objective.distill": 0.9}

UDA = {"data.unlabelled": unlabelled, "data.unlabelled_share": 0.5, "objective.uda": 1.0}

ROWS: dict[str, Row] = {
    "plain": Row(members=MEMBERS, attacked=True),
    "plain, twice as long": Row(steps=2 * STEPS),
    "plain, four times as long": Row(steps=4 * STEPS),
    "plain, eight times as long": Row(steps=8 * STEPS, attacked=True),
    "ema": Row({"optimizer.ema": 0.9}),
    "r_drop": Row({"objective.r_drop": 1.0}),
    "freelb": Row({"objective.adversarial": "freelb"}, attacked=True),
    "fgm": Row({"objective.adversarial": "fgm"}, attacked=True),
    "fgm, radius 0.3": Row({"objective.adversarial": "fgm", "objective.adversarial_radius": 0.3}, attacked=True),
    "fgm, radius 0.1": Row({"objective.adversarial": "fgm", "objective.adversarial_radius": 0.1}, attacked=True),
    "fgm, radius 0.5, eight times as long": Row(
        {"objective.adversarial": "fgm", "objective.adversarial_radius": 0.5}, steps=8 * STEPS, attacked=True
    ),
    "soup of five, greedy": Row(made=souped("greedy"), cost=MEMBERS),
    "soup of five, uniform": Row(made=souped("uniform"), cost=MEMBERS),
    "ensemble of five": Row(made=plain_runs, cost=MEMBERS),
    "8 a class": Row(part="few", steps=FEW_STEPS),
    "8 a class, setfit": Row({"train.epochs": 1.0}, part="few", steps=0, made=paired, cost=2.0),
    "200 labels": Row(part="some", steps=2 * STEPS),
    "200 labels, pseudo-labels": Row(part="pseudo", steps=2 * STEPS, made=pseudo),
    "200 labels, uda": Row(UDA, part="some", steps=2 * STEPS, cost=3.0),
    "three layers": Row(**THREE),
    "three layers, distilled": Row(TAUGHT, **THREE),
    "three layers, distilled, better teacher": Row(TAUGHT | {"objective.teacher": better_teacher}, **THREE),
    "three layers, distilled, unlabelled": Row(TAUGHT | {"data.unlabelled": unlabelled}, **THREE),
    "three layers, distilled, relations": Row(TAUGHT | {"objective.relations": 1.0}, **THREE),
    "start": Row({"optimizer.learning_rate": 0.0}, steps=1, start="", members=0),
}
"""The last, which is in no table, gives all others their head."""


def prepared(number: int, folder: Path) -> Group:
    """The group, whose tweets are written where they are not there yet."""
    group = Group(number, folder / f"group {number}")
    if group.folder.exists():
        return group
    table = sources.read(config.load(files.find("quickstart")).data)["train"].table
    pairs = zip(*(table.column(name).to_pylist() for name in ("text", "sentiment")), strict=True)
    rows = [{"text": text, "label": label} for text, label in dict(pairs).items() if text]
    left = iter([rows[at] for at in permutation(len(rows), number, 0)])
    test, validation, train, rest = (list(islice(left, n)) for n in (TESTED, VALIDATED, TRAINED, UNLABELLED))
    classes = ([row for row in train if row["label"] == name] for name in sorted({row["label"] for row in train}))
    few = [row for of in classes for row in of[:A_CLASS]]
    for part, labelled in (("all", train), ("some", train[:SOME]), ("few", few)):
        write(group.split("train", part), labelled)
    write(group.split("test"), test)
    write(group.split("validation"), validation)
    write(group.split("unlabelled"), [{"text": row["text"]} for row in rest])
    return group


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def line_of(group: Group, row: str, member: int) -> dict[str, Any]:
    """Makes a run of a row, or finds it finished, and returns its line."""
    of = ROWS[row]
    model, *others = of.made(group, row, member)
    predictor = Predictor.open(model, runs=others)
    found = predictor.evaluate(sources.read_input(str(group.split("test")), predictor.experiment.data))
    line = {"row": row, "group": group.number, "member": member}
    line |= {name: found.metrics[name] for name in ("accuracy", "loss", "f1_macro", "ece")}
    if of.attacked and not member:
        attacked = modes.attack(str(model), str(group.split("test")), str(group.folder / f"{row}.html"), ATTACK)
        line["success"] = attacked["success"]
    return line


def cost(row: str) -> float:
    """Of a row, in plain runs; of what has no run of its own that of all runs behind it."""
    of = ROWS[row]
    return of.cost or of.steps * objectives.passes(experiment(Group(0, Path()), row)) / STEPS


def table(lines: list[dict[str, Any]]) -> str:
    """The means over the groups, and their spread."""
    names = ("accuracy", "loss", "ece", "success")
    found = [f"{'':44}{'cost':>6}" + "".join(f"{name:>18}" for name in names) + f"{'runs':>6}"]
    for row in ROWS:
        groups: dict[int, list[dict[str, Any]]] = {}
        for line in lines:
            if line["row"] == row:
                groups.setdefault(line["group"], []).append(line)
        if not groups:
            continue
        cells = []
        for name in names:
            each = [[line[name] for line in of if name in line] for of in groups.values()]
            means = [statistics.mean(values) for values in each if values]
            spread = f"({statistics.stdev(means):.4f})" if len(means) > 1 else ""
            cells.append(f"{statistics.mean(means):>9.4f} {spread:>8}" if means else f"{'':18}")
        found.append(f"{row:44}{cost(row):>6.2f}{''.join(cells)}{sum(map(len, groups.values())):>6}")
    return "\n".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a line a run, JSON")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/objectives"), help="of the tweets and the runs")
    parser.add_argument("--groups", default="0,1,2")
    parser.add_argument("--only", default="", help="rows, set off by semicolons; empty: all")
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    known = {(line["row"], line["group"], line["member"]) for line in lines}
    for group in (prepared(int(number), options.folder) for number in options.groups.split(",")):
        for row, of in ROWS.items():
            if options.only and row not in options.only.split(";"):
                continue
            for member in range(of.members):
                if (row, group.number, member) in known:
                    continue
                lines.append(line_of(group, row, member))
                with options.out.open("a") as out:
                    out.write(json.dumps(lines[-1]) + "\n")
    print(table(lines))


if __name__ == "__main__":
    main()
