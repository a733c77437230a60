"""What is done with an experiment: it is checked, written as JSON, read again, compared."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from jaxft.config.base import Section, walk
from jaxft.config.experiment import EXTENDABLE, RESUMABLE, Experiment
from jaxft.config.tasks import TASKS
from jaxft.errors import UserError, nearest


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(v, get_args(kind)[0]) for v in value)
    if type(None) in get_args(kind):
        return value is None or _fits(value, get_args(kind)[0])
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def meaning(field: dataclasses.Field) -> str:
    """What the value of a knob must be: `of type int (examples a step, over all devices)`."""
    kind = field.type if get_args(field.type) else getattr(field.type, "__name__", field.type)
    written = ", written a,b or \"('a', 'b')\"" if get_origin(field.type) is tuple else ""
    return f"of type {kind}{written} ({field.metadata['doc']})"


def check_sections(experiment: Experiment) -> None:
    """Verifies that each group of keys is one.

    Raises:
      UserError: naming the group and what it is instead.
    """
    for field in dataclasses.fields(experiment):
        value, kind = getattr(experiment, field.name), field.type
        if "doc" not in field.metadata and not isinstance(value, kind):  # pyright: ignore[reportArgumentType]
            name = getattr(kind, "__name__", kind)
            raise UserError(f"config.{field.name} is a {type(value).__name__}; it must be a {name} of jaxft.config")


def check(experiment: Experiment, data: bool = True) -> Experiment:
    """Verifies types, bounds and choices, then freezes the experiment and returns it.

    Args:
      data: whether the experiment must name its data.

    Raises:
      UserError: naming the key, its value and what it may be.
    """
    check_sections(experiment)
    for key, holder, field in walk(experiment):
        value, meta = getattr(holder, field.name), field.metadata
        if not _fits(value, field.type):
            raise UserError(f"config.{key} is {value!r}; it must be {meaning(field)}")
        if meta["choices"] and value not in meta["choices"]:
            raise UserError(f"config.{key} is {value!r}; {nearest(str(value), meta['choices'])}")
        for bound, ok in (("low", lambda v, b: v >= b), ("high", lambda v, b: v <= b)):
            if value is not None and meta[bound] is not None and not ok(value, meta[bound]):
                word = "at least" if bound == "low" else "at most"
                raise UserError(f"config.{key} is {value}; it must be {word} {meta[bound]} ({meta['doc']})")
    for key, value in (("model.path", experiment.model.path), ("data.source", experiment.data.source)):
        if not value and (data or key != "data.source"):
            raise UserError(f"config.{key} is empty; set it in the config file or by --config.{key}=...")
    if experiment.train.steps == 0 and experiment.train.epochs == 0:
        raise UserError("config.train.steps and config.train.epochs are both 0; set one of them")
    if experiment.model.reinit and experiment.adapt != "full":
        raise UserError(
            f"config.model.reinit is {experiment.model.reinit}, but with adapt={experiment.adapt} layers that begin "
            "anew would not learn, or be in no adapter; use adapt=full"
        )
    if experiment.compute.frozen != "float32" and experiment.adapt in ("full", "mixout"):
        raise UserError(
            f"config.compute.frozen is {experiment.compute.frozen}, but with adapt={experiment.adapt} every "
            "parameter learns, in float32; choose a method that leaves the model as it is (config.adapt=lora), or leave"
            " it at float32"
        )
    experiment.lock()
    return experiment


def to_dict(section: Section) -> dict[str, Any]:
    """The experiment as plain JSON values; a task also says its name."""
    plain = {f.name: getattr(section, f.name) for f in dataclasses.fields(section)}
    kinds: dict[type, str] = {cls: kind for kind, cls in TASKS.items()}
    named = {"kind": kinds[type(section)]} if type(section) in kinds else {}
    return named | {
        k: to_dict(v) if isinstance(v, Section) else list(v) if isinstance(v, tuple) else v for k, v in plain.items()
    }


def from_dict(plain: Mapping[str, Any]) -> Experiment:
    """The inverse of `to_dict`.

    Raises:
      UserError: an unknown key or task (a config.json of another version).
    """

    def build(cls: Any, values: Mapping[str, Any]) -> Any:
        values = dict(values)
        kind = values.pop("kind", None)
        if kind == "masked_lm" and values.pop("next_sentence", False):  # a run of 0.1.0
            kind = "next_sentence"
        if kind is not None:
            if kind not in TASKS:
                raise UserError(f"unknown task {kind!r} in config.json; {nearest(kind, TASKS)}")
            cls = TASKS[kind]
        fields = {f.name: f.type for f in dataclasses.fields(cls)}
        for name in values.keys() - fields.keys():
            raise UserError(f"unknown key {name!r} in config.json; {nearest(name, fields)}")
        return cls(**{
            k: build(fields[k], v) if isinstance(v, Mapping) else tuple(v) if isinstance(v, list) else v
            for k, v in values.items()
        })  # fmt: skip

    return build(Experiment, plain)


def defining(experiment: Experiment) -> dict[str, Any]:
    """The keys that say what is computed, not how, with their values."""
    flat = {
        key: getattr(holder, field.name)
        for key, holder, field in walk(experiment)
        if not field.metadata["since"] or getattr(holder, field.name) != field.default
    }
    return {k: v for k, v in flat.items() if not any(k == r or k.startswith(r + ".") for r in RESUMABLE)}


def differences(a: Experiment, b: Experiment) -> list[str]:
    """The keys, resumable ones left out, in which two experiments differ: `key: VALUE in a, VALUE in b`."""
    keys = {**defining(a), **defining(b)}
    there, here = ({key: getattr(holder, field.name) for key, holder, field in walk(one)} for one in (a, b))
    return [f"{k}: {there.get(k)!r} there, {here.get(k)!r} here" for k in keys if there.get(k) != here.get(k)]


def beyond_length(different: Sequence[str]) -> list[str]:
    """Those of `differences` that are of no key by which a run may be made longer."""
    return [line for line in different if line.partition(":")[0] not in EXTENDABLE]
