"""`jaxft.generate`: prompts in, what the model continues them with out, as texts."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxft import hub
from jaxft.errors import UserError
from jaxft.generate.options import Options, check_bounds
from jaxft.generate.settings import settled
from jaxft.generate.writing import Written, longest_of, written
from jaxft.predict.engine import CompiledEngine
from jaxft.predict.predictor import Predictor

Tokens = Sequence[int]


class Answer(NamedTuple):
    """What a model has written behind a prompt.

    Attributes:
      completion: the text, up to what has ended it.
      log_probability: of its tokens together, that of a token or word that has ended it included, by the model alone:
        at temperature 1, every word allowed.
      tokens: how many these are.
      ended: whether it came to an end by itself; else it was cut where it may be no longer.
      others: further answers to the same prompt, where several are asked for: those of the next beams or seeds.
    """

    completion: str
    log_probability: float
    tokens: int
    ended: bool
    others: "tuple[Answer, ...]" = ()


def generate(model: Predictor | str | Path, prompts: Sequence[str], **options: Any) -> list[Answer]:
    """Returns what a model continues each prompt with.

    Args:
      model: a predictor, or what `Predictor.open` takes: a run or a directory of a decoder that scores words.
      options: see `jaxft.generate.options.Options`; `stop` may be a word or several. Others are as the model's
        directory says, see `jaxft.generate.settings.settled`.

    Raises:
      UserError: a model that writes no text, a prompt without tokens or longer than the model, or an option that cannot
        be.
    """
    if "stop" in options:
        options["stop"] = (options["stop"],) if isinstance(options["stop"], str) else tuple(options["stop"])
    check_bounds(options)
    if isinstance(prompts, str):
        raise UserError(f"the prompts are one text, {prompts[:40]!r}; give a list of texts")
    predictor = model if isinstance(model, Predictor) else Predictor.open(model)
    how = settled(options, predictor.directory)
    return answers(predictor, prompts, how, lambda number: f"prompt {number} (from 0)")


def answers(
    predictor: Predictor,
    prompts: Sequence[str],
    options: Options,
    where: Callable[[int], str],
    rendered: bool = False,
) -> list[Answer]:
    """Returns what the model of a predictor continues each prompt with, as `generate`.

    Args:
      options: as `Options.check` returns them.
      where: says where a prompt stands, by its number from 0.
      rendered: whether prompts are of a chat template, which has put all special tokens into them.
    """
    engine = writer(predictor)
    with predictor.tokenizer() as tokenizer:
        asked = [encoded(tokenizer, prompt, rendered) for prompt in prompts]
        check_lengths(engine, [len(ids) for ids in asked], where)
        stops = stop_tokens(predictor.directory, tokenizer)

        def watch(number: int, tokens: list[int]) -> bool:
            return first_of(continued(tokenizer, asked[number], tokens), options.stop) is not None

        def read(ids: list[int], one: Written) -> Answer:
            found = answer(one, lambda tokens: continued(tokenizer, ids, tokens), options.stop)
            return found._replace(others=tuple(read(ids, other) for other in one.others))

        found = written(engine, asked, stops, options, watch if options.stop else None) if asked else []
        return [read(*each) for each in zip(asked, found, strict=True)]


def writer(predictor: Predictor) -> CompiledEngine:
    """Returns the engine of a predictor that writes texts.

    Raises:
      UserError: it is of another kind, of a model or a task that writes none, or there are several processes.
    """
    engine = predictor.engine
    if not isinstance(engine, CompiledEngine):
        raise UserError("texts are written by one model that jax computes; take --engine=jax, and no --runs")
    engine.model.cache_spec(1, 1)
    if engine.task.hf_class != "ForCausalLM":
        raise UserError(
            f"this model was trained as a {type(engine.task).__name__}, which scores no words that come next; train it "
            "with configs/clm.py, or give the directory of a language model"
        )
    if jax.process_count() > 1:
        raise UserError(f"texts are written by one process; there are {jax.process_count()}: start one alone")
    return engine


def encoded(tokenizer: Any, prompt: str, rendered: bool = False) -> list[int]:
    """Returns the tokens of a prompt, with what the tokenizer puts before a text and without what ends one.

    Args:
      rendered: see `answers`; nothing is added then.
    """
    ids = list(
        tokenizer(prompt, add_special_tokens=not rendered, return_attention_mask=False, verbose=False)["input_ids"]
    )
    if rendered:
        return ids
    end = tokenizer.eos_token_id
    ends = end is not None and ids[-1:] == [end] and not prompt.endswith(tokenizer.eos_token)
    return ids[:-1] if ends and len(ids) > 1 else ids


def check_lengths(engine: CompiledEngine, lengths: Sequence[int], where: Callable[[int], str]) -> None:
    """Makes sure that each prompt has a token, and that there is room for one behind it.

    Raises:
      UserError: one has not; names it.
    """
    room = longest_of(engine)
    for number, length in enumerate(lengths):
        if not length:
            raise UserError(f"{where(number)} has no tokens, so that there is nothing to continue; write a word")
        if length >= room:
            raise UserError(
                f"{where(number)} has {length:,} tokens, and the model has {room:,} positions for them and the answer; "
                "shorten it"
            )


def stop_tokens(directory: Path, tokenizer: Any) -> tuple[int, ...]:
    """Returns the tokens that end an answer: those that the directory says, and the one that ends texts of training.

    Raises:
      UserError: what a file says are no token ids.
    """
    file = directory / hub.GENERATION
    file = file if file.exists() else directory / "config.json"
    said = hub.read_json(file).get("eos_token_id")
    ids = said if isinstance(said, list) else [] if said is None else [said]
    if not all(isinstance(one, int) for one in ids):
        raise UserError(f"{file}: eos_token_id must be a token's id, or a list of ids; it is {said!r}")
    own = tokenizer.eos_token_id
    return tuple(sorted({*ids, *([] if own is None else [own])}))


def continued(tokenizer: Any, prompt: Tokens, tokens: Tokens) -> str:
    """Returns the text of tokens that stand behind a prompt: a tokenizer may write a word otherwise where it begins."""
    before = tokenizer.decode([*prompt], skip_special_tokens=True)
    whole = tokenizer.decode([*prompt, *tokens], skip_special_tokens=True)
    if whole.startswith(before):
        return whole[len(before) :]
    return tokenizer.decode([*tokens], skip_special_tokens=True)


def first_of(text: str, words: Sequence[str]) -> int | None:
    """Returns where the first of some words begins in a text; None: it has none of them."""
    return min((at for word in words if (at := text.find(word)) >= 0), default=None)


def answer(found: Written, text: Callable[[Tokens], str], words: Sequence[str]) -> Answer:
    """Returns an answer, which ends with the first token that makes one of the words whole.

    Args:
      text: of tokens of it.
    """
    size = len(found.tokens)
    if first_of(text(found.tokens), words) is not None:
        while size > 1 and first_of(text(found.tokens[: size - 1]), words) is not None:
            size -= 1
    said = text(found.tokens[:size])
    at = first_of(said, words)
    ended = found.ended if at is None else True
    return Answer(said[:at], sum(found.log_probs[:size]), size, ended)
