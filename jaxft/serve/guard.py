"""What stands before every route: the key, the size of a body and the time it takes to come, the log and the counts.

It is ASGI (https://asgi.readthedocs.io) and reads a body itself, so that nothing behind it waits for a slow client.
"""

import asyncio
import hmac
import json
import sys
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from jaxft.serve import failures
from jaxft.serve.failures import Refused
from jaxft.serve.service import Service

HEALTH = frozenset({"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})

PROBES = HEALTH | {"/metrics"}
"""Routes that machines ask every few seconds."""

OPEN = HEALTH | {"/", "/docs"}
"""Paths that need no key: they hold nothing of the models, and an orchestrator or a browser has none to give."""

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
)

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Guard:
    """Wraps an ASGI application."""

    def __init__(self, app: Any, service: Service, key: str = "", log: Callable[[str], None] | None = None):
        """Before the application.

        Args:
          key: that requests must have; empty: none.
          log: writes a line; None: standard output.
        """
        self._app, self._service, self._key = app, service, key
        self._log = log or _print

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, seen = time.monotonic(), {"status": 500, "begun": False}
        scope["state"] = {**scope.get("state", {}), "said": {}}

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"], seen["begun"] = message["status"], True
                closing = [(b"connection", b"close")] if self._service.draining or message["status"] == 413 else []
                message = {**message, "headers": [*message.get("headers", []), *HEADERS, *closing]}
            await send(message)

        try:
            self._check_key(scope)
            body = await self._body(scope, receive)
            await self._app(scope, _replayed(body, receive), sending)
        except Refused as refused:
            await _refuse(sending, refused)
        except _Gone:
            seen["status"] = 499  # as nginx calls it: the client has gone before its request was whole
        except Exception as error:  # a defect of ours: the client learns no more than that
            scope["state"]["said"]["error"] = "".join(traceback.format_exception(error))
            if not seen["begun"]:
                await _refuse(sending, Refused(500, failures.DEFECT))
        finally:
            self._note(scope, seen["status"], time.monotonic() - started)

    def _check_key(self, scope: Message) -> None:
        if not self._key or scope["path"] in OPEN:
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, b"Bearer " + self._key.encode()):
            said = "the key is missing or wrong; send it as 'Authorization: Bearer KEY'"
            raise Refused(401, said, WWW_Authenticate="Bearer")

    async def _body(self, scope: Message, receive: Receive) -> bytes:
        """The whole body, which comes in time and is not too large."""
        limits = self._service.limits
        large = Refused(413, f"the body has more than {limits.body:,} bytes, the limit of this server")
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > limits.body:
            raise large
        parts, size = [], 0
        try:
            async with asyncio.timeout(limits.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limits.body:
                        raise large
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise Refused(408, f"the body did not come within {limits.seconds} seconds") from None

    def _note(self, scope: Message, status: int, seconds: float) -> None:
        """Counts a request, and writes its line into the log, which probes that find all well would fill."""
        route = getattr(scope.get("route"), "path", "other")
        self._service.measures.requests.labels(route, str(status)).inc()
        self._service.measures.total.labels(route).observe(seconds)
        if route in PROBES and status < HTTPStatus.BAD_REQUEST:
            return
        line = {
            "time": round(time.time(), 3),
            "id": uuid.uuid4().hex[:12],
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "seconds": round(seconds, 4),
        }
        self._log(json.dumps(line | scope["state"]["said"], ensure_ascii=False, default=str))


class _Gone(Exception):
    """The client has closed the connection."""


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What gives the body that has been read, and then what `receive` gives."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return left.pop() if left else await receive()

    return replay


async def _refuse(send: Send, refused: Refused) -> None:
    content = json.dumps(failures.body(refused.status, refused.message), ensure_ascii=False).encode(errors="replace")
    headers = {"content-type": "application/json", "content-length": str(len(content)), **refused.headers}
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": pairs})
    await send({"type": "http.response.body", "body": content})


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
