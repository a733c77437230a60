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
        tagged(SENTENCE + "Bob X-PER\n"),
        ["a.conll, row 2: tag 'X-PER' in 'tags' is none of O, B-X, I-X, E-X, S-X", "config.task.problem=words"],
    ),
    "a tag that is nearly one": (
        tagged(SENTENCE + "Bob B_PER\n"),
        ["a.conll, row 2: tag 'B_PER' in 'tags' is none of", "did you mean 'B-PER'? or, for tags that are no entities"],
    ),
    "names of another scheme": (
        tagged("Ann U-PER\nwent O\n\n" * 9, "--config.task.labels=('O', 'U-PER')"),
        ["config.task.labels holds 'U-PER', a tag of another scheme; write S-PER, as BIOES does"],
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
        ["a.jsonl, row 1: 'tags' holds [0, 3]; it must be a list of a tag a word", "numbers in config.task.labels"],
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


def asked(content: str, *values: str, name: str = "a.jsonl") -> Setup:
    """A training run of question answering on this file."""
    config = f"--config={CONFIGS / 'question_answering.py'}"
    return lambda room: room.train(f"{config}:{room.write(name, content)}", *values)


def answer(**changes: object) -> str:
    """A question of a JSON lines file."""
    row = {"question": "Who?", "context": "Ann in Paris", "answers": [{"text": "Ann", "answer_start": 0}]}
    return json.dumps(row | changes) + "\n"


def squad(paragraph: object) -> Setup:
    """A file of SQuAD with this paragraph."""
    return asked(json.dumps({"data": [{"paragraphs": [paragraph]}]}), name="a.json")


ANSWERS: Rows = {
    "an answer that is elsewhere": (
        asked(answer() + answer(answers=[{"text": "Paris", "answer_start": 8}])),
        ["a.jsonl, row 2: the answer 'Paris' in 'answers' is not in 'context' at 8; it is at 7 (counted in characters"],
    ),
    "a number of answers that are elsewhere": (
        asked(
            answer() * 3
            + answer(answers=[{"text": "Paris", "answer_start": 8}]) * 2
            + answer(answers=[{"text": "Rome", "answer_start": 7}])
        ),
        [
            "a.jsonl, row 4: the answer 'Paris'",
            "so it is with 3 of 6 answers, 1 of which occur nowhere",
            "config.task.repair=nearest moves them, drop leaves them out",
        ],
    ),
    "more answers than places": (
        asked(answer(answers={"text": ["Ann", "in"], "answer_start": [0]})),
        ["a.jsonl, row 1: 'answers' holds 2 texts, but 1 places of them"],
    ),
    "an answer that is nowhere": (
        asked(answer(answers=[{"text": "Rome", "answer_start": 7}])),
        ["a.jsonl, row 1: the answer 'Rome' in 'answers' is not in 'context' at 7; it does not occur there"],
    ),
    "an answer without its place": (
        asked(answer(answers=[{"text": "Ann"}])),
        ["a.jsonl, row 1: 'answers' holds {'text': 'Ann'}; an answer is"],
    ),
    "an answer in no column": (
        asked("question,context,answer\nWho?,Ann,Ann\n", name="a.csv"),
        ["a.csv has no column 'answers'; it has 'question', 'context', 'answer'; set config.task.answers"],
    ),
    "a text without its place": (
        asked("question,context,answers\nWho?,Ann,Ann\n", name="a.csv"),
        ["a.csv has no column 'answer_start'", "config.task.answer_start"],
    ),
    "no answers at all": (asked(answer(answers=[]) * 9), ["a.jsonl: no question in 'answers' has an answer"]),
    "an empty question": (asked(answer(question=" ")), ["a.jsonl, row 1: column 'question' holds empty text"]),
    "broken SQuAD": (
        asked('{"data": [\n{"paragraphs": [}\n]}', name="a.json"),
        ["a.json, line 2, column 17: broken JSON"],
    ),
    "a paragraph without questions": (
        squad({"context": "Ann in Paris"}),
        ["a.json, data[0].paragraphs[0]: no list 'qas'; SQuAD JSON is {"],
    ),
    "a paragraph without a context": (
        squad({"qas": [{"question": "Who?"}]}),
        ["a.json, data[0].paragraphs[0].qas[0]: no 'context'; SQuAD JSON is {"],
    ),
    "an answer of SQuAD without its place": (
        squad({"context": "Ann", "qas": [{"question": "Who?", "answers": [{"text": "Ann"}]}]}),
        ["a.json, data[0].paragraphs[0].qas[0]: 'answers' holds {'text': 'Ann'}; an answer is"],
    ),
    "a question that fills the window": (
        asked("".join(answer(question=f"Who {i}? " * 9) for i in range(9))),
        ["config.task.stride is 128; it must be below the 0 tokens of a text", "config.data.max_length 16"],
    ),
}


def choices(*values: str, **changes: object) -> Setup:
    """A training run of multiple choice on questions of which the second has these changes."""
    good = {"context": "A text", "choices": ["one", "two"], "label": 1}
    config = f"--config={CONFIGS / 'multiple_choice.py'}"
    content = "".join(json.dumps(row) + "\n" for row in (good, good | changes))
    return lambda room: room.train(f"{config}:{room.write('a.jsonl', content)}", *values)


CHOICES: Rows = {
    "one choice": (
        choices(choices=["one"]),
        ["a.jsonl, row 2: 1 choice(s) in 'choices'; a question takes two or more"],
    ),
    "an empty choice": (
        choices(choices=["one", " ", "three"]),
        ["a.jsonl, row 2: choice 1 in 'choices' is ' '; choices must be texts"],
    ),
    "a label beyond the choices": (
        choices(label=2),
        ["a.jsonl, row 2: label 2 in 'label' is none of the 2 choices; it must be a number from 0 to 1, a letter"],
    ),
    "a right choice that is none": (
        choices("--config.task.choices=('choices', 'ending1')"),
        ["a.jsonl has no column 'ending1'; it has 'context', 'choices', 'label'; set config.task.choices"],
    ),
    "a text for a list of choices": (
        choices("--config.task.choices=('context',)"),
        ["a.jsonl, row 1: 'context' holds 'A text'; it must be a list of texts; or name a column a choice"],
    ),
}
