"""Every knob of an experiment: its name, type, default, meaning and bounds.

A config file returns an `Experiment`; `--config.section.key=value` changes it (ml_collections.config_flags sets the
attributes), then `check` verifies it and freezes it. Nothing here imports more than the standard library.
"""

from jaxft.config.adapt import IA3, METHODS, AdaLora, Adapter, Freeze, Lora, Mixout, Prefix, Prompt
from jaxft.config.base import Section, keys, knob, walk
from jaxft.config.checks import (
    beyond_length,
    check,
    check_sections,
    defining,
    differences,
    from_dict,
    meaning,
    to_dict,
)
from jaxft.config.experiment import EXTENDABLE, RESUMABLE, Compute, Data, Experiment, Mesh, Model, Optimizer, Train
from jaxft.config.files import load
from jaxft.config.objective import Objective
from jaxft.config.tasks import (
    TASKS,
    Assistant,
    CausalLM,
    Chat,
    Classification,
    MaskedLM,
    MultipleChoice,
    NextSentence,
    Preference,
    QuestionAnswering,
    SentenceEmbedding,
    SequenceClassification,
    Task,
    TokenClassification,
)

__all__ = [
    "EXTENDABLE", "IA3", "METHODS", "RESUMABLE", "TASKS", "AdaLora", "Adapter", "Assistant", "CausalLM", "Chat",
    "Classification", "Compute", "Data", "Experiment", "Freeze", "Lora", "MaskedLM", "Mesh", "Mixout", "Model",
    "MultipleChoice", "NextSentence", "Objective", "Optimizer", "Preference", "Prefix", "Prompt", "QuestionAnswering",
    "Section", "SentenceEmbedding", "SequenceClassification", "Task", "TokenClassification", "Train", "beyond_length",
    "check", "check_sections", "defining", "differences", "from_dict", "keys", "knob", "load", "meaning", "to_dict",
    "walk",
]  # fmt: skip
