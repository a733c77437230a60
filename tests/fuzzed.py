"""Tables and files that a task could have been given, by hypothesis: mostly right, and partly something else."""

import csv
import gzip
import io
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from chat_templates import CHATML, QWEN3
from hypothesis import strategies as st
from pyarrow import parquet

from jaxft import config

Row = dict[str, Any]

WORDS = st.sampled_from(["the", "film", "was", "good", "Paris", "東京", "naïve", "😀", "1.10", "2024", "#", "O", "a,b"])
BLANK = ["", " ", "\u3000", "\0", "\u200d", "\ufeff", "\x1f", "\u2028", "\t", "\n", "\r\n"]
CODES = ["NaN", "null", "-1", "007", "1e999", "9" * 40, "x" * 300, "e\u0301\u0327", "\u202e", "[PAD]", "[MASK]"]
QUOTED = ["[", "['a'", "{}", "['a' 'b']", '"', "'", ";", "|"]
ODD = st.sampled_from([*BLANK, *CODES, *QUOTED])
TEXT = st.lists(WORDS, min_size=1, max_size=9).map(" ".join)
ANY_TEXT = TEXT | ODD | st.text(max_size=12)
NUMBER = st.integers(-3, 9) | st.integers() | st.floats() | st.sampled_from([10**30, -(2**63), 2**63, 0.5, 1.0, -0.0])
SCALAR = st.none() | st.booleans() | NUMBER | ANY_TEXT
JUNK = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["text", "label", "start", "end", "answer_start"]) | st.text(max_size=3), inner, max_size=3
        )
    ),
    max_leaves=6,
)
NAME = st.sampled_from(["pos", "neg", " pos", "neg "])
SPAN = st.fixed_dictionaries({
    "start": st.integers(-1, 3), "end": st.integers(1, 12), "label": st.sampled_from(["PER", "PER", "X", ""])
})  # fmt: skip
TRIPLE = st.tuples(st.integers(0, 3), st.integers(4, 9), st.sampled_from(["PER", "LOC"])).map(list)
TAGS = {
    "IOB2": ["O", "B-PER", "I-PER"],
    "BILOU": ["O", "B-PER", "L-PER", "U-PER"],
    "BMES": ["O", "B-X", "M-X", "E-X", "S-X"],
    "near": ["o", "b-per", "i-per"],
    "no type": ["B", "I", "O"],
    "parts of speech": ["NN", "DT", "M-X"],
    "numbers": [0, 1, 2],
    "mixed": ["B-PER", "B_PER", "PER-B", "O ", "U-PER", "NN"],
}


@st.composite
def tagged(draw: st.DrawFn, scheme: str) -> Row:
    """Words with a tag each."""
    tokens = draw(st.lists(WORDS, min_size=1, max_size=20))
    tags = draw(st.lists(st.sampled_from(TAGS[scheme]), min_size=len(tokens), max_size=len(tokens)))
    return {"tokens": tokens, "tags": tags}


@st.composite
def asked(draw: st.DrawFn, form: str) -> Row:
    """A question with an answer, most of which are where they say."""
    context = draw(TEXT)
    start = draw(st.integers(0, len(context) - 1))
    text = context[start : start + draw(st.integers(1, 6))]
    start += draw(st.sampled_from([0, 0, 0, 0, 1, -9]))
    one = {"text": text, "answer_start": start}
    answers = {"SQuAD": [one], "Hub": {"text": [text], "answer_start": [start]}, "flat": text}[form]
    if draw(st.integers(0, 4)) == 0:
        answers = {"SQuAD": [], "Hub": {"text": [], "answer_start": []}, "flat": None}[form]
    return {"question": draw(TEXT), "context": context, "answers": answers, "answer_start": start}


