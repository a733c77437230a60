"""What is learned: the knobs of each task."""

# No `from __future__ import annotations`: config_flags reads the fields' types, which must not be strings.
from dataclasses import dataclass

from jaxft.config.base import Section, knob


@dataclass(kw_only=True)
class Task(Section):
    """What is learned; the knobs of each task are its subclass."""


@dataclass(kw_only=True)
class Classification(Task):
    """What tasks with classes share: how the loss weighs them, and losses for rare classes and for wrong labels."""

    class_weights: tuple[float, ...] = knob(
        (), "weight of each label in the loss, for multi_label where it holds; empty: all 1, or `balanced`"
    )
    balanced: bool = knob(False, "class_weights by how rare a label is in the training data")
    class_balance: float = knob(
        0.0,
        "beta of class_weights by the effective number of examples, (1 - beta) / (1 - beta^n); 0: none, near 1: 1 / n",
        low=0,
        high=0.999999,
        since="0.2.0",
    )
    label_smoothing: float = knob(0.0, "share of each target spread evenly over the classes", low=0, high=1)
    focal: float = knob(
        0.0, "gamma of the focal loss, which counts what is well classified for less; 0: off", low=0, since="0.2.0"
    )
    generalized: float = knob(
        0.0,
        "q of generalized cross-entropy, for wrong labels: from 0, cross-entropy, to 1, the absolute error",
        low=0,
        high=1,
        since="0.2.0",
    )
    symmetric: float = knob(
        0.0, "weight of reverse cross-entropy beside cross-entropy, for wrong labels; 0: off", low=0, since="0.2.0"
    )


@dataclass(kw_only=True)
class SequenceClassification(Classification):
    """Classify or score a text or a pair of texts."""

    text: str = knob("text", "column with the text")
    text_pair: str = knob("", "column with the second text of a pair; empty: single texts")
    label: str = knob("label", "column with the label")
    labels: tuple[str, ...] = knob(
        (), "label names in the order of their ids; empty: those of the training data, sorted"
    )
    problem: str = knob(
        "auto",
        "what the label is; auto: multi_label where it is a list or in label_columns, else single_label",
        choices=("auto", "single_label", "multi_label", "regression"),
    )
    label_columns: tuple[str, ...] = knob((), "columns of 0 and 1, one a label, instead of `label`")
    weight: str = knob(
        "", "column with how much a row counts in the loss, a number from 0 on; empty: all alike", since="0.2.0"
    )
    sampling: str = knob(
        "",
        "how rows are drawn in training; balanced: an epoch has as much of each class, rare rows several times; empty: "
        "each once, for single_label",
        choices=("", "balanced"),
        since="0.2.0",
    )
    contrastive: float = knob(
        0.0,
        "weight of the supervised contrastive loss of texts' vectors, by the labels of the whole batch; that of the "
        "other loss is 1 less it; for single_label; 0: off",
        low=0,
        high=0.99,
        since="0.2.0",
    )
    contrastive_temperature: float = knob(
        0.3, "by which cosines are divided in the contrastive loss", low=0.01, since="0.2.0"
    )
    mixup: float = knob(
        0.0,
        "alpha of mixup: the head learns of mixtures of two texts' vectors, in shares from Beta(alpha, alpha); 0: off",
        low=0,
        since="0.2.0",
    )
    delimiter: str = knob(",", "what separates labels in a text, for multi_label")
    thresholds: tuple[float, ...] = knob(
        (), "probability from which each label is predicted, for multi_label; empty: tuned on validation"
    )
    windows: str = knob(
        "",
        "a text longer than data.max_length is read in overlapping windows, and each class (or the score) gets the "
        "mean or the max of theirs, or a mean by weights that the head learns to give (attention); empty: it is cut",
        choices=("", "mean", "max", "attention"),
        since="0.2.0",
    )
    stride: int = knob(32, "tokens that two windows of a text share", low=0, since="0.2.0")


@dataclass(kw_only=True)
class TokenClassification(Classification):
    """Tag each word of a text: named entities, parts of speech."""

    tokens: str = knob("tokens", "column with the words: a list of them, or a text, which is cut into words")
    tags: str = knob(
        "tags", "column with a tag a word, or, of a text, a list of spans {start, end, label} or [start, end, label]"
    )
    labels: tuple[str, ...] = knob((), "tags in the order of their ids; empty: those of the training data, sorted")
    problem: str = knob(
        "auto", "what tags say; auto: entities where all are like O and B-PER", choices=("auto", "entities", "words")
    )
    scheme: str = knob("", "turn entities into this scheme; empty: as they are", choices=("", "IOB1", "IOB2", "BIOES"))
    stride: int = knob(32, "tokens that two windows of an input longer than max_length share", low=0)
    # That they are here too is new.
    class_weights: tuple[float, ...] = knob(
        (), "weight of each tag in the loss; empty: all 1, or `balanced`", since="0.2.0"
    )
    balanced: bool = knob(False, "class_weights by how rare a tag is in the training data", since="0.2.0")
    label_smoothing: float = knob(0.0, "share of each target spread evenly over the tags", low=0, high=1, since="0.2.0")


