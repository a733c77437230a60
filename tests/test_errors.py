"""What a user gets wrong is told in one line (what, where, what to do), exits with code 2 and changes nothing."""

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from mistakes import (
    CONFIGS,
    DATA,
    MODELS,
    Room,
    Rows,
    csv,
    data,
    flags,
    on_run,
    predict,
    torn,
    without_checkpoints,
)
from mistakes_command_line import COMMAND_LINE, CONFIG_FILES
from mistakes_compress import COMPRESS
from mistakes_generate import WRITTEN
from mistakes_methods import METHODS
from mistakes_spans import ANSWERS, CHOICES, TAGS
from mistakes_sure import SURE
from mistakes_texts import TEXTS
from runs import ROOT, command, lines

from jaxft import cli, config
from jaxft.cli import ending
from jaxft.errors import UserError
from jaxft.storage.workdir import Workdir


@pytest.fixture
def room(tmp_path, tiny_model, cache, finished):
    return Room(tmp_path, tiny_model, cache, finished)


RUNS: Rows = {
    "a mesh of other devices": (
        flags("--config.mesh.data=3"),
        ["config.mesh is data 3 x fsdp 1 x tensor 1", "does not make 1, the number of devices"],
    ),
    "a mesh with two unknowns": (flags("--config.mesh.fsdp=-1"), ["config.mesh is", "at most one is -1"]),
    "a mesh with a zero": (flags("--config.mesh.tensor=0"), ["config.mesh is", "tensor 0", "sizes are 1 or more"]),
    "a rule for no mesh axis": (
        flags("--config.mesh.rules=mlp=tenser"),
        ["config.mesh.rules: 'mlp=tenser': no mesh axis 'tenser'", "did you mean 'tensor'?"],
    ),
    "a rule that names an axis twice": (
        flags("--config.mesh.rules=embed=none,.*/kernel=fsdp|fsdp"),
        ["'.*/kernel=fsdp|fsdp' names fsdp twice"],
    ),
    "rules that split a parameter twice over one axis": (
        flags("--config.mesh.rules=mlp=fsdp"),
        ["intermediate/dense/kernel [32, 64]: embed and mlp are both split over fsdp", "add mlp=none"],
    ),
    "a rule for a logical axis that there is not": (
        flags("--config.mesh.rules=mpl=tensor"),
        ["'mpl' is no logical axis (rows, vocab, heads, kv_heads, mlp, embed)", "no parameter", "did you mean 'mlp'?"],
    ),
    "a rule for a parameter that there is not": (
        flags("--config.mesh.rules=bert/encoder/layers/.*/attention/self/query/kernel=none"),
        ["no parameter; did you mean 'bert/encoder/layer/.*/attention/self/query/kernel'?"],
    ),
    "a rule for more dimensions than there are": (
        flags("--config.mesh.rules=.*/embeddings/.*=fsdp|none"),
        ["bert/embeddings/LayerNorm/scale [32] has 1 dimensions, but '.*/embeddings/.*' splits 2"],
    ),
    "a rule of two dimensions for a logical axis": (
        flags("--config.mesh.rules=mlp=fsdp|tensor"),
        ["'mlp=fsdp|tensor': mlp is one dimension", "write mlp=fsdp+tensor"],
    ),
    "half a rule": (flags("--config.mesh.rules=mlp"), ["'mlp' is no rule; write AXIS=MESH_AXES or PATTERN="]),
    "a rule that is no pattern": (flags("--config.mesh.rules=(a=none"), ["(a is no regular expression"]),
    "nothing to draw": (
        lambda room: ["--mode=inspect", f"--workdir={room.run}", "--draw=bert/poler/.*"],
        ["--draw: 'bert/poler/.*' is the whole path of no parameter; did you mean 'bert/pooler/dense/"],
    ),
    "a drawing of no pattern": (on_run("inspect", "--draw=["), ["--draw: '[' is no regular expression"]),
    "a batch that cannot be split": (
        flags("--config.data.packing=off", "--config.train.accumulate=3"),
        ["config.train.batch_size is 8", "a multiple of 3", "accumulate 3"],
    ),
    "no such metric": (
        flags("--config.train.metric=acuracy"),
        ["config.train.metric is 'acuracy'", "did you mean 'accuracy'?"],
    ),
    "a metric of two classes for three": (
        data("a.csv", csv(*(f"number {i},{'abc'[i % 3]}" for i in range(30))), "--config.train.metric=f1"),
        ["config.train.metric is 'f1'", "f1_macro, f1_micro, loss"],
    ),
    "a workdir in an unknown store": (
        flags("--workdir=ftp://bucket/run"),
        ["--workdir ftp://bucket/run: ftp:// is not known", "give a folder, gs://BUCKET/PATH or s3://"],
    ),
    "a plan in a bucket": (
        lambda room: ["--mode=plan", f"--config={CONFIGS}/quickstart.py", "--workdir=gs://bucket/plan"],
        ["--workdir gs://bucket/plan: a plan is written to a folder of this machine"],
    ),
    "a workdir below a file": (
        lambda room: room.train(f"--workdir={room.write('file', 'x')}/run"),
        ["--workdir", "file/run: Not a directory", "choose a folder that can be written"],
    ),
    "a workdir that is a file": (
        lambda room: room.train(f"--workdir={room.write('file', 'x')}"),
        ["--workdir", "/file: File exists"],
    ),
    "a workdir that cannot be written": (flags("--workdir=/proc/jaxft"), ["--workdir /proc/jaxft: ", "can be written"]),
    "a workdir with something else": (
        lambda room: room.train(f"--workdir={room.write('mine/notes.txt', 'x').parent}"),
        ["mine is not empty and holds no run", "choose another --workdir"],
    ),
    "a workdir that is a model": (
        lambda room: room.train(f"--workdir={room.copy(room.model, 'bert')}"),
        ["bert/config.json is not that of a run", "choose another --workdir"],
    ),
    "a workdir that is a model, to be deleted": (
        lambda room: [*room.train(f"--workdir={room.copy(room.model, 'bert')}"), "--overwrite"],
        ["bert holds README.md, which no run has written", "choose another --workdir"],
    ),
    "a workdir of another experiment": (
        lambda room: room.train(f"--workdir={room.copy(room.run, 'other')}"),
        ["other holds a different experiment", "task.label: 'sentiment' there, 'label' here", "--overwrite"],
    ),
    "a workdir with half a config.json": (
        lambda room: room.train(f"--workdir={torn(room)}"),
        ["torn/config.json is not valid JSON", "--overwrite"],
    ),
    "nothing to evaluate": (on_run("evaluate", "--workdir=/nowhere"), ["/nowhere holds no run", "--workdir"]),
    "nothing to export": (lambda room: ["--mode=export", f"--workdir={room.path}"], ["holds no run (no config.json)"]),
    "nothing to predict with": (
        lambda room: ["--mode=predict", f"--workdir={room.path}", f"--input={room.write('a.txt', 'x')}"],
        ["holds no run (no config.json)"],
    ),
    "half a config.json to evaluate": (
        lambda room: ["--mode=evaluate", f"--workdir={torn(room)}"],
        ["torn/config.json is not valid JSON"],
    ),
    "a run that has not saved anything": (
        lambda room: ["--mode=export", f"--workdir={without_checkpoints(room)}"],
        ["new holds no checkpoint and no export yet; train first"],
    ),
    "no file to predict": (
        lambda room: on_run("predict", f"--input={room.write('texts.txt', 'x').with_name('text.txt')}")(room),
        ["--input: there is no", "did you mean 'texts.txt'?"],
    ),
    "a file without the column": (
        predict("a.csv", "sentence\nx\n"),
        ["a.csv has no column 'text', which the run reads; it has 'sentence'"],
    ),
    "a file of another kind": (predict("a.docx", "x"), ["a.docx is no file that can be read", ".csv"]),
    "an empty file": (predict("a.txt", ""), ["a.txt is empty"]),
    "blank lines alone": (predict("a.txt", "\n \n"), ["a.txt is empty: its 2 rows hold no 'text'"]),
    "an output that is a folder": (
        predict("a.txt", "x\n", "--output=/tmp"),
        ["--output /tmp: Is a directory", "choose a file that can be written"],
    ),
    "an output below a file": (
        lambda room: predict("a.txt", "x\n", f"--output={room.write('file', 'x')}/answers.jsonl")(room),
        ["file/answers.jsonl: Not a directory", "choose a file that can be written"],
    ),
    "an output that cannot be written": (
        predict("a.txt", "x\n", "--output=/proc/answers.jsonl"),
        ["--output /proc/answers.jsonl: ", "choose a file that can be written"],
    ),
}


