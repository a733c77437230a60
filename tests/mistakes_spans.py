"""What can be wrong with tagged words, and with questions and their answers."""

import json

from mistakes import CONFIGS, Rows, Setup

SENTENCE = "Ann O\nin O\nParis B-LOC\n\n"


def tagged(content: str, *values: str, name: str = "a.conll") -> Setup:
    """A training run of token classification on this file."""
    config = f"--config={CONFIGS / 'tokens.py'}"
    return lambda room: room.train(f"{config}:{room.write(name, content)}", *values)


def spans(*values: object) -> Setup:
    """The same on a text with these spans."""
    row = json.dumps({"tokens": "Ann in Paris", "tags": list(values)})
    return tagged(f"{row}\n" * 8, name="a.jsonl")


TAGS: Rows = {
    "a ragged line": (
        tagged(SENTENCE + "Bob\n"),
        ["a.conll, line 5 has 1 cell(s), but the first line has 2"],
    ),
    "columns that are not there": (
        tagged(SENTENCE, "--config.data.columns=('tokens', 'pos', 'tags')"),
        ["a.conll, line 1 has 2 cell(s), but config.data.columns names 3"],
    ),
    "an empty cell": (tagged("Ann\tO\n\tO\n"), ["a.conll, line 2: cell 1 is empty"]),
    "no tags": (tagged("Ann\nBob\n"), ["a.conll has no column 'tags'; it has 'tokens'", "config.task.tags"]),
    "a tag of another scheme": (
        tagged(SENTENCE + "Bob U-PER\n"),
        ["a.conll, row 2: tag 'U-PER' in 'tags' is none of O, B-X, I-X, E-X, S-X", "config.task.problem=words"],
    ),
    "one tag only": (tagged("Ann NN\n\nBob NN\n"), ["a.conll: all tags in 'tags' are 'NN'"]),
    "a tag that was not named": (
        tagged(SENTENCE * 9, "--config.task.labels=('O', 'B-LOK')"),
        ["a.conll, row 1: tag 'B-LOC' is not among config.task.labels; did you mean 'B-LOK'?"],
    ),
    "fewer tags than words": (
        tagged('{"tokens": ["a", "b"], "tags": ["O"]}\n', name="a.jsonl"),
        ["a.jsonl, row 1: 2 words in 'tokens', but 1 tags in 'tags'"],
    ),
    "numbers for tags": (
        tagged('{"tokens": ["a", "b"], "tags": [0, 3]}\n', name="a.jsonl"),
        ["a.jsonl, row 1: 'tags' holds [0, 3]; it must be a list of a tag a word"],
    ),
    "no words": (
        tagged('{"tokens": ["a"], "tags": ["O"]}\n{"tokens": [], "tags": []}\n', name="a.jsonl"),
        ["a.jsonl, row 2: 'tokens' holds no words"],
    ),
    "an empty word": (
        tagged('{"tokens": ["a", ""], "tags": ["O", "O"]}\n', name="a.jsonl"),
        ["a.jsonl, row 1: 'tokens' holds a word that is ''"],
    ),
    "a span outside its text": (
        spans({"start": 7, "end": 13, "label": "LOC"}),
        ["a.jsonl, row 1: the span 7 to 13 (LOC) in 'tags' lies outside; its text has 12 characters"],
    ),
    "a span without a word": (
        spans({"start": 3, "end": 4, "label": "LOC"}),
        ["a.jsonl, row 1: the span 3 to 4 (LOC) in 'tags' holds no word"],
    ),
    "two spans on one word": (
        spans({"start": 0, "end": 3, "label": "PER"}, {"start": 2, "end": 6, "label": "LOC"}),
        ["a.jsonl, row 1: two spans in 'tags' hold the word 'Ann' at 0"],
    ),
    "a span without a label": (
        spans({"start": 0, "end": 3}),
        ["a.jsonl, row 1: 'tags' holds {'start': 0, 'end': 3}; of a text it must be a list of spans"],
    ),
    "windows that overlap too far": (
        tagged(SENTENCE + SENTENCE.replace("Ann", "Bob"), "--config.task.stride=14", "--config.data.test_examples=0"),
        ["config.task.stride is 14; it must be below the 14 tokens", "config.data.max_length 16"],
    ),
}
