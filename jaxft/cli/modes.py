"""What each `--mode` does, and with which flags."""

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from absl import flags, logging

from jaxft.cli.ending import EXIT_FAILED, EXIT_PREEMPTED
from jaxft.errors import UserError

STARTED = time.time()
"""When the command line began: it imports this file, and nothing else does."""


class Mode(NamedTuple):
    """What `--mode=NAME` does.

    Attributes:
      run: does it, and returns the exit code.
      needs: the flags that it cannot do without, those of `arguments.MISSING`.
      uses: those that it can do without, beside those of all modes.
    """

    run: Callable[[flags.FlagValues], int]
    needs: tuple[str, ...]
    uses: tuple[str, ...] = ()

    @property
    def flags(self) -> tuple[str, ...]:
        return self.needs + self.uses


def _together(run: Callable[[Any, flags.FlagValues], object]) -> Callable[[flags.FlagValues], int]:
    """Returns what calls `run(jaxft.modes, values)` in each of the processes of a run, once they have met."""

    def started(values: flags.FlagValues) -> int:
        from jaxft.devices import distributed  # jax and all that follows: not needed for --help or a misspelt flag

        distributed.initialize(
            values.coordinator,
            values.processes,
            values.process,
            start_timeout=values.start_timeout,
            heartbeat_timeout=values.heartbeat_timeout,
            preemptible=values.mode in ("train", "crossfit", "pate", "setfit"),
        )
        logging.use_absl_handler()
        logging.set_verbosity(logging.FATAL)  # what orbax logs as an error, with pages of traceback, it raises as well
        from jaxft import modes
        from jaxft.modes import shared
        from jaxft.train.loop import Preempted

        shared.began.set(STARTED)
        try:
            run(modes, values)
        except Preempted as stopped:
            distributed.say(str(stopped))
            return EXIT_PREEMPTED
        except Exception as error:
            if values.debug or not distributed.lost(error):
                raise
            print(f"error: {distributed.PEER_LOST} ({str(error).splitlines()[0][:200]})", file=sys.stderr)
            distributed.leave(EXIT_FAILED)
            return EXIT_FAILED
        return 0

    return started


def _names(listed: str) -> list[str]:
    """Returns the names in a list that is set off by commas."""
    return [name.strip() for name in listed.split(",") if name.strip()]


def _plan(values: flags.FlagValues) -> int:
    """Alone, whatever processes a run would have: the devices that it plans for are not here."""
    if "://" in (values.workdir or ""):
        raise UserError(f"--workdir {values.workdir}: a plan is written to a folder of this machine; give one")
    from jaxft.plan import topology

    topology.start(values.topology)
    from jaxft.plan import mode

    how = {name: bool(values[f"plan.{name}"].value) for name in ("exact", "search")}
    mode.plan(values.config, values.topology, values.workdir or "", **how)
    return 0


LIMITS = ("tokens", "body", "texts", "characters", "request_tokens", "queue", "seconds", "log_texts")
"""The flags `--serve.NAME`, those of `jaxft.serve.limits.Limits`."""

SERVE = ("host", "port", "adapters", "engine", "runs", *(f"serve.{name}" for name in LIMITS))


def _serve(modes: Any, values: flags.FlagValues) -> None:
    from jaxft.serve.limits import Limits

    given: dict[str, Any] = {name: values[f"serve.{name}"].value for name in LIMITS}
    limits = Limits(**given)
    modes.serve(values.workdir, values.host, values.port, values.adapters, limits, values.engine, _names(values.runs))


EXPLAIN = (
    *("method", "target", "units", "baseline", "samples", "seed", "faithfulness", "agreement", "examples"),
    "counterfactuals",
)
"""The flags `--explain.NAME`, those of `jaxft.explain.options.Options`."""


def _explain(modes: Any, values: flags.FlagValues) -> None:
    from jaxft.explain.options import Options

    given: dict[str, Any] = {name: values[f"explain.{name}"].value for name in EXPLAIN}
    modes.explain(values.workdir, values.input, values.output, values.adapter, Options(**given))


