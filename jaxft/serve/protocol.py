"""The bodies of requests and of their answers: jaxft's own, OpenAI's of embeddings, and the Open Inference Protocol v2.

OpenAI: https://platform.openai.com/docs/api-reference/embeddings. Open Inference Protocol:
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol.
"""

import base64
import json
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from jaxft.serve.failures import Refused
from jaxft.serve.models import Served, Tensor
from jaxft.serve.service import Answered

Text = Annotated[str, Field(strict=True)]
Plain = Annotated[str, Field(strict=True)] | Annotated[bool, Field(strict=True)] | int | float | None
Cell = Plain | list[Plain | dict[str, Plain]] | dict[str, list[Plain]]
"""What a column holds: a text, a number, words, choices (also as ARC has them)."""


class Body(BaseModel):
    """A body with no other fields than its own: a misspelt one is an error."""

    model_config = ConfigDict(extra="forbid")


class Predict(Body):
    """Texts, or rows of the columns that the model reads."""

    texts: list[Text] | None = Field(None, description="where the model reads one column")
    rows: list[dict[str, Cell]] | None = Field(None, description="objects of column and value")
    model: str | None = Field(None, description="name of the model; without it the first")

    @model_validator(mode="after")
    def _one_of_both(self) -> "Predict":
        if (self.texts is None) == (self.rows is None):
            raise ValueError('give either "texts" or "rows"')
        return self


class Embed(BaseModel):
    """As OpenAI's; fields that it has beside these are not used."""

    input: Text | list[Text] = Field(description="a text, or several")
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, description="only that which the model has")


class InferInput(BaseModel):
    """A tensor of texts, `[rows]`: a column that the model reads; lists are written as JSON."""

    name: str
    shape: list[int]
    datatype: Literal["BYTES"]
    data: list[Text]
    parameters: dict[str, Any] | None = None


class InferOutput(BaseModel):
    name: str
    parameters: dict[str, Any] | None = None


class Infer(BaseModel):
    id: str | None = None
    inputs: list[InferInput] = Field(min_length=1)
    outputs: list[InferOutput] | None = None
    parameters: dict[str, Any] | None = None


def predictions(found: Answered) -> dict[str, Any]:
    """Returns the body that answers `Predict`."""
    answers = [{**answer, "cut": cut} for answer, cut in zip(found.answers, found.cut, strict=True)]
    usage = {"texts": len(answers), "tokens": found.tokens}
    return {"model": found.model.name, "answers": answers, "usage": usage}


def embeddings(found: Answered, encoding: str) -> dict[str, Any]:
    """Returns the body that answers `Embed`; base64 is of float32, the least significant byte first."""

    def encoded(vector: list[float]) -> list[float] | str:
        return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode() if encoding == "base64" else vector

    data = [
        {"object": "embedding", "index": number, "embedding": encoded(answer["embedding"])}
        for number, answer in enumerate(found.answers)
    ]
    usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
    return {"object": "list", "data": data, "model": found.model.name, "usage": usage}


def check_embeds(model: Served, body: Embed) -> list[str]:
    """Returns the texts of `Embed`.

    Raises:
      Refused: the model has no embeddings, or not of so many dimensions (400).
    """
    if model.task != "sentence_embedding":
        raise Refused(400, f"the model {model.name!r} has no embeddings, it does {model.task}; ask /v1/predict")
    if body.dimensions not in (None, model.predictor.width):
        raise Refused(
            400,
            f"dimensions is {body.dimensions}; embeddings of {model.name!r} have {model.predictor.width}",
        )
    return [body.input] if isinstance(body.input, str) else body.input


def rows_of(model: Served, body: Infer) -> list[dict[str, str]]:
    """Returns the rows that the tensors of `Infer` hold.

    Raises:
      Refused: a tensor that the model does not read or that is lacking, or one of another size (400).
    """
    columns: dict[str, list[str]] = {}
    for one in body.inputs:
        if one.name not in model.inputs or one.name in columns:
            listed = ", ".join(model.inputs)
            raise Refused(400, f"inputs: {one.name[:80]!r} comes twice or is not read; the model reads {listed}")
        if one.shape not in ([len(one.data)], [len(one.data), 1]):
            raise Refused(400, f"inputs: the shape of {one.name!r} is {one.shape}, but it has {len(one.data)} values")
        columns[one.name] = one.data
    if missing := [name for name in model.inputs if name not in columns]:
        raise Refused(400, f"inputs: {missing[0]!r} is lacking, which the model reads")
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise Refused(400, f"inputs: they must have one size; they have {sizes}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def outputs_of(model: Served, body: Infer) -> list[Tensor]:
    """Returns the tensors that `Infer` asks for; without a wish all.

    Raises:
      Refused: the model has none of that name (400).
    """
    there = {tensor.name: tensor for tensor in model.outputs()}
    if body.outputs is None:
        return list(there.values())
    for one in body.outputs:
        if one.name not in there:
            raise Refused(400, f"outputs: there is no {one.name[:80]!r}; the model has {', '.join(there)}")
    return [there[one.name] for one in body.outputs]


def inferred(found: Answered, body: Infer, wanted: Sequence[Tensor]) -> dict[str, Any]:
    """Returns the body that answers `Infer`."""
    count, known = len(found.answers), predictions(found)["answers"]

    def tensor(one: Tensor) -> dict[str, Any]:
        data: list[Any] = []
        for answer in known:
            value = line(answer) if one.name == "answer" else answer[one.name]
            values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
            data.extend(values)
        return {"name": one.name, "datatype": one.datatype, "shape": [count, *one.shape[1:]], "data": data}

    answered = {"model_name": found.model.name, "outputs": [tensor(one) for one in wanted]}
    return answered | ({} if body.id is None else {"id": body.id})


def metadata(model: Served) -> dict[str, Any]:
    """Returns what GET /v2/models/NAME says."""
    inputs = [Tensor(name, "BYTES", (-1,)) for name in model.inputs]
    sides = {"inputs": inputs, "outputs": model.outputs()}
    described = {side: [{**t._asdict(), "shape": list(t.shape)} for t in tensors] for side, tensors in sides.items()}
    return {"name": model.name, "versions": [], "platform": "jaxft", **described}


def line(value: Any) -> str:
    """Returns a value as JSON in one line; what is no number is null, which JSON has no other word for."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
