"""--mode=chat: a conversation with a model in the terminal."""

import sys
from collections.abc import Mapping
from typing import Any

from jaxft.generate.conversing import Talk
from jaxft.generate.options import check_bounds
from jaxft.generate.settings import BEAMS, settled
from jaxft.predict.predictor import Predictor

ASK = "> "
"""What the terminal shows where the user may write."""

LONG = 512
"""Tokens of an answer, at most, where neither the user nor the model's directory says it."""


def chat(workdir: str, adapter: str = "", writing: Mapping[str, Any] | None = None, system: str = "") -> None:
    """Answers each line of standard input, as it is written, until there is none any more or an empty one.

    Args:
      workdir, adapter: see `Predictor.open`.
      writing: how, by name, see `jaxft.generate.options.Options`; others, or all, are as the model's directory says.
      system: a message that the conversation begins with; empty: none.

    Raises:
      UserError: a model that cannot converse, or a conversation longer than it; see `Talk`.
    """
    said = dict(writing or {})
    check_bounds(said)
    predictor = Predictor.open(workdir, adapter)
    talk = Talk(predictor, settled(said, predictor.directory, LONG, without=BEAMS), system)

    def show(text: str) -> None:
        print(text, end="", flush=True)

    def lines() -> str:
        if sys.stdin.isatty():
            show(ASK)
        return sys.stdin.readline().strip()

    try:
        while line := lines():
            talk.reply(line, show)
            show("\n")
    except KeyboardInterrupt:
        show("\n")
