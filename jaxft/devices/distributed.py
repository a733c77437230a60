"""Several processes as one run: how they meet, what one of them does for all, and how they stop together."""

import contextlib
import itertools
import json
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
from absl import flags
from jax.experimental import multihost_utils

from jaxft.errors import TrainingError, UserError, causes

T = TypeVar("T")

LONGEST = 6 * 3600
"""Seconds that a process may wait for what process 0 does alone. (Whether it is alive, the heartbeats tell.)"""

LOST = ("UNAVAILABLE", "ABORTED", "DEADLINE_EXCEEDED", "Gloo", "NCCL", "onnection", "coordination")
"""Words in the errors of a collective that another process has left."""

ALONE = ("coordinator_address should be defined", "must be called before any JAX calls")
"""Words in the errors of a detection that found no cluster, or of a process that has been computing on its own."""

PEER_LOST = (
    "another process of this run has stopped or cannot be reached: look at what it printed, then start all processes "
    "again with the same command; the run goes on from its last checkpoint"
)

_calls = itertools.count()


def initialize(
    coordinator: str = "",
    processes: int = 0,
    process: int = -1,
    *,
    start_timeout: int = 300,
    heartbeat_timeout: int = 100,
    preemptible: bool = True,
) -> None:
    """Joins the processes of the run; must come before any device is used.

    With none of the first three arguments, JAX finds out by itself whether this is a TPU slice, Slurm, Open MPI or a
    Kubernetes job, and elsewhere this process stays alone. `processes=1` keeps it alone anywhere.

    Args:
      coordinator: HOST:PORT of process 0.
      processes: how many there are.
      process: which of them this is, from 0.
      start_timeout: seconds within which all must have met; else the program ends here, with one line and code 2.
      heartbeat_timeout: seconds without a sign of life after which a process counts as dead, and ends all others.
      preemptible: SIGTERM no longer ends the process; the run asks for `preempted`, as training does.

    Raises:
      UserError: arguments that do not fit together, or a cluster that JAX finds but cannot join.
    """
    explicit = (coordinator, processes, process) != ("", 0, -1)
    if explicit:
        _check(coordinator, processes, process)
    if jax.distributed.is_initialized() or processes == 1 or (not explicit and _one_task()):
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    _barriers_without_devices()
    jax.config.update("jax_enable_preemption_service", preemptible)
    which = {"coordinator_address": coordinator, "num_processes": processes, "process_id": process} if explicit else {}
    who = f"process {process} of {processes}, coordinator {coordinator}" if explicit else "the cluster that JAX found"
    try:
        with _no_later_than(start_timeout, who), warnings.catch_warnings():
            if "JOB_COMPLETION_INDEX" not in os.environ:  # a notebook's pod is no job of several processes
                warnings.filterwarnings("ignore", message=".*Kubernetes environment detected")
            jax.distributed.initialize(
                **which,
                # JAX would see one GPU a process, as it does by itself under Slurm and Open MPI.
                cluster_detection_method="deactivate" if explicit else None,
                initialization_timeout=start_timeout + 30,
                heartbeat_timeout_seconds=heartbeat_timeout,
                shutdown_timeout_seconds=30,
            )
    except Exception as error:  # of the detection: whatever the metadata server or the Kubernetes client raises
        if not explicit and any(words in str(error) for words in ALONE):
            return
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"cannot join {who}: {reason}; give --coordinator, --processes and --process, or --processes=1 to run alone"
        ) from error


def _barriers_without_devices() -> None:
    """Lets orbax's processes meet at the coordinator, and not in a collective.

    That one could come between those of a step, in another order in each process, once a process has died.
    """
    from orbax.checkpoint import multihost as _  # noqa: F401  (it defines the flag)

    if not flags.FLAGS.is_parsed():  # by a program around this one
        flags.FLAGS.mark_as_parsed()
    flags.FLAGS["experimental_orbax_use_distributed_barrier"].value = True