@dataclass(kw_only=True)
class QuestionAnswering(Task):
    """Find the answer to a question in a text."""

    question: str = knob("question", "column with the question")
    context: str = knob("context", "column with the text that holds the answer")
    answers: str = knob("answers", "column with the answers, as SQuAD has them, or with the text of the one answer")
    answer_start: str = knob("answer_start", "column with the character that a text in `answers` begins at")
    repair: str = knob(
        "",
        "what is done with answers that are not where they say; empty: an error, nearest: moved to where they occur "
        "nearest, or left out if nowhere, drop: left out",
        choices=("", "nearest", "drop"),
        since="0.2.0",
    )
    unanswerable: str = knob(
        "auto", "whether a text may hold no answer; auto: as in the training data", choices=("auto", "yes", "no")
    )
    null_threshold: float | None = knob(
        None, "no answer where [CLS] scores higher than the best span by more than this; none: tuned on validation"
    )
    stride: int = knob(128, "tokens that two windows of a longer text share", low=0)
    question_length: int = knob(64, "longest question in tokens; longer ones are cut", low=1)
    answer_length: int = knob(30, "longest answer in tokens", low=1)
    n_best: int = knob(20, "best answers that predictions list", low=1)
    unit: str = knob(
        "words", "what F1 counts; words: as SQuAD, characters: of Chinese, as CMRC", choices=("words", "characters")
    )


@dataclass(kw_only=True)
class MaskedLM(Task):
    """Learn the language of a text: guess tokens that are hidden in it."""

    text: str = knob("text", "column with the text; rows are put one after the other, and cut at data.max_length")
    mask_fraction: float = knob(0.15, "share of the tokens of an example that are hidden", low=0.01, high=0.9)
    whole_words: bool = knob(False, "hide all tokens of a word together")


@dataclass(kw_only=True)
class CausalLM(Task):
    """Learn the language of a text: guess each token from those before it."""

    text: str = knob("text", "column with the text; one longer than data.max_length becomes several pieces")
    end: bool = knob(True, "end each text with the token that the tokenizer has for that, where it has one")


@dataclass(kw_only=True)
class Assistant(Task):
    """What tasks share that learn what an assistant says: how conversations become texts."""

    tools: str = knob("", "column with the tools that are offered, a list of JSON schemas, or JSON of one; empty: none")
    template: str = knob(
        "", "chat template, in Jinja, or a file of one, which the export then has; empty: the tokenizer's own"
    )


@dataclass(kw_only=True)
class Chat(Assistant):
    """Learn to answer: guess each token of the assistant's turns from those before it."""

    messages: str = knob(
        "messages",
        "column with conversations, lists of messages {role, content}, or JSON of them; empty: `prompt`, `completion`",
    )
    prompt: str = knob("prompt", "column with what is asked: a text, or the messages so far")
    completion: str = knob("completion", "column with what is answered, which alone is learned: a text, or messages")


@dataclass(kw_only=True)
class Preference(Assistant):
    """Learn which of two answers is preferred, without a model of rewards."""

    prompt: str = knob(
        "prompt", "column with what is asked: a text, or the messages so far; empty: each answer begins with it"
    )
    chosen: str = knob("chosen", "column with the answer that is preferred: a text, or messages")
    rejected: str = knob("rejected", "column with the other answer")
    loss: str = knob(
        "dpo",
        "dpo and ipo keep near the model that the run begins with; orpo, without one, learns the chosen answer too",
        choices=("dpo", "ipo", "orpo"),
    )
    beta: float = knob(
        0.1, "how near (the larger the nearer), for dpo and ipo; for orpo the weight of the odds ratio", low=1e-4
    )


@dataclass(kw_only=True)
class NextSentence(MaskedLM):
    """Learn the language of a text, and which of its sentences follow each other."""

    text: str = knob("text", "column with documents, which are cut into pairs of segments; see data.documents")


@dataclass(kw_only=True)
class MultipleChoice(Task):
    """Choose the best of several continuations of a text, or answers to a question about it."""

    context: str = knob("context", "column with the text")
    question: str = knob("", "column with a question, or the words that each choice goes on from; empty: none")
    choices: tuple[str, ...] = knob(("choices",), "column with a list of the choices, or a column a choice")
    label: str = knob("label", "column with the right choice: its number from 0, its letter from A, or its text")
    label_form: str = knob(
        "auto",
        "what a label is, where it could be two of these; auto: an error there",
        choices=("auto", "number", "letter", "text"),
        since="0.2.0",
    )


@dataclass(kw_only=True)
class SentenceEmbedding(Task):
    """Turn texts into vectors that are near each other where the texts belong together."""

    texts: tuple[str, ...] = knob(
        ("anchor", "positive"), "columns with texts that belong together; a third one does not belong to the first"
    )
    score: str = knob("", "column with the cosine of two texts, -1 to 1; empty: texts of other rows are unlike")
    pooling: str = knob(
        "mean",
        "a text's vector: the mean over its tokens, that of the first, [CLS], or of the last, as decoders have it",
        choices=("mean", "cls", "last"),
    )
    scale: float = knob(20.0, "factor of cosines in the softmax, 1 / temperature", low=0)
    windows: str = knob(
        "",
        "a text longer than data.max_length is read in overlapping windows, and its vector is the mean of theirs; "
        "empty: it is cut",
        choices=("", "mean"),
        since="0.2.0",
    )
    stride: int = knob(32, "tokens that two windows of a text share", low=0, since="0.2.0")


TASKS: dict[str, type[Task]] = {
    "sequence_classification": SequenceClassification,
    "token_classification": TokenClassification,
    "question_answering": QuestionAnswering,
    "masked_lm": MaskedLM,
    "next_sentence": NextSentence,
    "causal_lm": CausalLM,
    "chat": Chat,
    "preference": Preference,
    "multiple_choice": MultipleChoice,
    "sentence_embedding": SentenceEmbedding,
}