GENERATE = (
    *("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram", "beams"),
    *("length_penalty", "stop", "answers", "seed", "rows"),
)
"""The flags `--generate.NAME`, those of `jaxft.generate.options.Options`."""

ONE_ANSWER = tuple(f"generate.{name}" for name in GENERATE if name != "answers")
"""Those of modes that have one answer to each prompt."""


def _said(values: flags.FlagValues) -> dict[str, Any]:
    """Returns the options that flags say, by name; a length of 0 says nothing."""
    from jaxft.generate.options import words_of

    found: dict[str, Any] = {
        name: values[f"generate.{name}"].value for name in GENERATE if values[f"generate.{name}"].present
    }
    if not found.get("max_new_tokens"):
        found.pop("max_new_tokens", None)
    return {**found, "stop": words_of(found["stop"])} if "stop" in found else found


def _written(values: flags.FlagValues) -> dict[str, Any] | None:
    """Returns the options by which texts are written, as flags say them; None: none are."""
    found = _said(values)
    if found and "max_new_tokens" not in found:
        raise UserError(
            f"--generate.{next(iter(found))} says how to write; give --generate.max_new_tokens, of an answer at most, "
            "too"
        )
    return found or None


ATTACK = ("methods", "words", "candidates", "rows", "seed")
"""The flags `--attack.NAME`, those of `jaxft.attack.options.Options`."""


def _attack(modes: Any, values: flags.FlagValues) -> None:
    from jaxft.attack.options import Options

    given: dict[str, Any] = {name: values[f"attack.{name}"].value for name in ATTACK}
    modes.attack(values.workdir, values.input or "", values.output, Options(**given))


PATE = ("teachers", "sigma", "delta")
"""The flags `--pate.NAME`, those of `jaxft.modes.voting.Options`."""


def _pate(modes: Any, values: flags.FlagValues) -> None:
    from jaxft.modes.voting import Options

    given: dict[str, Any] = {name: values[f"pate.{name}"].value for name in PATE}
    modes.pate(values.config, values.workdir, values.input, Options(**given))


SETFIT = ("pairs", "head_epochs", "head_rate")
"""The flags `--setfit.NAME`, those of `jaxft.modes.pairing.Options`."""


def _setfit(modes: Any, values: flags.FlagValues) -> None:
    from jaxft.modes.pairing import Options

    given: dict[str, Any] = {name: values[f"setfit.{name}"].value for name in SETFIT}
    modes.setfit(values.config, values.workdir, Options(**given))


def _train(modes: Any, values: flags.FlagValues) -> None:
    how = {name: values[name].value for name in ("overwrite", "extend", "profile")}
    with modes.watch(values.metrics_port, values.host):
        modes.train(values.config, values.workdir, **how)


def _evaluate(modes: Any, values: flags.FlagValues) -> None:
    how = {"inputs": values.input or "", "engine": values.engine, "runs": _names(values.runs)}
    how["intervals"], groups = values["evaluate.intervals"].value, values["evaluate.groups"].value
    writing, reference = _written(values), values["generate.reference"].value
    metric = values["generate.metric"].value
    if not values.compare:
        if values.output:
            raise UserError("--output is for what --compare finds; give another run by --compare, or leave it out")
        modes.evaluate(values.workdir, groups=groups, writing=writing, reference=reference, metric=metric, **how)
        return
    if groups or writing or reference or metric:
        given = {"evaluate.groups": groups, "generate.max_new_tokens": writing, "generate.reference": reference}
        flag = next((name for name, value in given.items() if value), "generate.metric")
        raise UserError(f"--{flag} is not used with --compare; leave one of them out")
    modes.compare(values.workdir, values.compare, output=values.output, **how)


