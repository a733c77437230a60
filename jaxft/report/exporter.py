"""What Prometheus reads of a run that trains; docs/runs.md lists it."""

import time
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from jaxft.report.watch import Watch

LABELS = ("run", "model", "task", "version")
"""What `jaxft_train_info` says of the run, of `Watch.info`."""

LOGGED = {
    "loss": "mean of the finite steps of the log's newest interval",
    "grad_norm": "norm of the gradient, the same mean",
    "learning_rate": "of the interval's last step",
    "examples_per_second": "examples a second in the interval",
    "real_tokens_per_second": "tokens a second in the interval, without padding",
    "model_flops_utilization": "share of the devices' peak arithmetic that was used",
}
"""Name of a value of training's log -> what it is; `jaxft_train_NAME` to Prometheus."""


class Exporter(Collector):
    """Makes Prometheus' metrics of what a run says of itself, each time that they are asked for."""

    def __init__(self, watch: Watch):
        """With a registry of its own."""
        self._watch = watch
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yields every metric; one of which nothing is known yet has no sample."""
        watch = self._watch
        info = GaugeMetricFamily("jaxft_train_info", "1 of the run", labels=LABELS)
        if watch.info:
            info.add_metric([watch.info.get(name, "") for name in LABELS], 1)
        yield info
        begun, step, per_epoch = bool(watch.info), watch.step(), watch.steps_per_epoch
        yield _gauge("step", "steps given to the device", step if begun else None)
        yield _gauge("steps", "number of the last step", watch.steps if begun else None)
        yield _gauge("epoch", "passes over the training data", step / per_epoch if begun and per_epoch else None)
        since = time.monotonic() - watch.stepped if begun else None
        yield _gauge("seconds_since_step", "seconds since a step was given to the device, or the run began", since)
        values, evaluations = watch.values, watch.evaluations
        for name, meaning in LOGGED.items():
            yield _gauge(name, meaning, values.get(name))
        yield CounterMetricFamily("jaxft_train_skipped", "updates left out: not finite", value=values.get("skipped"))
        evaluated = GaugeMetricFamily("jaxft_train_evaluation", "newest metrics by split", labels=("split", "metric"))
        for split, found in evaluations.items():
            for name, value in found.items():
                evaluated.add_metric([split, name], value)
        yield evaluated

    def serve(self, host: str, port: int) -> Any:
        """Answers at a port from threads of its own, until `shutdown` and `server_close` of what it returns.

        Raises:
          OSError, OverflowError: it cannot listen there.
        """
        return start_http_server(port, host, self.registry)[0]


def _gauge(name: str, meaning: str, value: float | None) -> Metric:
    return GaugeMetricFamily(f"jaxft_train_{name}", meaning, value=value)