@st.composite
def chosen(draw: st.DrawFn, form: str, label: str) -> Row:
    choices = draw(st.lists(TEXT | st.sampled_from(["0", "1", "A", "B"]), min_size=2, max_size=4))
    if form == "numbers":
        choices = [draw(st.integers(0, 9) | st.sampled_from([7.5, 1.0])) for _ in choices]
    right = draw(st.integers(0, len(choices) - 1))
    listed = {
        "ARC": {"text": choices, "label": list("ABCD"[: len(choices)])},
        "objects": [{"text": choice, "label": str(at)} for at, choice in enumerate(choices)],
    }
    labels = {"number": right, "digit": str(right), "letter": "ABCD"[right], "text": str(choices[right])}
    return {
        "context": draw(TEXT),
        "choices": listed.get(form, choices),
        "label": labels[label],
        "a": choices[0],
        "b": choices[1],
    }


@st.composite
def conversations(draw: st.DrawFn, form: str) -> Row:
    """Messages in an order that is mostly right, as lists or as JSON of them, with answers to prefer."""
    turns = draw(st.integers(1, 3))
    messages: list[Any] = [{"role": "system", "content": draw(TEXT)}] if draw(st.booleans()) else []
    for _ in range(turns):
        messages.append({"role": "user", "content": draw(TEXT)})
        if draw(st.integers(0, 4)) == 0:
            call = {"type": "function", "function": {"name": draw(WORDS), "arguments": draw(ARGUMENTS)}}
            messages.append({"role": "assistant", "content": draw(st.none() | TEXT), "tool_calls": [call]})
            messages.append({"role": "tool", "content": draw(TEXT)})
        messages.append({"role": "assistant", "content": draw(TEXT)})
    if draw(st.integers(0, 4)) == 0:
        odd = st.sampled_from([{"role": "user"}, {"role": "human", "content": "x"}, {}, None, "x", messages[0]])
        messages.insert(draw(st.integers(0, len(messages))), draw(odd))
    answer = {"texts": draw(TEXT | ODD), "lists": [{"role": "assistant", "content": draw(TEXT)}]}
    prompt = {"texts": draw(TEXT), "lists": messages[:-1]}
    either = "texts" if form == "texts" else "lists"
    return {
        "messages": json.dumps(messages) if form == "texts" else messages,
        "prompt": prompt[either],
        "completion": answer[either],
        "chosen": answer[either],
        "rejected": draw(TEXT) if form == "texts" else [{"role": "assistant", "content": draw(TEXT)}],
        "tools": draw(st.none() | st.just('[{"name": "x"}]') | ODD),
    }


ARGUMENTS = st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 9) | TEXT | st.none(), max_size=2)

LABELS: dict[str, Any] = {
    "names": NAME,
    "numbers": st.integers(0, 1),
    "digits": st.sampled_from(["0", "1", "10"]),
    "true": st.booleans(),
    "scores": st.floats(-9, 9) | st.integers(-3, 3),
    "any scores": NUMBER,
    "lists": st.lists(NAME, max_size=2),
    "vectors": st.lists(st.integers(0, 1), min_size=2, max_size=2),
    "joined": st.sampled_from(["pos,neg", "pos", "", "neg, pos"]),
    "spelled": st.sampled_from(["['pos']", "['pos', 'neg']", "[]", "{'neg'}"]),
    "one each": st.integers(0, 10**6),
}
CLASSES = config.SequenceClassification
Kinds = list[tuple[config.Task, Any]]


def labelled(label: str, **options: Any) -> tuple[config.Task, Any]:
    columns = {"text": TEXT, "other": TEXT, "label": LABELS[label]}
    columns |= {"joy": st.sampled_from([0, 1]), "fear": st.sampled_from(["0", "1", "True"])}
    return CLASSES(**options), st.fixed_dictionaries(columns)


