"""How a command line ends: by an exit code and, after a failure, one line."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from absl import flags

from jaxft.errors import TrainingError, UserError, causes, system_error

EXIT_USER, EXIT_FAILED, EXIT_PREEMPTED = 2, 1, 75
"""A mistake that the user can mend; a run that cannot go on; SIGTERM, after which the same command resumes."""

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


def leave(code: int) -> None:
    """Ends the process; after a failure even where threads do not end, as orbax's when its folder is gone."""
    if code in (EXIT_USER, EXIT_FAILED):
        sys.stdout.flush()
        sys.unraisablehook = threading.excepthook = lambda _: None  # the line has been said; these would add pages
        end = threading.Timer(10, os._exit, [code])
        end.daemon = True
        end.start()
    sys.exit(code)


@contextmanager
def leave_on_sigterm() -> Iterator[None]:
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


def explain(error: BaseException) -> tuple[int, str]:
    """Returns the exit code and the line for an error; no line where it is a defect of ours."""
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
