"""The queue of requests, and the one thread that computes them."""

import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from jaxft.data.features import Features
from jaxft.predict.predictor import Predictor
from jaxft.serve.measures import Measures


class Computed(NamedTuple):
    """The outputs of a request's examples, and the seconds that it waited and that its batch took."""

    outputs: Mapping[str, np.ndarray]
    queued: float
    computed: float


@dataclass(frozen=True)
class Work:
    """One request's examples, of which `future` will hold the outputs."""

    predictor: Predictor
    features: Features
    future: "Future[Computed]" = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)

    @property
    def tokens(self) -> int:
        return int(self.features.offsets[-1])


class Batcher:
    """Computes what waits as soon as the thread is free: the oldest, and with it what fits of the same model.

    Nothing waits for company: while a batch is computed, the next one gathers.
    """

    def __init__(self, tokens: int, measures: Measures):
        """With a thread of its own, until `close`.

        Args:
          tokens: of a batch; a request that has more is computed by itself.
        """
        self._tokens, self._measures = tokens, measures
        self._waiting: deque[Work] = deque()
        self._changed, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    def submit(self, predictor: Predictor, features: Features) -> "Future[Computed]":
        """Returns what will hold the outputs; where it is cancelled before its turn, nothing is computed."""
        work = Work(predictor, features)
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._waiting.append(work)
            self._changed.notify()
        return work.future

    def close(self) -> None:
        """Computes what waits, and ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            batch = [work for work in batch if work.future.set_running_or_notify_cancel()]
            if batch:
                self._compute(batch)

    def _next(self) -> list[Work]:
        """The requests to compute together, once there are any; none: it is closed, and nothing waits."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            taken: list[Work] = []
            left: deque[Work] = deque()
            room = self._tokens
            for work in self._waiting:
                if not taken or (work.predictor is taken[0].predictor and work.tokens <= room):
                    taken.append(work)
                    room -= work.tokens
                else:
                    left.append(work)
            self._waiting = left
            return taken

    def _compute(self, batch: list[Work]) -> None:
        """Computes a batch. An error there is a defect: each request is told, and the next batch is computed."""
        began, predictor = time.monotonic(), batch[0].predictor
        try:
            outputs = predictor.compute_each([work.features for work in batch])
            seconds = time.monotonic() - began
            self._measures.computed(sum(work.tokens for work in batch), predictor.engine.positions, len(batch), seconds)
        except Exception as error:
            for work in batch:
                work.future.set_exception(error)
            return
        for work, found in zip(batch, outputs, strict=True):
            self._measures.queued.observe(began - work.since)
            work.future.set_result(Computed(found, began - work.since, seconds))
