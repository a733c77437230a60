"""What a run begins with: the parameters of a pretrained model or of an adapter, where its program has them."""

from pathlib import Path

import jax

from jaxft import hub
from jaxft.errors import UserError
from jaxft.hub import adapters
from jaxft.program import Program
from jaxft.types import Params


def load(
    directory: Path, composed: Program, seed: int = 0, head: str = "auto", reinit: int = 0
) -> tuple[Params, hub.Accounting]:
    """Returns the pretrained parameters of a directory, each straight into its shards, and what became of them.

    Args:
      seed: of those that are new.
      head: `config.model.head`.
      reinit: `config.model.reinit`: layers that begin anew (Zhang et al. 2021, section 4).

    Raises:
      UserError: the weights cannot be read, or are of another model; see `hub.load_parameters`. Or there are not so
        many layers.
    """
    key, task, model, hf = jax.random.key(seed), composed.task, composed.model, hub.read_config(directory)
    if task.tied(model) and hf.get("tie_word_embeddings") is False:
        raise UserError(
            f"{directory}/config.json: tie_word_embeddings is false; the head of {type(task.options).__name__} scores "
            "words by their embeddings here, a decoder of its own would be lost; take a model that ties them"
        )
    if reinit > len(model.facts.layers):
        raise UserError(f"config.model.reinit is {reinit}; the model has {len(model.facts.layers)} layers of its own")
    anew = lambda path: bool(reinit) and model.depth(path) <= reinit  # noqa: E731
    given = {"base_prefix": model.prefix, "shardings": composed.param_shardings, "head": hub.fit_of(hf, composed, head)}
    return hub.load_parameters(directory, composed.spec, key=key, anew=anew, **given)


def load_adapter(directory: Path, composed: Program, start: Params, head: str = "auto") -> tuple[Params, list[str]]:
    """Returns what learns, as an adapter has it, its head as `load` takes that of a model; and lines for the log.

    Raises:
      UserError: it does not fit; see `hub.adapters.read`.
    """
    there = adapters.meaning(directory)
    fit = hub.fit_of(adapters.named(there) if there else {}, composed, head)
    read, labels = adapters.read(directory, composed, start, fit), getattr(composed.task.options, "labels", ())
    if fit.new:
        return read, [f"adapter {directory}: new head (initialized), {fit.new}"]
    if there or not fit.paths & adapters.held(directory, composed):
        return read, [fit.note] * bool(fit.note)
    return read, [f"adapter {directory}: it names no labels; its outputs are taken for {', '.join(labels)}"]
