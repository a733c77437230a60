"""What Prometheus reads of a service; docs/serve.md lists it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

import jaxft

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TOKENS = tuple(float(1 << n) for n in range(2, 17))
TOGETHER = tuple(float(1 << n) for n in range(9))
SHARES = tuple(n / 10 for n in range(1, 11))


class Measures:
    """The counts of one service, in a registry of its own. Any thread may add to them."""

    def __init__(self) -> None:
        """All at zero."""
        self.registry = own = CollectorRegistry()
        seconds: dict[str, Any] = {"buckets": SECONDS, "registry": own}
        self.ready = Gauge("jaxft_ready", "1 while new requests are welcome", registry=own)
        self.waiting = Gauge("jaxft_queue_texts", "texts that wait or are computed", registry=own)
        self.limit = Gauge("jaxft_queue_limit_texts", "texts that may wait or be computed", registry=own)
        self.requests = Counter(
            "jaxft_requests", "requests by route and HTTP status", ["route", "status"], registry=own
        )
        self.total = Histogram("jaxft_request_seconds", "from a request to its answer", ["route"], **seconds)
        self.tokenize = Histogram("jaxft_tokenize_seconds", "reading and tokenizing a request", **seconds)
        self.queued = Histogram("jaxft_queue_seconds", "tokenized, and waiting for its turn", **seconds)
        self._compute = Histogram("jaxft_compute_seconds", "a batch on the device", **seconds)
        self._tokens = Histogram("jaxft_batch_tokens", "tokens of a batch", buckets=TOKENS, registry=own)
        self._fill = Histogram("jaxft_batch_fill", "share of a batch that is no padding", buckets=SHARES, registry=own)
        self._together = Histogram("jaxft_batch_requests", "requests of a batch", buckets=TOGETHER, registry=own)
        self._texts = Counter("jaxft_texts", "texts or rows answered", ["model"], registry=own)
        self._cut = Counter("jaxft_texts_cut", "texts of which a part was cut off", ["model"], registry=own)
        self._lengths = Histogram(
            "jaxft_example_tokens", "tokens of an example", ["model"], buckets=TOKENS, registry=own
        )
        self._classes = Counter("jaxft_predictions", "predicted classes", ["model", "label"], registry=own)
        self._info = Gauge("jaxft_model_info", "1 for each model", ["model", "task", "version"], registry=own)

    def begin(self, model: str, task: str, labels: Sequence[str]) -> None:
        """Says that a model is served, and that none of its classes has been predicted yet."""
        self._info.labels(model, task, jaxft.__version__).set(1)
        self._texts.labels(model)
        self._cut.labels(model)
        self._lengths.labels(model)
        for name in classes_of(labels):
            self._classes.labels(model, name)

    def computed(self, tokens: int, positions: int, requests: int, seconds: float) -> None:
        """Counts a batch; its positions are its tokens and padding."""
        self._tokens.observe(tokens)
        self._fill.observe(tokens / max(positions, 1))
        self._together.observe(requests)
        self._compute.observe(seconds)

    def answered(
        self, model: str, lengths: Sequence[int], cut: int, answers: Sequence[Mapping[str, Any]], labels: Sequence[str]
    ) -> None:
        """Counts the answers to one request.

        Args:
          lengths: tokens of each example.
          cut: how many texts were cut.
          labels: the model's; what is predicted beside them (texts, say) is not counted.
        """
        self._texts.labels(model).inc(len(answers))
        self._cut.labels(model).inc(cut)
        for length in lengths:
            self._lengths.labels(model).observe(length)
        known = classes_of(labels)
        for answer in answers:
            for name in predicted(answer):
                if name in known:
                    self._classes.labels(model, name).inc()

    def page(self, accept: str) -> tuple[bytes, str]:
        """Returns the counts in the format that a request accepts, Prometheus' own or OpenMetrics, and its type."""
        encode, kind = choose_encoder(accept)
        return encode(self.registry), kind


def classes_of(labels: Sequence[str]) -> frozenset[str]:
    """Returns the classes that are counted: the labels, and of tags such as B-PER the entities."""
    return frozenset({*labels, *(label[2:] for label in labels if label[1:2] == "-")})


def predicted(answer: Mapping[str, Any]) -> Iterator[str]:
    """Yields the classes of an answer: its label or labels, the labels of its entities, or the tags of its words."""
    if "entities" in answer:
        yield from (entity["label"] for entity in answer["entities"])
        return
    found = answer.get("prediction")
    if isinstance(found, str):
        yield found
    elif isinstance(found, list):
        yield from (name for name in found if isinstance(name, str))
