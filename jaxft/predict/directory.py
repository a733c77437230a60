"""What a Hugging Face directory says of the task that its model was trained on."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxft import config, hub
from jaxft.data import tags
from jaxft.errors import UserError
from jaxft.hub.directory import read_json_objects
from jaxft.job import Body

Options = dict[str, Any]

PROBLEMS = {
    "regression": "regression",
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
}
"""`problem_type` of config.json -> `config.task.problem`."""


def experiment(path: str, task: config.Task | None = None) -> config.Experiment:
    """Returns an experiment that predicts with the model of a directory (or of a Hub name), as it is there.

    Inputs are cut where the model's positions end, as the Hugging Face library does by itself, or read in the windows
    that the model was trained on.

    Args:
      task: says which columns are read; what the directory knows (labels, what they are) goes before what it says.

    Raises:
      UserError: it is no model's directory, or its config.json does not say which task it is.
    """
    model = config.Model(path=path)
    body = Body.of(model, 0)
    options = task_of(body.hf, body.directory, task)
    length = _windows(body.hf).get("max_length", body.model.facts.longest)
    return config.check(config.Experiment(model=model, task=options, data=config.Data(max_length=length)), data=False)


def task_of(hf: Mapping[str, Any], directory: Path, task: config.Task | None = None) -> config.Task:
    """Returns the options of the task that `architectures` of a config.json names.

    Raises:
      UserError: it names none, or another one than `task`, or a part of it cannot be told.
    """
    names = hf.get("architectures") or ["no class"]
    where = f"{directory}/config.json: architectures names {', '.join(map(str, names))}"
    pooled = (directory / "1_Pooling" / "config.json").exists()
    for ending, (kind, known) in KINDS.items():
        # Decoders that embed texts (Qwen3-Embedding) are called by the class that they were trained as at first.
        if str(names[0]).endswith(ending) and not (pooled and kind is config.CausalLM):
            if isinstance(task, ALIKE.get(kind, ())):
                return task
            if task is not None and type(task) is not kind:
                raise UserError(f"{where}, the class of {kind.__name__}; task is a {type(task).__name__}")
            return dataclasses.replace(task or kind(), **known(hf, directory))
    if isinstance(task, config.SentenceEmbedding):
        return dataclasses.replace(task, **_cut(hf))
    if pooled:
        return _embedding(hf, directory)
    raise UserError(
        f"{where}, which answers nothing by itself; give the folder of a run or the directory of a trained model "
        f"({', '.join(KINDS)})"
    )


def _texts(hf: Mapping[str, Any], directory: Path) -> Options:
    names = _labels(hf, directory)
    problem = PROBLEMS.get(hf.get("problem_type") or "", "regression" if len(names) == 1 else "single_label")
    cut = _cut(hf)
    names = names[:-1] if cut.get("windows") == "attention" else names  # the last one weighs windows
    return {"labels": () if problem == "regression" else names, "problem": problem} | cut


def _windows(hf: Mapping[str, Any]) -> Options:
    """How long texts are cut and put together again, as an export of jaxft says it; empty: they are not."""
    found = hf.get("windows")
    return found if isinstance(found, dict) and {"combine", "stride", "max_length"} <= found.keys() else {}


def _cut(hf: Mapping[str, Any]) -> Options:
    """The same as options of a task."""
    return {"windows": found["combine"], "stride": found["stride"]} if (found := _windows(hf)) else {}


def _words(hf: Mapping[str, Any], directory: Path) -> Options:
    names = _labels(hf, directory)
    entities = tags.some_entity(names)
    return {"labels": names, "problem": "entities" if entities else "words"}


def _answers(hf: Mapping[str, Any], directory: Path) -> Options:
    """A threshold is there where validation had questions without an answer."""
    return {"unanswerable": "yes" if "no_answer" in hf.get("thresholds", {}) else "no"}


def _nothing(hf: Mapping[str, Any], directory: Path) -> Options:
    return {}


KINDS: dict[str, tuple[type[config.Task], Callable[[Mapping[str, Any], Path], Options]]] = {
    "ForSequenceClassification": (config.SequenceClassification, _texts),
    "ForTokenClassification": (config.TokenClassification, _words),
    "ForQuestionAnswering": (config.QuestionAnswering, _answers),
    "ForMaskedLM": (config.MaskedLM, _nothing),
    "ForPreTraining": (config.NextSentence, _nothing),
    **dict.fromkeys(("ForCausalLM", "LMHeadModel"), (config.CausalLM, _nothing)),
    "ForMultipleChoice": (config.MultipleChoice, _nothing),
}
"""End of a Hugging Face class's name -> the task, and what config.json says of it."""

ALIKE: dict[type[config.Task], type[config.Task]] = {config.CausalLM: config.Assistant}
"""A task -> others whose models are of the same class."""


def _labels(hf: Mapping[str, Any], directory: Path) -> tuple[str, ...]:
    """The names in the order of their ids."""
    named = hf.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})  # what transformers supposes
    if not isinstance(named, Mapping) or sorted(map(str, named)) != sorted(map(str, range(len(named)))):
        raise UserError(f"{directory}/config.json: id2label must name each class: 0, 1, ...; it is {named!r}")
    return tuple(str(name) for _, name in sorted((int(number), name) for number, name in named.items()))


MODULES = ("Transformer", "Pooling", "Normalize")
"""Classes of sentence-transformers that are computed here."""


def _embedding(hf: Mapping[str, Any], directory: Path) -> config.SentenceEmbedding:
    """What a directory of sentence-transformers says of its pooling, and its config.json of windows."""
    listed = directory / "modules.json"
    for one in read_json_objects(listed) if listed.exists() else []:
        kind = str(one.get("type")).rpartition(".")[2]
        if kind not in MODULES:
            raise UserError(
                f"{listed}: a module {kind} stands behind the pooling, which is not computed here; models of "
                f"{', '.join(MODULES)} alone are"
            )
    file = directory / "1_Pooling" / "config.json"
    modes = {key.removeprefix("pooling_mode_") for key, on in hub.read_json(file).items() if on is True}
    known = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last"}
    modes &= {*known, "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens"}
    if len(modes) != 1 or not modes <= known.keys():
        raise UserError(
            f"{file}: pooling by {', '.join(sorted(modes)) or 'nothing'}; it must be one of {', '.join(known)}"
        )
    return config.SentenceEmbedding(pooling=known[modes.pop()], **_cut(hf))
