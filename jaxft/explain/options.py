"""How to explain: the methods there are, and what a user says of them."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from jaxft.errors import UserError, nearest
from jaxft.explain.targets import listed
from jaxft.explain.units import UNITS

MOST_EXACT = 12
"""Units of which all coalitions are computed, at most: 4,096 passes."""

MOST_WAYS = 1 << 15
"""Ways of adding units of a hierarchy, at most: of 128 units that phrases do not cut unevenly."""

FEW = 8
"""Units up to which `shap` computes all coalitions by itself: 256 passes."""


class Method(NamedTuple):
    """A method, as it is asked for and described.

    Attributes:
      title: what a page calls it.
      baselines: what may stand in the place of a word, the default first.
      samples: steps, draws, samples or pairs of orders, where none are asked for; 0: it has none.
      least: of them.
      gradient: whether it needs the gradient of a model that jax computes.
      adds: whether what units have adds up to the output less that of the baseline.
      draws: whether another seed gives other numbers.
      attention: whether it reads the model's attention: no explanation by itself.
    """

    title: str
    baselines: tuple[str, ...]
    samples: int = 0
    least: int = 1
    gradient: bool = False
    adds: bool = False
    draws: bool = False
    attention: bool = False


TOKENS = ("mask", "pad", "delete")

METHODS: Mapping[str, Method] = {
    "integrated_gradients": Method("Integrated gradients", ("pad", "mask"), 32, gradient=True, adds=True),
    "gradient_x_input": Method("Gradient x input", ("zero",), gradient=True),
    "smoothgrad": Method("SmoothGrad x input", ("zero",), 32, gradient=True, draws=True),
    "occlusion": Method("Occlusion", TOKENS),
    "leave_one_out": Method("Leave one out", ("delete",)),
    "lime": Method("LIME", ("delete", "mask", "pad"), 500, least=2, draws=True),
    "shap": Method("SHAP", TOKENS, 16, least=2, adds=True, draws=True),
    "exact_shap": Method("SHAP, exact", TOKENS, adds=True),
    "partition_shap": Method("SHAP, partition", TOKENS, adds=True),
    "attention_rollout": Method("Attention rollout", ("none",), attention=True),
    "attcat": Method("AttCAT", ("none",), attention=True),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user says.

    Attributes:
      method: one of `METHODS`.
      target: the name of a label, several with commas, or "all"; empty: the label that is predicted, or all of them.
        Of tags: those that are predicted so are explained; WORD=TAG: a tag of a word; empty: the tags of all entities.
        Of an answer to a question: "start" or "end"; empty: both. Of a language model: words; empty: the best guess.
      units: what gets a number, one of `units.UNITS`.
      baseline: what stands in the place of a word: "pad", "mask", "zero", "delete" or "none"; empty: the method's own.
      samples: of the method, see `Method`; 0: its own.
      seed: of what is drawn at random.
      faithfulness: whether to measure that the words found matter; see `jaxft.explain.faithfulness`.
      agreement: methods, set off by commas, whose order of the units is compared; see `jaxft.explain.agreement`.
      counterfactuals: a masked language model by whose words others are replaced until the answer changes, see
        `jaxft.explain.counterfactual`; empty: none.
      examples: training rows for each target and against it, see `jaxft.explain.influence`; 0: none.
    """

    method: str = "integrated_gradients"
    target: str = ""
    units: str = "words"
    baseline: str = ""
    samples: int = 0
    seed: int = 0
    faithfulness: bool = False
    examples: int = 0
    counterfactuals: str = ""
    agreement: str = ""

    def check(self) -> "Options":
        """Returns the same with the method's own baseline and samples where none are said.

        Raises:
          UserError: a method, units or a baseline that there is not, too few samples or examples, or what does not go
        together.
        """
        if self.method not in METHODS:
            raise UserError(f"explain.method {self.method!r}: there is no such method; {nearest(self.method, METHODS)}")
        if self.units not in UNITS:
            raise UserError(f"explain.units {self.units!r}: there are no such units; {nearest(self.units, UNITS)}")
        for name in listed(self.agreement):
            if name not in METHODS:
                raise UserError(f"explain.agreement {name!r}: there is no such method; {nearest(name, METHODS)}")
        method = METHODS[self.method]
        baseline = self.baseline or method.baselines[0]
        if baseline not in method.baselines:
            known = " or ".join(method.baselines)
            raise UserError(f"explain.baseline {baseline!r}: {self.method} has {known}; take that")
        if self.samples and not method.samples:
            raise UserError(f"explain.samples is {self.samples}, but {self.method} draws no samples; leave it out")
        samples = self.samples or method.samples
        if samples < method.least and method.samples:
            raise UserError(f"explain.samples is {samples}; {self.method} needs {method.least} or more")
        if self.counterfactuals and self.units != "words":
            raise UserError(f"explain.counterfactuals changes words, and explain.units is {self.units}; take words")
        if self.examples < 0:
            raise UserError(f"explain.examples is {self.examples}; it is a number of training rows, 0 or more")
        return dataclasses.replace(self, baseline=baseline, samples=samples)