MODES = {
    "train": Mode(
        _together(_train),
        needs=("workdir", "config"),
        uses=("overwrite", "extend", "profile", "metrics_port", "host"),
    ),
    "evaluate": Mode(
        _together(_evaluate),
        needs=("workdir",),
        uses=(
            *("input", "output", "engine", "runs", "compare", "evaluate.intervals", "evaluate.groups"),
            *("generate.reference", "generate.metric", *ONE_ANSWER),
        ),
    ),
    "predict": Mode(
        _together(
            lambda modes, given: modes.predict(
                given.workdir,
                given.input,
                given.output,
                given.adapter,
                engine=given.engine,
                runs=_names(given.runs),
                writing=_written(given),
                dropout=given["predict.dropout"].value,
            )
        ),
        needs=("workdir", "input"),
        uses=("output", "adapter", "engine", "runs", "predict.dropout", *(f"generate.{name}" for name in GENERATE)),
    ),
    "explain": Mode(
        _together(_explain),
        needs=("workdir", "input"),
        uses=("output", "adapter", *(f"explain.{name}" for name in EXPLAIN)),
    ),
    "export": Mode(
        _together(
            lambda modes, given: modes.export(
                given.workdir, _names(given.format), inputs=given.input or "", max_loss=given.max_loss
            )
        ),
        needs=("workdir",),
        uses=("format", "input", "max_loss"),
    ),
    "chat": Mode(
        _together(
            lambda modes, given: modes.chat(given.workdir, given.adapter, _said(given), given["chat.system"].value)
        ),
        needs=("workdir",),
        uses=("adapter", "chat.system", *ONE_ANSWER),
    ),
    "calibrate": Mode(
        _together(
            lambda modes, given: modes.calibrate(
                given.workdir,
                inputs=given.input or "",
                coverage=given["calibrate.coverage"].value,
                sets=given["calibrate.sets"].value,
                engine=given.engine,
                distance=given["calibrate.distance"].value,
            )
        ),
        needs=("workdir",),
        uses=("input", "engine", "calibrate.coverage", "calibrate.sets", "calibrate.distance"),
    ),
    "attack": Mode(
        _together(_attack),
        needs=("workdir",),
        uses=("input", "output", *(f"attack.{name}" for name in ATTACK)),
    ),
    "audit": Mode(
        _together(
            lambda modes, given: modes.audit(
                given.workdir,
                given.input or "",
                given.output,
                crossfit=given["audit.crossfit"].value,
                canaries=given["audit.canaries"].value,
            )
        ),
        needs=("workdir",),
        uses=("input", "output", "audit.crossfit", "audit.canaries"),
    ),
    "serve": Mode(_together(lambda modes, given: _serve(modes, given)), needs=("workdir",), uses=SERVE),
    "compress": Mode(
        _together(
            lambda modes, given: modes.compress(
                given.workdir,
                given.output,
                layers=given["compress.layers"].value,
                inner=given["compress.inner"].value,
                words=given["compress.words"].value,
                inputs=given.input or "",
            )
        ),
        needs=("workdir", "output"),
        uses=("input", "compress.layers", "compress.inner", "compress.words"),
    ),
    "soup": Mode(
        _together(
            lambda modes, given: modes.soup(
                given.workdir, _names(given.runs), given.output, given["soup.how"].value, inputs=given.input or ""
            )
        ),
        needs=("workdir", "runs", "output"),
        uses=("input", "soup.how"),
    ),
    "crossfit": Mode(
        _together(lambda modes, given: modes.crossfit(given.config, given.workdir, given["crossfit.folds"].value)),
        needs=("workdir", "config"),
        uses=("crossfit.folds",),
    ),
    "pate": Mode(_together(_pate), needs=("workdir", "config", "input"), uses=tuple(f"pate.{name}" for name in PATE)),
    "setfit": Mode(_together(_setfit), needs=("workdir", "config"), uses=tuple(f"setfit.{name}" for name in SETFIT)),
    "inspect": Mode(
        _together(lambda modes, given: modes.inspect(given.config, given.workdir, given.draw)),
        needs=(),
        uses=("config", "workdir", "draw"),
    ),
    "plan": Mode(_plan, needs=("config",), uses=("workdir", "topology", "plan.search", "plan.exact")),
}
