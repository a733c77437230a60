"""The routes of a service."""

import asyncio
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

import jaxft
from jaxft.serve import failures, protocol
from jaxft.serve.failures import Refused
from jaxft.serve.guard import Guard
from jaxft.serve.service import Answered, Service

POLICY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}
"""Of the pages: nothing from elsewhere."""


class Error(BaseModel):
    """What went wrong: one line, its kind, and the HTTP status."""

    message: str
    type: str
    code: int


class Failed(BaseModel):
    """The body of every answer that is none."""

    error: Error = Field(description="what went wrong")


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Failed, "description": kind.replace("_", " ")} for status, kind in failures.KINDS.items()
}


def build(service: Service, key: str = "", log: Any = None) -> Guard:
    """Returns the ASGI application of a service.

    Args:
      key: that requests must have; empty: none.
      log: writes a line; None: standard output.
    """
    app = FastAPI(
        title="jaxft",
        version=jaxft.__version__,
        description="Answers of models that jaxft has trained.",
        docs_url=None,
        redoc_url=None,
        responses=REFUSALS,
    )
    _routes(app, service)
    _protocol_routes(app, service)
    _state_routes(app, service)
    _pages(app)
    _failures(app)
    if key:
        _describe_key(app)
    return Guard(app, service, key, log)


def _routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/predict", tags=["answers"], summary="Answers texts or rows")
    async def predict(body: protocol.Predict, request: Request) -> Response:
        model = service.model(body.model)
        data = body.texts if body.texts is not None else [*(body.rows or [])]
        found = await service.answer(model, data)
        _say(service, request, found, data)
        return await _json(lambda: protocol.predictions(found))

    @app.post("/v1/embeddings", tags=["answers"], summary="Vectors of texts, as OpenAI's API has them")
    async def embed(body: protocol.Embed, request: Request) -> Response:
        model = service.model(body.model)
        texts = protocol.check_embeds(model, body)
        found = await service.answer(model, texts)
        _say(service, request, found, texts)
        return await _json(lambda: protocol.embeddings(found, body.encoding_format))


def _protocol_routes(app: FastAPI, service: Service) -> None:
    @app.get("/v2", tags=["Open Inference Protocol"], summary="The server")
    async def server() -> dict[str, Any]:
        return {"name": "jaxft", "version": jaxft.__version__, "extensions": []}

    @app.get("/v2/models/{model_name}", tags=["Open Inference Protocol"], summary="A model's inputs and outputs")
    async def model(model_name: str) -> dict[str, Any]:
        return protocol.metadata(service.model(model_name))

    @app.get("/v2/models/{model_name}/ready", tags=["Open Inference Protocol"], summary="Whether a model answers")
    async def model_ready(model_name: str) -> dict[str, Any]:
        name = service.model(model_name).name
        _check_ready(service)
        return {"name": name, "ready": True}

    @app.post("/v2/models/{model_name}/infer", tags=["Open Inference Protocol"], summary="Answers, as tensors")
    async def infer(model_name: str, body: protocol.Infer, request: Request) -> Response:
        model = service.model(model_name)
        if "inference-header-content-length" in request.headers:
            raise Refused(400, "tensors in binary are not taken (Inference-Header-Content-Length); send JSON")
        rows, wanted = protocol.rows_of(model, body), protocol.outputs_of(model, body)
        found = await service.answer(model, rows, cells=True)
        _say(service, request, found, rows)
        return await _json(lambda: protocol.inferred(found, body, wanted))


def _state_routes(app: FastAPI, service: Service) -> None:
    async def live() -> dict[str, bool]:
        """The process answers."""
        return {"live": True}

    async def ready() -> dict[str, bool]:
        """New requests are welcome."""
        _check_ready(service)
        return {"ready": True}

    for prefix in ("", "/v2"):
        app.get(f"{prefix}/health/live", tags=["state"], summary="Whether it lives", operation_id=f"live{prefix}")(live)
        app.get(f"{prefix}/health/ready", tags=["state"], summary="Whether it is ready", operation_id=f"ready{prefix}")(
            ready
        )

    @app.get("/info", tags=["state"], summary="Models and limits")
    async def info() -> dict[str, Any]:
        return service.info()

    @app.get("/metrics", tags=["state"], summary="For Prometheus", response_class=Response)
    async def metrics(request: Request) -> Response:
        content, kind = service.measures.page(request.headers.get("accept", ""))
        return Response(content, headers={"content-type": kind})


def _pages(app: FastAPI) -> None:
    for path, file in (("/", "page.html"), ("/docs", "api.html")):
        text = resources.files("jaxft.serve").joinpath(file).read_text(encoding="utf-8")

        def page(text: str = text) -> HTMLResponse:
            return HTMLResponse(text, headers=POLICY)

        app.add_api_route(path, _without_arguments(page), include_in_schema=False, methods=["GET"])


def _without_arguments(page: Any) -> Any:
    """A route that takes nothing from its request."""

    async def route() -> HTMLResponse:
        return page()

    return route


def _failures(app: FastAPI) -> None:
    """Every error is JSON of one form."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return JSONResponse(failures.body(error.status, error.message), error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first, more = error.errors()[0], len(error.errors()) - 1
        place = ".".join(str(part) for part in first["loc"])[:200]
        said = f"{place}: {first['msg']}" + f" (and {more} more)" * (more > 0)
        return JSONResponse(failures.body(422, said), 422)

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> Response:
        return JSONResponse(failures.body(500, failures.DEFECT), 500)  # it is raised again, and `Guard` logs it

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        said = {404: f"there is no {request.url.path[:80]}; /docs lists what there is"}.get(error.status_code)
        return JSONResponse(
            failures.body(error.status_code, said or str(error.detail)), error.status_code, error.headers
        )


def _describe_key(app: FastAPI) -> None:
    """Says in /openapi.json that requests need a key."""
    schema = app.openapi()
    schema.setdefault("components", {})["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    schema["security"] = [{"key": []}]


def _check_ready(service: Service) -> None:
    if service.draining:
        raise Refused(503, "the service ends, and takes no new requests")


def _say(service: Service, request: Request, found: Answered, data: Any) -> None:
    """Puts into the log's line what there is to say of an answer; texts only where that is asked for."""
    said = request.state.said
    said |= {"model": found.model.name, "texts": len(found.answers), "tokens": found.tokens, "cut": sum(found.cut)}
    said |= {name: round(seconds, 4) for name, seconds in found.timing.items()}
    if service.limits.log_texts:
        said["data"] = data


async def _json(make: Any) -> Response:
    """A response whose JSON is written on a thread: a long one would hold up all others."""
    content = await asyncio.to_thread(lambda: protocol.line(make()).encode())
    return Response(content, media_type="application/json")