TWO = ("neg", "pos")
KINDS: dict[str, Kinds] = {
    "sequence_classification": [
        *(labelled(name) for name in LABELS),
        *(labelled(name, problem="single_label", labels=TWO) for name in ("names", "numbers", "digits", "true")),
        *(labelled(name, problem="multi_label", labels=TWO) for name in ("lists", "vectors", "joined", "spelled")),
        *(labelled(name, problem="multi_label", balanced=True) for name in ("lists", "names", "numbers", "spelled")),
        *(labelled(name, problem="regression") for name in ("scores", "any scores", "digits")),
        labelled("names", label_columns=("joy", "fear")),
        labelled("names", text_pair="other", balanced=True),
    ],
    "token_classification": [
        *((config.TokenClassification(stride=3), tagged(scheme)) for scheme in TAGS),
        *((config.TokenClassification(stride=3, scheme="BIOES"), tagged(scheme)) for scheme in ("IOB2", "BMES")),
        (config.TokenClassification(stride=3, labels=("O", "B-PER", "I-PER")), tagged("numbers")),
        (config.TokenClassification(stride=3, problem="words"), tagged("mixed")),
        *(
            (config.TokenClassification(stride=3), st.fixed_dictionaries({"tokens": TEXT, "tags": spans}))
            for spans in (st.lists(SPAN, max_size=1), st.lists(TRIPLE, max_size=1))
        ),
    ],
    "question_answering": [
        (config.QuestionAnswering(repair=repair, stride=2, question_length=3), asked(form))
        for repair in ("nearest", "drop", "")
        for form in ("SQuAD", "Hub", "flat")
    ],
    "multiple_choice": [
        *(
            (config.MultipleChoice(), chosen(form, label))
            for form in ("list", "ARC", "objects", "numbers")
            for label in ("number", "digit", "letter", "text")
        ),
        (config.MultipleChoice(choices=("a", "b")), chosen("list", "digit")),
        (config.MultipleChoice(question="context", label_form="number"), chosen("list", "digit")),
    ],
    "sentence_embedding": [
        (
            config.SentenceEmbedding(score=score),
            st.fixed_dictionaries({"anchor": TEXT, "positive": TEXT, "score": values}),
        )
        for score, values in (("", NUMBER), ("score", st.floats(-1, 1)), ("score", st.sampled_from([0, 1, -1, 0.5, 2])))
    ],
    "chat": [
        (config.Chat(**{"template": CHATML, **options}), conversations(form))
        for form in ("texts", "lists")
        for options in ({}, {"tools": "tools"}, {"messages": ""}, {"template": QWEN3, "tools": "tools"})
    ],
    "preference": [
        (options, conversations(form))
        for form in ("texts", "lists")
        for options in (
            config.Preference(template=CHATML),
            config.Preference(template=CHATML, loss="orpo", tools="tools"),
            config.Preference(template=CHATML, prompt="", chosen="messages"),
        )
    ],
    "masked_lm": [
        (config.MaskedLM(whole_words=whole), st.fixed_dictionaries({"text": TEXT})) for whole in (False, True)
    ],
    "next_sentence": [
        (config.NextSentence(), st.fixed_dictionaries({"text": st.lists(TEXT, min_size=1, max_size=3).map(". ".join)}))
    ],
}


@st.composite
def tables_of(draw: st.DrawFn, good: Any) -> list[Row]:
    """Rows as the task has them, of which a column or a few cells may be something else; columns in any order."""
    found = draw(st.lists(good, min_size=3, max_size=12))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        column = draw(st.sampled_from(sorted(found[0])))
        whole = [ANY_TEXT, NUMBER, st.none(), JUNK, st.just("x"), st.lists(WORDS, max_size=3)]
        kind, every = draw(st.sampled_from(whole)), draw(st.booleans())
        if not every and draw(st.booleans()):  # of the kind of the others
            kind = ODD if isinstance(found[0].get(column), str) else NUMBER
        for row in found:
            if every or draw(st.integers(0, 3)) == 0:
                row[column] = draw(kind)
        if len(found[0]) > 1 and draw(st.integers(0, 9)) == 0:
            found = [{k: v for k, v in row.items() if k != column} for row in found]
    if draw(st.integers(0, 4)) == 0:
        name, more = draw(ANY_TEXT), draw(st.sampled_from([ANY_TEXT, NUMBER, JUNK]))
        found = [row | {name: draw(more)} for row in found]
    order = draw(st.permutations(list(found[0])))
    return [{name: row[name] for name in order if name in row} | row for row in found]


