"""--mode=serve: a trained model as an HTTP service, until SIGTERM or Ctrl-C."""

import asyncio
import os
import signal
import socket
from collections.abc import Sequence
from contextlib import contextmanager

import jax

from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.modes.shared import cache_programs
from jaxft.predict.predictor import JAX
from jaxft.serve import models
from jaxft.serve.limits import Limits

KEY = "JAXFT_API_KEY"
"""Name of the environment variable that holds the key which requests must have."""

SETTLE = 1.0
"""Seconds in which clients learn, once the service ends, that connections close, and balancers that it is not ready."""

LAST = 0.5
"""Seconds in which connections that were accepted just before it stopped to listen send their request."""

KEEP_ALIVE = 75
"""Seconds that a connection is kept open for its next request."""


def serve(
    workdir: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    adapters: str = "",
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    engine: str = JAX,
    runs: Sequence[str] = (),
) -> None:
    """Serves a model, and adapters on it, and returns once SIGTERM or Ctrl-C came and all accepted is answered.

    Args:
      workdir: of a run, or the directory of a trained model, or its name on the Hub; see `Predictor.open`.
      adapters: `NAME=PATH,OTHER=PATH`.
      engine, runs: what computes, and what answers with it; see `Predictor.open`.

    Raises:
      UserError: what the service stands on is not installed, the port is taken, or the model cannot be opened.
    """
    try:
        import uvicorn

        from jaxft.serve import app
        from jaxft.serve.service import Service
    except ModuleNotFoundError as error:
        raise UserError(
            f"--mode=serve needs {error.name}, which is not installed: pip install 'jaxft[serve]'"
        ) from error
    if jax.process_count() > 1:
        raise UserError("--mode=serve is for one process; start one service a process, each with --processes=1")
    limits, given = limits.check(), models.read_adapters(adapters)
    with _listening(host, port) as listener:
        predictors = models.open_all(workdir, given, engine, runs)
        cache_programs(next(iter(predictors.values())).experiment.data.cache)
        service = Service(predictors, limits)
        config = uvicorn.Config(
            app.build(service, os.environ.get(KEY, "")),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_keep_alive=KEEP_ALIVE,
        )
        server = uvicorn.Server(config)
        server.capture_signals = _nothing  # pyright: ignore[reportAttributeAccessIssue] (it would end by the signal)
        where = f"[{host}]" if ":" in host else host
        say(f"serving {', '.join(predictors)} at http://{where}:{listener.getsockname()[1]}")
        asyncio.run(_run(server, service, listener))
        service.close()
    say("stopped: every accepted request is answered")


async def _run(server, service, listener: socket.socket) -> None:
    """Serves until a signal; then says that it is not ready, lets clients notice, and answers what is there."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    service.drain()
    await asyncio.sleep(SETTLE)
    for one in server.servers:
        one.close()
    await asyncio.sleep(LAST)  # uvicorn would close connections whose request it has not read yet
    server.should_exit = True
    await serving


@contextmanager
def _nothing():
    """In place of uvicorn's handlers of signals."""
    yield


def _listening(host: str, port: int) -> socket.socket:
    """A socket at an address; nobody can connect before the service listens.

    Raises:
      UserError: it is taken, or no address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        said = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--port={port} on --host={host}: {said}; choose another --port or --host") from error
    return listener
