"""What training makes small beside the task's loss: the knobs of transforms of the objective and of its gradient."""

# No `from __future__ import annotations`: config_flags reads the fields' types, which must not be strings.
from dataclasses import dataclass

from jaxft.config.base import Section, knob


@dataclass(kw_only=True)
class Objective(Section):
    """Distillation, regularizers and adversarial training; see docs/objectives.md."""

    teacher: tuple[str, ...] = knob(
        (),
        "runs, or directories of models trained for the task, whose answers (the mean of theirs) the model learns to "
        "give; empty: off",
        since="0.2.0",
    )
    distill: float = knob(
        0.5, "weight of what teachers say; the labels' is 1 less it; 0: off", low=0, high=1, since="0.2.0"
    )
    temperature: float = knob(
        2.0, "of teachers' and model's distributions while they are compared", low=0.01, since="0.2.0"
    )
    hidden: float = knob(
        0.0,
        "weight of the distance of hidden states from the teacher's, as TinyBERT has it; where these are of another "
        "width a matrix between them is learned; 0: off",
        low=0,
        since="0.2.0",
    )
    attention: float = knob(
        0.0,
        "weight of the distance of attention's scores from the teacher's, as TinyBERT has it; 0: off",
        low=0,
        since="0.2.0",
    )
    relations: float = knob(
        0.0,
        "weight of the distance of relations among queries, keys and values from the teacher's, as MiniLMv2 has it, of "
        "the last of `layers`; for a teacher of any width; 0: off",
        low=0,
        since="0.2.0",
    )
    relation_heads: int = knob(
        0,
        "parts that queries, keys and values are split into there; 0: as many as the model has heads",
        low=0,
        since="0.2.0",
    )
    layers: tuple[str, ...] = knob(
        (),
        "which layers are to be as which of the teacher's, the lowest is 1: 1:2,2:4,3:6; empty: each, evenly over its",
        since="0.2.0",
    )
    teacher_width: int = knob(
        0, "numbers of a query of the teacher, all heads together; 0: read from it", low=0, since="0.2.0"
    )
    uda: float = knob(
        0.0,
        "weight of UDA: texts of data.unlabelled and their copies with a few words changed (data.augment_share) are to "
        "be answered alike; 0: off",
        low=0,
        since="0.2.0",
    )
    uda_confidence: float = knob(
        0.8, "of a text's likeliest class, from which on its copy learns its answer", low=0, high=1, since="0.2.0"
    )
    uda_temperature: float = knob(
        0.4, "by which a text's answer is sharpened before its copy learns it; 1: as it is", low=0.01, since="0.2.0"
    )
    teacher_hidden: int = knob(
        0, "numbers of a hidden state of the teacher, for `hidden`; 0: read from it", low=0, since="0.2.0"
    )
    r_drop: float = knob(
        0.0,
        "weight of R-Drop: two passes with other dropout masks must agree; twice the work; 0: off",
        low=0,
        since="0.2.0",
    )
    neftune: float = knob(
        0.0, "alpha of noise on the word embeddings, alpha / sqrt(tokens x width) at most; 0: off", low=0, since="0.2.0"
    )
    sam: float = knob(
        0.0,
        "rho of SAM: the gradient is that of parameters moved so far up the loss; twice the work; 0: off",
        low=0,
        since="0.2.0",
    )
    adversarial: str = knob(
        "",
        "the loss of embeddings that were moved where it grows is added: fgm (one step there), pgd (several steps "
        "within the radius), freelb (the mean over the steps); or how far answers go apart there, whatever the label: "
        "smart, vat; empty: off",
        choices=("", "fgm", "pgd", "freelb", "smart", "vat"),
        since="0.2.0",
    )
    adversarial_weight: float = knob(1.0, "of that loss beside the clean one; 0: off", low=0, since="0.2.0")
    adversarial_radius: float = knob(
        1.0, "largest norm of what is added to all embeddings of an example; 0: off", low=0, since="0.2.0"
    )
    adversarial_steps: int = knob(3, "of all but fgm; each costs one more pass", low=1, since="0.2.0")
    adversarial_step: float = knob(
        0.3,
        "norm of a step of pgd, freelb and smart; of vat how far off it looks for the worst direction",
        low=0,
        since="0.2.0",
    )