def _check(coordinator: str, processes: int, process: int) -> None:
    if processes == 1 and process in (-1, 0):
        return
    given = {"--coordinator": coordinator != "", "--processes": processes != 0, "--process": process != -1}
    if absent := [flag for flag, there in given.items() if not there]:
        raise UserError(
            f"{' and '.join(absent)} missing; several processes need --coordinator=HOST:PORT --processes=N --process=I"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"--coordinator is {coordinator!r}; give HOST:PORT of process 0, e.g. 10.0.0.1:8476")
    if processes < 1 or not 0 <= process < processes:
        raise UserError(f"--process is {process} of --processes={processes}; they count from 0 to one less than that")


def _one_task() -> bool:
    """Under a launcher, but by itself: JAX would take one of the machine's GPUs only."""
    return "1" in (os.environ.get("SLURM_NTASKS"), os.environ.get("OMPI_COMM_WORLD_SIZE"))


@contextlib.contextmanager
def _no_later_than(seconds: int, who: str) -> Iterator[None]:
    """Ends the program if the block takes longer: JAX itself would abort with a stack trace."""

    def end() -> None:
        print(
            f"error: {who}: not all processes met within {seconds} s (--start_timeout); check that the coordinator "
            "can be reached from every machine and that every process was started (--processes=1: run alone)",
            file=sys.stderr,
        )
        leave(2)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def primary() -> bool:
    """Whether this process is the one that writes and speaks for all."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """A line for a person, from one process of the run."""
    if primary():
        print(text, file=sys.stderr, flush=True)


def once(make: Callable[[], T]) -> T:
    """What `make` gives on process 0 (anything that JSON holds), on every process; the others do not call it.

    All processes must call this in the same order. It takes the coordinator's key-value store, not the devices.

    Raises:
      UserError: as `make` does, on all processes.
      TrainingError: on the others, for anything else that it raises.
    """
    if jax.process_count() == 1:
        return make()
    key = f"jaxft/once/{next(_calls)}"
    if primary():
        try:
            made = make()
            told = json.dumps({"made": made})
        except Exception as error:
            kind = "user" if isinstance(error, UserError) else "failed"
            _client().key_value_set(key, json.dumps({kind: f"{error}" or type(error).__name__}))
            raise
        _client().key_value_set(key, told)
        return made
    told = json.loads(_client().blocking_key_value_get(key, LONGEST * 1000))
    if "user" in told:
        raise UserError(told["user"])
    if "failed" in told:
        raise TrainingError(f"process 0 failed: {told['failed']}")
    return told["made"]


def every(this: bool) -> bool:
    """Whether `this` is true on every process."""
    if jax.process_count() == 1:
        return this
    key = f"jaxft/every/{next(_calls)}"
    _client().key_value_set(f"{key}/{jax.process_index()}", str(this))
    wait_for_all(key)
    return all(value == "True" for _, value in _client().key_value_dir_get(key))


def wait_for_all(name: str) -> None:
    """Until every process is here. Devices take no part, so that the wait may be long."""
    if jax.process_count() > 1:
        _client().wait_at_barrier(f"{name}/{next(_calls)}", LONGEST * 1000)


def preempted(step: int) -> bool:
    """Whether all processes are to stop after this step: SIGTERM has reached one of them.

    All must ask after every step, and nobody for an earlier one: by JAX's preemption service they agree on a step that
    none has asked for yet.
    """
    return multihost_utils.reached_preemption_sync_point(step)


def preempted_before(step: int) -> bool:
    """The same for a run that goes on at `step`: the service agrees on a count of questions, and starts it at 0."""
    return any(preempted(i) for i in range(1, step + 1))


def lost(error: BaseException) -> bool:
    """Whether this is what the death of another process looks like from here."""
    if jax.process_count() == 1:
        return False
    # orbax wraps what a collective says
    said = [str(cause) for cause in causes(error) if isinstance(cause, jax.errors.JaxRuntimeError)]
    return any(word in text for text in said for word in LOST)


def leave(code: int) -> None:
    """Ends the process at once, without waiting for the others."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _client() -> Any:
    from jax._src import distributed  # JAX has no public name for it; orbax takes it from here too

    return distributed.global_state.client
