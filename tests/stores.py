"""Servers that answer as Google's and Amazon's object stores do, each with one empty bucket."""

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import pytest
from runs import free_port


@contextmanager
def google() -> Iterator[str]:
    """The URL of a bucket; the environment leads gcsfs and tensorstore there, in processes that are started too."""
    server, port = pytest.importorskip("gcp_storage_emulator.server"), free_port()
    running = server.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    with pytest.MonkeyPatch.context() as patch:
        handlers = [(MOVE, {"POST": _move}), *server.HANDLERS]
        patch.setattr(server, "HANDLERS", [(path, _with_generations(answers)) for path, answers in handlers])
        for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
            patch.setenv(name, f"http://127.0.0.1:{port}")
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "anyone")
        patch.setenv("NO_GCE_CHECK", "true")
        with patch.context() as threads:  # it would wait for one idle connection, and answer no other
            threads.setattr(http.server, "HTTPServer", http.server.ThreadingHTTPServer)
            running.start()
        yield "gs://bucket"
        running.stop()


@contextmanager
def amazon() -> Iterator[str]:
    """The same for S3."""
    server = pytest.importorskip("moto.server")
    running = server.ThreadedMotoServer("127.0.0.1", 0)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "anyone")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import boto3

        boto3.client("s3").create_bucket(Bucket="bucket")
        yield "s3://bucket"
    running.stop()


closed: set[str] = set()
"""Beginnings of names of objects that Google's server does not let anybody read or write."""

_one_at_a_time = threading.RLock()

MOVE = r"^/storage/v1/b/(?P<bucket_name>[-.\w]+)/o/(?P<object_id>.+)/moveTo/o/(?P<dest_object_id>.+)$"


def _move(request: Any, response: Any, storage: Any, **_: Any) -> None:
    """What gcsfs asks for and the emulator leaves out.

    https://cloud.google.com/storage/docs/json_api/v1/objects/move
    """
    from gcp_storage_emulator.handlers import objects

    request.params["dest_bucket_name"] = request.params["bucket_name"]
    objects.copy(request, response, storage)
    if response.status == HTTPStatus.OK:
        objects.delete(request, response, storage)


def _with_generations(answers: dict[str, Callable[..., None]]) -> dict[str, Callable[..., None]]:
    """The emulator's answers, with what tensorstore writes by and the emulator leaves out: generations of objects.

    https://cloud.google.com/storage/docs/request-preconditions
    """

    def precise(answer: Callable[..., None]) -> Callable[..., None]:
        def answered(request: Any, response: Any, storage: Any, **rest: Any) -> None:
            with _one_at_a_time:
                now, wanted = _generation(request, storage), request.query.get("ifGenerationMatch")
                if _name(request).startswith(tuple(closed)):
                    response.status = HTTPStatus.FORBIDDEN
                elif wanted and wanted[0] != now:
                    response.status = HTTPStatus.PRECONDITION_FAILED
                elif now != "0" and request.query.get("ifGenerationNotMatch") == [now]:
                    response.status = HTTPStatus.NOT_MODIFIED
                else:
                    answer(request, response, storage, **rest)
                    now = _generation(request, storage)
                response["x-goog-generation"] = now

        return answered

    return {method: precise(answer) for method, answer in answers.items()}


def _generation(request: Any, storage: Any) -> str:
    """That of the object that is asked for; 0 of one that is not there."""
    from gcp_storage_emulator.exceptions import NotFound

    try:
        return storage.get_file_obj(request.params.get("bucket_name"), _name(request))["generation"]
    except NotFound:
        return "0"


def _name(request: Any) -> str:
    return request.params.get("object_id", request.query.get("name", [""])[0])
