"""What a user gets wrong when answers are to say how sure they are."""

import json

from mistakes import Room, Rows, Setup


def calibrate(*values: str, source: str = "") -> Setup:
    """The finished run, or its export (`source`), calibrated."""
    return lambda room: ["--mode=calibrate", f"--workdir={room.run / source if source else room.run}", *values]


def without_export(room: Room) -> list[str]:
    run = room.path / "adapted"
    run.mkdir()
    (run / "config.json").write_bytes((room.run / "config.json").read_bytes())
    return ["--mode=calibrate", f"--workdir={run}"]


def of_words(room: Room) -> list[str]:
    """A model that tags words."""
    directory = room.copy(room.run / "export", "words")
    values = json.loads((directory / "config.json").read_text())
    values["architectures"] = ["BertForTokenClassification"]
    (directory / "config.json").write_text(json.dumps(values))
    return ["--mode=calibrate", f"--workdir={directory}"]


SURE: Rows = {
    "nothing to calibrate": (calibrate("--workdir=/nowhere"), ["/nowhere holds no run", "--workdir"]),
    "no weights to keep a calibration beside": (without_export, ["adapted has no export/, beside whose weights"]),
    "a model from elsewhere to calibrate": (
        calibrate("--workdir=google-bert/bert-base-cased"),
        ["--workdir google-bert/bert-base-cased is no folder of this machine; give that of a run"],
    ),
    "a task without probabilities of a text": (
        of_words,
        ["the model's task is TokenClassification; what can be calibrated is SequenceClassification: a class, labels"],
    ),
    "no rows to calibrate on": (calibrate(source="export"), ["--input is missing: ", "export is no run"]),
    "sets that always hold the truth": (
        calibrate("--calibrate.coverage=1"),
        ["--calibrate.coverage is 1; it must be below 1, e.g. 0.9"],
    ),
    "an engine of no kind": (
        calibrate("--engine=int9"),
        ["--engine int9: there is no such engine; did you mean 'int8'?"],
    ),
    "sets of no kind": (
        calibrate("--calibrate.coverage=0.9", "--calibrate.sets=plian"),
        ["--calibrate.sets 'plian': there are no such sets; did you mean 'plain'?"],
    ),
    "intervals that hold everything": (
        lambda room: ["--mode=evaluate", f"--workdir={room.run}", "--evaluate.intervals=1.5"],
        ["--evaluate.intervals is 1.5; it must be below 1, e.g. 0.95"],
    ),
    "groups by no column": (
        lambda room: ["--mode=evaluate", f"--workdir={room.run}", "--evaluate.groups=sentimant"],
        ["--evaluate.groups: ", "has no column 'sentimant'; did you mean 'sentiment'?"],
    ),
    "a comparison with no run": (
        lambda room: ["--mode=evaluate", f"--workdir={room.run}", "--compare=/nowhere"],
        ["/nowhere holds no run"],
    ),
    "a page of no comparison": (
        lambda room: ["--mode=evaluate", f"--workdir={room.run}", "--output=a.html"],
        ["--output is for what --compare finds; give another run by --compare, or leave it out"],
    ),
    "an audit that is no page": (
        lambda room: ["--mode=audit", f"--workdir={room.run}", "--output=a.csv"],
        ["--output a.csv: a page is FILE.html, numbers are FILE.json; choose one of the two"],
    ),
    "an audit of rows that are not there": (
        lambda room: ["--mode=audit", f"--workdir={room.run / 'export'}", "--output=a.html"],
        ["--input is missing: ", "export is no run, whose data could be used; give a labelled file"],
    ),
    "doubts of no crossfit": (
        lambda room: ["--mode=audit", f"--workdir={room.run}", f"--audit.crossfit={room.path}"],
        ["--audit.crossfit: ", "holds no finished --mode=crossfit; give the --workdir of one"],
    ),
    "a flag of calibrate in predict": (
        lambda room: ["--mode=predict", f"--workdir={room.run}", "--input=a.txt", "--calibrate.coverage=0.9"],
        ["--calibrate.coverage is not used by --mode=predict; it is for --mode=calibrate"],
    ),
}