def delimited(found: list[Row], separator: str) -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator)
    writer.writerow(found[0])
    writer.writerows(
        [[value if isinstance(value, str | int) else str(value) for value in row.values()] for row in found]
    )
    return out.getvalue()


ARROW = {
    "string_view": lambda x: pa.array(map(str, x), pa.string_view()),
    "dictionary": lambda x: pa.array(map(str, x)).dictionary_encode(),
    "decimal": lambda x: pa.array([Decimal(i) for i, _ in enumerate(x)]),
    "date": lambda x: pa.array([date(2020, 1, 1)] * len(x)),
    "time": lambda x: pa.array([datetime(2020, 1, 1, tzinfo=UTC)] * len(x)),
    "binary": lambda x: pa.array([str(one).encode() for one in x]),
    "half": lambda x: pa.array(np.arange(len(x), dtype=np.float16)),
    "small": lambda x: pa.array(np.arange(len(x)) % 2, pa.uint8()),
    "null": lambda x: pa.nulls(len(x)),
    "fixed list": lambda x: pa.array([[0, 1]] * len(x), pa.list_(pa.int8(), 2)),
    "large list": lambda x: pa.array([["a", "b"]] * len(x), pa.large_list(pa.large_string())),
    "map": lambda x: pa.array([[("a", 1)]] * len(x), pa.map_(pa.string(), pa.int64())),
}


@st.composite
def files(draw: st.DrawFn, good: Any) -> tuple[str, bytes]:
    """The name and the content of a file, mostly of rows that a task could have."""
    if draw(st.integers(0, 15)) == 0:
        name = draw(st.sampled_from(["a.csv", "a.TSV", "a.json", "a.jsonl", "a.txt", "a.conll", "a.parquet"]))
        lines = draw(
            st.lists(
                st.lists(WORDS | ODD | st.sampled_from(TAGS["mixed"]), max_size=4).map(
                    draw(st.sampled_from([" ", "\t", ",", ";"])).join
                ),
                max_size=9,
            )
        )
        raw = draw(st.binary(max_size=60) | st.just("\n".join(lines).encode("utf-8", "surrogatepass")))
        return name, raw
    found = draw(tables_of(good))
    kind = draw(st.sampled_from(["csv", "csv", "tsv", "jsonl", "jsonl", "json", "data", "columns", "parquet", "gz"]))
    if kind in ("csv", "tsv"):
        separator = {"tsv": "\t"}.get(kind) or draw(st.sampled_from([",", ",", ";", "|"]))
        encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "cp1252", "utf-16"]))
        return f"a.{kind}", delimited(found, separator).encode(encoding, "replace")
    if kind == "parquet":
        try:
            table = pa.Table.from_pylist(found)
            if draw(st.booleans()):
                at = draw(st.integers(0, table.num_columns - 1))
                made = ARROW[draw(st.sampled_from(sorted(ARROW)))](table.column(at).to_pylist())
                table = table.set_column(at, table.column_names[at], made)
            out = io.BytesIO()
            parquet.write_table(table, out)
            return "a.parquet", out.getvalue()
        except (pa.ArrowException, OverflowError, UnicodeEncodeError):
            kind = "jsonl"
    if kind == "data":
        return "a.json", json.dumps({"data": found}).encode()
    if kind == "columns":
        return "a.json", json.dumps({name: [row.get(name) for row in found] for name in found[0]}).encode()
    if kind == "json":
        return "a.json", json.dumps(found, indent=draw(st.sampled_from([None, 1]))).encode()
    content = "".join(json.dumps(row) + "\n" for row in found).encode()
    return ("a.jsonl.gz", gzip.compress(content)) if kind == "gz" else ("a.jsonl", content)
