"""What a service does with a request, whatever protocol it came by: read, tokenize, compute, answer."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import jaxft
from jaxft.data import rows
from jaxft.data.sources import Split
from jaxft.errors import UserError, nearest
from jaxft.predict.predictor import Inputs, Predictor
from jaxft.serve.batcher import Batcher
from jaxft.serve.failures import Refused
from jaxft.serve.limits import Limits
from jaxft.serve.measures import Measures
from jaxft.serve.models import Served

THREADS = min(4, os.cpu_count() or 1)
"""So many requests are read at once: tokenizing leaves Python to others, and all cores compute meanwhile."""


class Answered(NamedTuple):
    """A request's answers, one a text or row; which of the texts were cut; tokens in all; and how long each part took.

    Attributes:
      timing: seconds by name.
    """

    model: Served
    answers: list[dict[str, Any]]
    cut: list[bool]
    tokens: int
    timing: Mapping[str, float]


class Service:
    """Models by name, and the limits within which they answer.

    Attributes:
      measures: what is counted.
      draining: the service ends: it answers what it has accepted, and says that it is not ready.
    """

    def __init__(self, predictors: Mapping[str, Predictor], limits: Limits = Limits()):  # noqa: B008 (frozen)
        """Compiles all shapes of all models, and starts the thread that computes.

        Args:
          predictors: by name; the first answers requests that name none.
        """
        self.limits, self.measures = limits, Measures()
        self.budget = limits.budget(next(iter(predictors.values())).engine.device)
        self.models = {
            name: Served(name, one, tuple(one.warm(self.budget, THREADS))) for name, one in predictors.items()
        }
        for one in self.models.values():
            self.measures.begin(one.name, one.task, one.labels)
        self.measures.limit.set(limits.queue)
        self.measures.ready.set(1)
        self.draining = False
        self._batcher = Batcher(self.budget, self.measures)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="read")
        self._busy = 0

    def info(self) -> dict[str, Any]:
        """Returns what /info says."""
        limits = vars(self.limits) | {"tokens": self.budget}
        return {
            "name": "jaxft",
            "version": jaxft.__version__,
            "models": [one.says() for one in self.models.values()],
            "default_model": next(iter(self.models)),
            "limits": limits,
        }

    def model(self, name: str | None) -> Served:
        """Returns the model of a name; of None the first.

        Raises:
          Refused: there is none of that name (404).
        """
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise Refused(404, f"there is no model {name[:80]!r}; {nearest(name[:80], self.models)}")
        return self.models[name]

    async def answer(self, model: Served, data: Sequence[Any], cells: bool = False) -> Answered:
        """Answers texts, or rows of columns, in their order.

        Args:
          cells: the values of the rows are cells, as those of a CSV file, which may spell lists.

        Raises:
          Refused: too many texts (413), a text that cannot be read (422), no room (429), or no time (504).
        """
        self._check_count(len(data))
        async with self._room(len(data)):
            try:
                async with asyncio.timeout(self.limits.seconds):
                    return await self._answer(model, data, cells)
            except TimeoutError:
                seconds = self.limits.seconds
                raise Refused(504, f"no answer within {seconds} seconds, the limit of this server") from None

    async def _answer(self, model: Served, data: Sequence[Any], cells: bool) -> Answered:
        run, threads = asyncio.get_running_loop().run_in_executor, self._threads
        began = time.monotonic()
        try:
            inputs, cut = await run(threads, self._read, model, data, cells)
        except UserError as error:
            raise Refused(422, str(error)) from error
        tokenized = time.monotonic()
        self.measures.tokenize.observe(tokenized - began)
        lengths, most = [int(length) for length in inputs.features.lengths], self.limits.request_tokens
        if sum(lengths) > most:
            raise Refused(413, f"{sum(lengths):,} tokens are more than the {most:,} that a request may have")
        found = await asyncio.wrap_future(self._batcher.submit(model.predictor, inputs.features))
        answers = await run(threads, lambda: list(model.predictor.answers_of(inputs, found.outputs)))
        self.measures.answered(model.name, lengths, sum(cut), answers, model.labels)
        timing = {"tokenize": tokenized - began, "queue": found.queued, "compute": found.computed}
        return Answered(model, answers, cut, sum(lengths), timing)

    def _read(self, model: Served, data: Sequence[Any], cells: bool) -> tuple[Inputs, list[bool]]:
        """The tokens of texts or rows, and which of them were cut, here or by the tokenizer."""
        shortened = [_shortened(one, self.limits.characters) for one in _picked(data, model.inputs)]
        predictor, values = model.predictor, [value for value, _ in shortened]
        given: Split | list[Any] = rows.split_of(values, "rows")._replace(cells=True) if cells else values
        inputs = predictor.tokenized(given)
        return inputs, [a or bool(b) for (_, a), b in zip(shortened, predictor.cut(inputs), strict=True)]

    def _check_count(self, count: int) -> None:
        if not count:
            raise Refused(422, "there is no text and no row to answer; give one or more")
        if count > self.limits.texts:
            raise Refused(413, f"{count:,} texts are more than the {self.limits.texts:,} that a request may have")

    @asynccontextmanager
    async def _room(self, count: int) -> AsyncIterator[None]:
        """Counts texts among those that wait, as long as there is room; one request alone always has it."""
        if self._busy and self._busy + count > self.limits.queue:
            said = f"{self._busy:,} texts wait, of {self.limits.queue:,} that may: try again"
            raise Refused(429, said, Retry_After="1")
        self._busy += count
        self.measures.waiting.set(self._busy)
        try:
            yield
        finally:
            self._busy -= count
            self.measures.waiting.set(self._busy)

    @property
    def busy(self) -> int:
        """Texts that wait or are computed."""
        return self._busy

    def drain(self) -> None:
        """Says from now on that the service is not ready. It goes on answering."""
        self.draining = True
        self.measures.ready.set(0)

    def close(self) -> None:
        """Ends the threads, once all that waits is answered."""
        self._batcher.close()
        self._threads.shutdown()


def _picked(data: Sequence[Any], columns: Sequence[str]) -> list[Any]:
    """Texts as they are; of rows the columns that the model reads.

    Raises:
      UserError: no row has one of them.
    """
    names = list(dict.fromkeys(name for row in data if isinstance(row, dict) for name in row))
    if any(isinstance(row, dict) for row in data):
        for column in columns:
            if column not in names:
                listed = ", ".join(repr(name[:40]) for name in names[:20]) or "none"
                raise UserError(f"rows have no column {column!r}, which the model reads; they have {listed}")
    return [{name: row[name] for name in columns if name in row} if isinstance(row, dict) else row for row in data]


def _shortened(value: Any, most: int) -> tuple[Any, bool]:
    """A text, a list or an object of texts, of at most so many characters each; and whether any was longer."""
    if isinstance(value, str):
        return value[:most], len(value) > most
    if isinstance(value, list):
        parts = [_shortened(one, most) for one in value]
        return [part for part, _ in parts], any(cut for _, cut in parts)
    if isinstance(value, dict):
        found = {name: _shortened(one, most) for name, one in value.items()}
        return {name: part for name, (part, _) in found.items()}, any(cut for _, cut in found.values())
    return value, False
