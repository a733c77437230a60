"""--mode=chat: a conversation with a model in the terminal."""

import sys

from jaxft.generate.conversing import Talk
from jaxft.generate.options import Options
from jaxft.predict.predictor import Predictor

ASK = "> "
"""What the terminal shows where the user may write."""


def chat(workdir: str, adapter: str = "", options: Options | None = None, system: str = "") -> None:
    """Answers each line of standard input, as it is written, until there is none any more or an empty one.

    Args:
      workdir, adapter: see `Predictor.open`.
      options: how to write; None: the defaults.
      system: a message that the conversation begins with; empty: none.

    Raises:
      UserError: a model that cannot converse, or a conversation longer than it; see `Talk`.
    """
    options = (options or Options()).check()
    talk = Talk(Predictor.open(workdir, adapter), options, system)

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
