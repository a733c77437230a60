"""--metrics_port: a run that trains is watched by Prometheus."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jaxft.devices import distributed
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.report.watch import Watch

HOST = "127.0.0.1"
"""Where it listens unless it is told otherwise: at this machine alone."""

watched: ContextVar[Watch | None] = ContextVar("watched", default=None)
"""What `train` tells the newest numbers of its run, where anybody asks for them."""


@contextmanager
def watch(port: int, host: str = HOST) -> Iterator[None]:
    """Lets Prometheus read, at a port of process 0, what is trained inside the block.

    Args:
      port: 0: nobody asks, and nothing is done.
      host: address to listen at; 0.0.0.0: all of this machine.

    Raises:
      UserError: what it stands on is not installed, or it cannot listen there; before anything is trained.
    """
    if not port:
        if host != HOST:
            raise UserError(f"--host={host} is for --metrics_port, which is not given; give both or neither")
        yield
        return
    seen, servers = Watch(), []
    distributed.once(lambda: servers.append(_serve(seen, host, port)))
    token = watched.set(seen)
    try:
        yield
    finally:
        watched.reset(token)
        for server in servers:
            server.shutdown()
            server.server_close()


def _serve(seen: Watch, host: str, port: int) -> Any:
    try:
        from jaxft.report.exporter import Exporter
    except ModuleNotFoundError as error:
        raise UserError(
            f"--metrics_port needs {error.name}, which is not installed: pip install 'jaxft[serve]'"
        ) from error
    try:
        server = Exporter(seen).serve(host, port)
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--metrics_port={port} on --host={host}: {said}; choose another port or host") from error
    where = f"[{host}]" if ":" in host else host
    say(f"metrics at http://{where}:{port}/metrics")
    return server
