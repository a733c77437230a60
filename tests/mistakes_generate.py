"""What a user gets wrong when a model is to write."""

from mistakes import Rows, on_run, predict

WRITE = "--generate.max_new_tokens=4"
ROWS = "text,sentiment\nfine,positive\n"

WRITTEN: Rows = {
    "a classifier that is to write": (
        predict("a.txt", "a text\n", WRITE),
        ["those of the tasks CausalLM and Chat; this one is SequenceClassification"],
    ),
    "an encoder that is to converse": (
        on_run("chat"),
        ["Bert writes no text, as each of its tokens sees those after it too; take a decoder"],
    ),
    "a stop word that is empty": (
        predict("a.txt", "a text\n", WRITE, "--generate.stop=a,,b"),
        ["generate.stop has an empty word, at which every answer would end; leave it out"],
    ),
    "a probability above 1": (
        predict("a.txt", "a text\n", WRITE, "--generate.temperature=1", "--generate.top_p=1.5"),
        ["generate.top_p is 1.5; it must be above 0, at most 1"],
    ),
    "how to write, and not how much": (
        predict("a.txt", "a text\n", "--generate.beams=2"),
        ["--generate.beams says how to write; give --generate.max_new_tokens, of an answer at most, too"],
    ),
    "a temperature below 0": (
        predict("a.txt", "a text\n", WRITE, "--generate.temperature=-1"),
        ["generate.temperature", "-1"],
    ),
    "no references": (
        lambda room: on_run("evaluate", f"--input={room.write('a.csv', ROWS)}", WRITE)(room),
        ["give --generate.reference, the column of what answers should be"],
    ),
    "a metric that is nowhere": (
        lambda room: on_run(
            "evaluate", f"--input={room.write('a.csv', ROWS)}", WRITE, "--generate.metric=no_such_module:f"
        )(room),
        ["generate.metric: no_such_module cannot be imported (ModuleNotFoundError: No module named 'no_such_module')"],
    ),
    "several answers to be measured": (
        on_run("evaluate", WRITE, "--generate.answers=2"),
        ["--generate.answers is not used by --mode=evaluate; it is for --mode=predict"],
    ),
    "several answers, and nothing drawn": (
        predict("a.txt", "a text\n", WRITE, "--generate.answers=2"),
        ["generate.answers is 2, but nothing is drawn, and generate.beams is 1"],
    ),
    "references of nothing": (
        on_run("evaluate", "--generate.reference=answer"),
        ["--generate.reference is held against what is written; give --generate.max_new_tokens too"],
    ),
}
