"""What a service says instead of an answer: a status and one line."""

from typing import Any


class Refused(Exception):
    """A request that is not answered: the HTTP status, one line, and headers that go with it."""

    def __init__(self, status: int, message: str, **headers: str):
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


KINDS = {
    400: "bad_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "too_large",
    422: "unprocessable",
    429: "overloaded",
    500: "internal",
    503: "unavailable",
    504: "timeout",
}
"""Status -> `type` in the body of an error."""


DEFECT = "the service failed; its log says why"
"""What a client learns of a defect of ours."""


def body(status: int, message: str) -> dict[str, Any]:
    """Returns the body of an error: its message, one line, with its kind and status."""
    line = " ".join(message.split())
    return {"error": {"message": line, "type": KINDS.get(status, "error"), "code": status}}
