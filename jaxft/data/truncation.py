"""Which part of a text that is too long is kept."""

from collections.abc import Sequence
from typing import Any

from jaxft.config import Assistant, MultipleChoice, SentenceEmbedding, SequenceClassification, Task
from jaxft.errors import UserError


def cuts(options: Task) -> bool:
    """Tells whether a task cuts what is too long; others have windows of it, or go on with the rest."""
    if isinstance(options, SequenceClassification | SentenceEmbedding):
        return not options.windows
    return isinstance(options, Assistant | MultipleChoice)


class Keeping:
    """A tokenizer that keeps the tail, or head and tail, of texts that are too long."""

    def __init__(self, tokenizer: Any, keep: str):
        self._tokenizer, self._keep = tokenizer, keep

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, *texts: Sequence[str], max_length: int, truncation: bool = True, **options: Any) -> Any:
        """Returns `input_ids` and `token_type_ids` of texts, or of pairs of them, of `max_length` tokens at most."""
        encoded = self._tokenizer(*texts, truncation=False, verbose=False, **options)
        names = ("input_ids", "token_type_ids")
        if not truncation:
            return encoded
        found: dict[str, list[Any]] = {name: [] for name in names}
        for i, one in enumerate(encoded.encodings):
            places = kept(one.sequence_ids, max_length, self._keep) if len(one.ids) > max_length else None
            for name in names:
                values = encoded[name][i]
                found[name].append(values if places is None else [values[at] for at in places])
        return found


def keeping(tokenizer: Any, options: Task, keep: str) -> Any:
    """Returns the tokenizer with which a task keeps that part: `config.data.truncate`.

    Raises:
      UserError: the task cuts nothing, or conversations, of which the beginning stays.
    """
    if keep == "head":
        return tokenizer
    if isinstance(options, Assistant):
        raise UserError(f"config.data.truncate is {keep!r}, but conversations are cut at their end alone; unset it")
    if not cuts(options):
        how = " in windows" if getattr(options, "windows", "") else ""
        raise UserError(
            f"config.data.truncate is {keep!r}, but {type(options).__name__}{how} cuts no texts: it reads all of a "
            "long one; unset it"
        )
    return Keeping(tokenizer, keep)


def kept(sequences: Sequence[int | None], max_length: int, keep: str) -> list[int]:
    """Returns the positions of the tokens that are left of a text, or of a pair, that is too long.

    Special tokens stay. Of a pair, tokens are taken off the longer text until both are of one length, then off both, as
    the tokenizers do it ("longest_first"); then of each text its part is kept.

    Args:
      sequences: of each token, which text it is of, 0 or 1; None for special tokens. More than `max_length`.
      keep: head, tail or head+tail, which is a quarter from the beginning and the rest from the end, about as in Sun et
        al. 2019, How to Fine-Tune BERT for Text Classification?, section 5.3.1 (128 of 510 tokens, and 382).
    """
    places = [[at for at, text in enumerate(sequences) if text == number] for number in (0, 1)]
    room = max(max_length - sequences.count(None), 0)
    left = {at for at, text in enumerate(sequences) if text is None}
    for part, size in zip(places, _sizes(len(places[0]), len(places[1]), room), strict=True):
        head = {"head": size, "tail": 0, "head+tail": size // 4}[keep]
        left.update(part[:head], part[len(part) - size + head :])
    return sorted(left)


def _sizes(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each text of a pair are kept."""
    if not second:
        return min(first, room), 0
    short, long = sorted((first, second))
    long = short if short > room else max(short, min(long, room - short))
    if short + long > room:
        short, long = room // 2, room // 2 + room % 2
    return (short, long) if first <= second else (long, short)
