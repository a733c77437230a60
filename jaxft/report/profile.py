"""--profile: a trace of a few training steps, for TensorBoard and Perfetto (docs/profiling.md)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax

Step = TypeVar("Step", bound=Callable[..., Any])

BEFORE = 5
"""Steps before the trace begins: the first ones wait for what is compiled, and fill the pipeline."""


@contextmanager
def tracing(folder: Path, count: int, ready: Callable[[], object]) -> Iterator[Callable[[Step], Step]]:
    """Makes what wraps a training step so that `count` of its calls are traced, the first `BEFORE` left out.

    Before and after them it waits for the device: the trace holds these steps whole, and nothing else. It ends early
    where the run does.

    Args:
      folder: where `plugins/profile/TIME/` is written.
      count: 0: no trace.
      ready: returns once nothing is being compiled any more.
    """
    trace = _Trace(folder, count, ready)
    try:
        yield trace.around if count else lambda step: step
    finally:
        trace.end()


class _Trace:
    def __init__(self, folder: Path, count: int, ready: Callable[[], object]):
        self._folder, self._count, self._ready = folder, count, ready
        self._called, self._running = 0, False

    def around(self, step: Callable[..., Any]) -> Any:
        def traced(state: Any, batch: Any) -> Any:
            if self._called == BEFORE:
                self._ready()
                jax.block_until_ready(state)
                jax.profiler.start_trace(self._folder, create_perfetto_trace=True, profiler_options=_options())
                self._running = True
            with jax.profiler.StepTraceAnnotation("train", step_num=self._called):
                result = step(state, batch)
            self._called += 1
            if self._called == BEFORE + self._count:
                jax.block_until_ready(result)
                self.end()
            return result

        return traced

    def end(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False


def _options() -> jax.profiler.ProfileOptions:
    """What XLA and the runtime do, and not each call of a Python function, which would be all that one sees."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    return options