def states(*folders: Path) -> dict[Path, tuple[int, ...]]:
    """Of every file: what changes when it is written to or replaced."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return {file: (stat.st_mtime_ns, stat.st_size, stat.st_ino) for file in files for stat in [file.stat()]}


def said(rows: Rows) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("setup", "parts"), [pytest.param(*row, id=name) for name, row in rows.items()])


TABLES = (
    *(COMMAND_LINE, CONFIG_FILES, MODELS, DATA, TAGS, ANSWERS, CHOICES, TEXTS, METHODS, COMPRESS, SURE, WRITTEN),
    RUNS,
)


@said({name: row for table in TABLES for name, row in table.items()})
def test_a_mistake_is_one_line(room, capsys, setup, parts):
    argv = ["run.py", *setup(room)]
    before = states(room.path, room.run, room.model)
    # A user sees no DeprecationWarning of a library; pytest shows all, on the stream too where a thread that an earlier
    # test has left puts its own `warnings.catch_warnings` back meanwhile.
    with warnings.catch_warnings(action="ignore"):
        assert cli.main(argv, None) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err[:7]) == ("", 1, "error: "), err
    for part in parts:
        assert part in err
    after = states(room.path, room.run, room.model)
    assert {file: after.get(file) for file in before} == before
    assert {file for file in after.keys() - before.keys() if room.path / "run" not in file.parents} == set()


def test_all_rows_have_names_of_their_own():
    assert sum(map(len, TABLES)) == len({name for table in TABLES for name in table})


@pytest.mark.parametrize("flag", ["--debug", "--debug=true", "-debug=1"])
def test_debug_shows_the_traceback(room, flag):
    with pytest.raises(UserError, match="there is no such key"):
        cli.main(["run.py", *room.train("--config.epochs=1"), flag], None)


def test_too_little_memory_is_one_line():
    """What XLA says of an array that no machine can hold, and what orbax or a thread would make of it."""
    with pytest.raises(jax.errors.JaxRuntimeError) as found:
        jax.block_until_ready(jnp.zeros(2**55, jnp.int8))
    wrapped = RuntimeError("in a thread")
    wrapped.__cause__ = found.value
    for error in (found.value, wrapped):
        code, line = ending.explain(error)
        assert (code, line.count("\n")) == (2, 0)
        assert all(part in line for part in ("too little memory", "config.train.batch_size", "config.train.accumulate"))


PROCESSES: Rows = {
    "a rule that the sizes do not allow": (
        flags("--config.mesh.rules=.*/word_embeddings/embedding=data"),
        ["embedding [30522, 32]: '.*/word_embeddings/embedding' splits 30522 over data, which is 8 and no divisor"],
    ),
    "a mistake of ours to tell": (flags("--config.epochs=1"), ["did you mean 'train.epochs'?"]),
    "a batch for eight devices": (
        flags("--config.data.packing=off", "--config.train.batch_size=12"),
        ["config.train.batch_size is 12", "a multiple of 8 (8 devices that share rows x accumulate 1)"],
    ),
}


@said(PROCESSES)
def test_a_process_ends_with_code_2_and_no_traceback(room, setup, parts):
    done = command(*setup(room), devices=8)
    assert (done.returncode, done.stdout, done.stderr.count("\n"), done.stderr[:7]) == (2, "", 1, "error: "), (
        done.stderr
    )
    for part in parts:
        assert part in done.stderr


def test_a_start_that_failed_does_not_hold_the_workdir(room, capsys):
    broken = room.copy(room.model, "broken")
    (broken / "model.safetensors").unlink()
    assert cli.main(["run.py", *room.train(f"--config.model.path={broken}")], None) == 2
    assert (room.path / "run" / "config.json").exists()
    assert cli.main(["run.py", *room.train()], None) == 0, capsys.readouterr().err


def test_overwrite_starts_anew(room, capsys):
    directory = room.copy(room.run, "other")
    argv = ["run.py", *room.train(f"--workdir={directory}")]
    assert cli.main(argv, None) == 2
    assert cli.main([*argv, "--overwrite"], None) == 0, capsys.readouterr().err
    assert config.to_dict(Workdir(directory).experiment())["task"]["label"] == "label"
    assert [(line["step"], line["split"]) for line in lines(directory)] == [
        (2, "train"),
        (2, "validation"),
        (2, "test"),
    ]


FULL_DISK = """
mount -t tmpfs -o size=$1 tmpfs "$2" || exit 99
shift; folder=$1; shift
"$@"; echo "exit $?"
(cd "$folder/run/checkpoints" && ls | grep -x "[0-9]*")
mount -o remount,size=100m tmpfs "$folder"
"$@"; echo "exit $?"
(cd "$folder/run/checkpoints" && ls | grep -x "[0-9]*")
"""


@pytest.mark.matrix
@pytest.mark.skipif(not shutil.which("unshare"), reason="mounts a small file system in a namespace of its own")
def test_a_full_disk(room):
    """Room for one checkpoint of 4 MB but not for two; then there is more, and the same command goes on."""
    disk = room.path / "disk"
    disk.mkdir()
    run = room.train(f"--workdir={disk}/run", "--config.train.steps=4", "--config.train.eval_every=2")
    script = ["unshare", "--map-root-user", "--mount", "sh", "-c", FULL_DISK, "sh", "6m", str(disk)]
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [*script, sys.executable, str(ROOT / "run.py"), *run], capture_output=True, text=True, env=env
    )
    if done.returncode == 99 or done.stderr.startswith("unshare: "):
        pytest.skip(f"no file system can be mounted here: {done.stderr}")
    assert done.stdout.split("\n") == ["exit 2", "2", "exit 0", "2", "4", ""], done.stderr
    first, second = done.stderr.split("resuming at step 2 of 4\n")
    assert first.endswith("\nerror: --workdir: the disk is full; what is on disk is whole: mend and resume\n")
    assert "Traceback" not in first + second and "results.json" in second
