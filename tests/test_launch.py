"""The recipes under launch/: what can be said about them without a cluster."""

import re
import subprocess

import pytest
import yaml
from absl import flags
from runs import ROOT

from jaxft import config
from jaxft.cli import arguments

SCRIPTS = ["gpu_box.sh", "slurm.sbatch", "tpu_vm.sh"]
FILES = [*SCRIPTS, "gke_jobset.yaml", "README.md"]


def _flags_of_run(text: str) -> set[str]:
    """Flags that the recipe gives to run.py, or names in its usage."""
    ours = re.findall(r"(?:run\.py|args:|launch/\S+|--coordinator)(?:[^\n]|\\\n|\n +- --)*", text)
    found = {flag for part in ours for flag in re.findall(r"(?<![\w-])--([a-z][\w.]*)(?![\w-])", part)}
    return found | set(re.findall(r"`--([a-z_]+)[=`]", text))


def _known() -> set[str]:
    values = flags.FlagValues()
    arguments.define(values, ["run.py"])
    return set(values) | {f"config.{key}" for key, _, _ in config.walk(config.Experiment())}


@pytest.mark.parametrize("name", FILES)
def test_flags_and_configs_exist(name):
    text = (ROOT / "launch" / name).read_text()
    used = _flags_of_run(text) - {"zone", "worker", "command"}  # of gcloud
    assert {"config", "workdir"} <= used <= _known()
    for path in re.findall(r"configs/\w+\.py", text):
        assert (ROOT / path).is_file()
    for key in re.findall(r"`config\.([\w.]+)`", text):
        assert any(known == f"config.{key}" or known.startswith(f"config.{key}.") for known in _known())


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_bash(name):
    file = ROOT / "launch" / name
    checked = subprocess.run(["bash", "-n", str(file)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert file.stat().st_mode & 0o111


def test_gpu_box_starts_again_after_sigterm_and_passes_other_codes_on(tmp_path):
    python = tmp_path / "python"  # leaves a mark, is stopped the first time, fails the second time
    python.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ $(wc -l < {tmp_path}/calls) -eq 1 ] && exit 75\nexit 3\n'
    )
    python.chmod(0o755)
    script = str(ROOT / "launch" / "gpu_box.sh")
    done = subprocess.run([script, "--workdir=a b"], env={"PATH": "/usr/bin:/bin", "PYTHON": str(python)}, timeout=60)
    assert done.returncode == 3
    assert (tmp_path / "calls").read_text() == "run.py --processes=1 --workdir=a b\n" * 2


def test_the_jobset_starts_every_machine_of_the_slice():
    jobset = yaml.safe_load((ROOT / "launch" / "gke_jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    chips = pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
    x, y = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert job["completions"] == job["parallelism"] and job["completions"] * chips == x * y
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == volumes
