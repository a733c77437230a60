"""Which of two answers is preferred: the losses, the pairs, what the start says of them, and what a run learns."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import chats
import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
import support
import torch_reference
from chat_templates import CHATML, FIRST, FOUR, HELLO, LLAMA3, LONG, SECOND, SHORT, TOOLS, said
from runs import assert_packed_is_padded, experiment, results, weights

from jaxft import config, hub, models, modes, tables, tasks
from jaxft.batch import IGNORED
from jaxft.data.features import Features, tokenize
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.hub import adapters
from jaxft.hub.directory import CHAT_TEMPLATE
from jaxft.job import Job, prepare
from jaxft.predict import reference
from jaxft.predict.predictor import Predictor
from jaxft.storage.workdir import Workdir
from jaxft.tables.preference import shared
from jaxft.tasks import preference, together
from jaxft.tasks.preference import REFERENCE

LOSSES = ("dpo", "ipo", "orpo")
LLAMA = support.ARCHITECTURES["llama"]


def case(loss: str) -> support.Case:
    return dataclasses.replace(support.EVERY["preference"], options=config.Preference(loss=loss, beta=0.3))


def of_trl(loss: str, log_probs: Any, known: Any, beta: float) -> Any:
    """The formulas of TRL's pages, with PyTorch, in float64. IPO and ORPO are given means."""
    from torch.nn import functional

    (chosen, rejected), (known_chosen, known_rejected) = log_probs.T, known.T
    if loss == "orpo":
        log_odds = (chosen - rejected) - ((-chosen.exp()).log1p() - (-rejected.exp()).log1p())
        return -chosen - beta * functional.logsigmoid(log_odds)
    logits = (chosen - rejected) - (known_chosen - known_rejected)
    return -functional.logsigmoid(beta * logits) if loss == "dpo" else (logits - 1 / (2 * beta)) ** 2


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_gradients_are_those_of_trl(torch, loss: str):
    """In float64, of answers that are likely and unlikely, by the whole of both."""
    rng = np.random.default_rng(0)
    log_probs, known = -np.exp(rng.normal(0, 3, (40, 2))), -np.exp(rng.normal(0, 3, (40, 2)))
    theirs = torch.tensor(log_probs, requires_grad=True)
    expected = of_trl(loss, theirs, torch.tensor(known), 0.3)
    expected.sum().backward()
    with jax.enable_x64(True):
        ours = lambda x: getattr(preference, loss)(x, *([] if loss == "orpo" else [jnp.asarray(known)]), 0.3)  # noqa: E731
        found, grad = ours(jnp.asarray(log_probs)), jax.grad(lambda x: ours(x).sum())(jnp.asarray(log_probs))
        assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-9)
    np.testing.assert_allclose(grad, theirs.grad.numpy(), rtol=1e-5, atol=1e-12)


def test_losses_by_hand():
    pair, known = jnp.asarray([[-2.0, -3.0]]), jnp.asarray([[-2.5, -2.5]])
    assert preference.dpo(pair, known, 0.5)[0] == pytest.approx(math.log(1 + math.exp(-0.5)))
    assert preference.ipo(pair, known, 0.5)[0] == pytest.approx(0.0)
    odds = lambda p: p - math.log(1 - math.exp(p))  # noqa: E731
    expected = 2 + 0.5 * math.log(1 + math.exp(-(odds(-2) - odds(-3))))
    assert preference.orpo(pair, 0.5)[0] == pytest.approx(expected)
    certain = jax.value_and_grad(lambda x: preference.orpo(x, 0.5)[0])(jnp.asarray([[0.0, -3.0]]))
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(certain))


def test_sums_and_groups():
    x, segments = jnp.arange(6.0)[None], jnp.asarray([[1, 1, 2, 3, 3, 0]])
    assert together.sums(x, segments, 4).tolist() == [[1, 2, 7, 0]]
    assert together.groups(jnp.asarray([[1, 2, 3]]), 2).tolist() == [[1, 2], [3, 0]]


def outputs_of(pairs: list[tuple[float, float]], counted: list[tuple[int, int]]) -> tuple[dict[str, Any], Any]:
    """Outputs of one row of pairs, and the batch that they are of, all weights 1 and references 0."""
    flat = lambda x: jnp.asarray(x, jnp.float32).reshape(1, -1)  # noqa: E731
    ones = jnp.ones((1, 2 * len(pairs)))
    return {"log_prob": flat(pairs), "counted": flat(counted)}, {"weights": ones, REFERENCE: 0 * ones}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_pair_counts_once_or_not_at_all(loss: str):
    """Not where a slot is empty, whose reference is no number, nor where an answer was cut off."""
    task = tasks.build(config.Preference(loss=loss))
    pairs = [(-4.0, -6.0), (-1.0, -2.0), (0.0, -9.0), (0.0, 0.0)]
    outputs, batch = outputs_of(pairs, [(2, 3), (1, 1), (0, 4), (0, 0)])
    batch = {**batch, "weights": batch["weights"].at[0, 6:].set(0)}
    known = jnp.asarray([[-3.0, -2.0], [-0.5, -4.0]])
    batch[REFERENCE] = batch[REFERENCE].at[0, 6:].set(math.nan).at[0, :4].set(known.reshape(-1))
    total, weight = task.loss(outputs, batch)
    assert weight == 2
    tokens = 1 if loss == "dpo" else jnp.asarray([[2, 3], [1, 1]])
    values = [jnp.asarray(pairs[:2]) / tokens, known / tokens][: 1 if loss == "orpo" else 2]
    assert float(total) == pytest.approx(float(getattr(preference, loss)(*values, 0.1).sum()))
    grad = jax.grad(lambda x: task.loss({**outputs, "log_prob": x}, batch)[0])(outputs["log_prob"])
    assert bool(jnp.isfinite(grad).all()) and not grad[0, 4:].any() and grad[0, :4].all()


def test_a_reference_that_is_missing_is_no_number():
    """Rather than a loss as if of another model."""
    task = tasks.build(config.Preference())
    assert math.isnan(task.targets[REFERENCE].fill) and reference.wanted(task)
    outputs, batch = outputs_of([(-1.0, -2.0)], [(1, 1)])
    assert math.isnan(float(task.loss(outputs, {**batch, REFERENCE: batch[REFERENCE] * math.nan})[0]))
    without = tasks.build(config.Preference(loss="orpo"))
    assert REFERENCE not in without.targets and not reference.wanted(without)


@pytest.mark.matrix
@pytest.mark.parametrize("loss", LOSSES)
def test_models_agree_with_pytorch(torch, loss: str, tmp_path: Path):
    """Law 1: log probabilities, the loss and all gradients, several pairs a row."""
    one, rng = case(loss), np.random.default_rng(5)
    features = support.random_features(rng, one, [6, 9, 4, 12, 7, 3], LLAMA)
    theirs = torch_reference.torch_model(LLAMA, one.task, 3)
    theirs.save_pretrained(tmp_path)
    model, params = torch_reference.load(tmp_path, one.task)
    inputs = torch_reference.torch_inputs(features, one.task, 12)
    host = support.lay_out(features, one.task, 48, slots=0)
    assert host.rows.slots > 1
    torch_reference.assert_parity(theirs, inputs, one.task, model, params, features, host)


@pytest.mark.parametrize("loss", support.once(LOSSES, "dpo"))
def test_packed_is_padded_and_in_parts(loss: str):
    """Law 2: loss and gradients, a pair a row, several, and in two parts."""
    one, model = case(loss), models.build({**LLAMA, "num_hidden_layers": 1}, dropout=0.0)
    features = support.random_features(np.random.default_rng(1), one, [6, 9, 4, 12, 7, 3, 5, 8], LLAMA)
    params = support.random_params(one.task, model, seed=1)
    composed = support.compose(one.task, model, keep_gradients=True)
    padded = support.lay_out(features, one.task, 20)
    packed = support.lay_out(features, one.task, 40, slots=0)
    assert (padded.shape.rows, packed.shape.slots > 2) == (4, True)
    expected = support.gradients(composed, params, padded)
    assert expected[1]["loss"] > 1e-3
    halves = support.compose(one.task, model, keep_gradients=True, train=config.Train(accumulate=2))
    shape = packed.shape._replace(rows=packed.shape.rows + packed.shape.rows % 2 + 2)
    spare = support.lay_out(features, one.task, 40, slots=0, shape=shape)
    for program, host in ((composed, packed), (halves, spare)):
        grads, metrics = support.gradients(program, params, host)
        support.assert_close(grads, expected[0], 1e-5, floor=1e-3)
        support.assert_close({"": metrics["loss"]}, {"": expected[1]["loss"]}, 1e-5)


def test_what_it_computes():
    task = tasks.build(config.Preference())
    assert task.outputs == {"log_prob": "example", "counted": "example"} and task.together
    assert task.reads == ("labels",) and task.hf_class == "ForCausalLM"


def test_strength_is_data():
    """Another beta compiles nothing: it is one of the numbers."""
    task = tasks.build(config.Preference(beta=0.2))
    assert task.numbers == {"beta": 0.2}
    outputs, batch = outputs_of([(-1.0, -2.0)], [(1, 1)])
    found = jax.jit(lambda beta: task.with_numbers({"beta": beta}).loss(outputs, batch)[0])(jnp.asarray(0.7))
    assert float(found) == pytest.approx(math.log(1 + math.exp(-0.7)))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Any:
    return hub.load_tokenizer(chats.save_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def rows(**columns: Any) -> Split:
    return Split(pa.table({name: pa.array(values) for name, values in columns.items()}), "a.jsonl")


def made(split: Split, tokenizer: Any, length: int = 200, **options: Any) -> Features:
    table = tables.build(config.Preference(**options))
    read = table.read(split)
    return tokenize(read.table.num_rows, lambda a, b: table.features(read.slice(a, b), tokenizer, length), None)


def learned(features: Features, tokenizer: Any) -> list[str]:
    labels = [features.tokens["labels"][a:b] for a, b in zip(features.offsets, features.offsets[1:], strict=False)]
    return [tokenizer.decode(part[part != IGNORED]) for part in labels]


def test_pairs_become_examples(tokenizer):
    """The chosen answer first; of both what they are an answer to is read, and not learned."""
    split = rows(prompt=["Hi there", "And 2+2?"], chosen=["Hello.", "4"], rejected=["No.", "5"])
    found = made(split, tokenizer)
    assert learned(found, tokenizer) == ["Hello.<|im_end|>", "No.<|im_end|>", "4<|im_end|>", "5<|im_end|>"]
    assert found.examples["row"].tolist() == [0, 0, 1, 1] and found.bounds.tolist() == [0, 2, 4]
    ids = found.tokens["input_ids"][: found.offsets[1]].tolist()
    assert ids == tokenizer.apply_chat_template([FIRST, HELLO])["input_ids"]
    lists = rows(prompt=[LONG[:4]], chosen=[[FOUR]], rejected=[[said("assistant", "5")]])
    assert learned(made(lists, tokenizer), tokenizer) == ["It is 4.<|im_end|>", "5<|im_end|>"]


def test_whole_conversations(tokenizer):
    """What both begin with is the prompt, turns of the assistant in it too."""
    other = [*SHORT[:3], said("assistant", "5"), FIRST, HELLO]
    split = rows(chosen=[json.dumps(SHORT)], rejected=[json.dumps(other)])
    found = made(split, tokenizer, prompt="")
    assert learned(found, tokenizer) == ["It is 4.<|im_end|>", "5<|im_end|>Hello.<|im_end|>"]
    assert shared(SHORT, other) == 3 and shared(SHORT, SHORT[:2]) == 2 and shared([], SHORT) == 0


def test_tools_and_templates(tokenizer):
    columns = {"prompt": ["Hi there"], "chosen": ["Hello."], "rejected": ["No."], "t": [json.dumps(TOOLS)]}
    template = "{{ tools[0].function.name }}" + LLAMA3
    found = made(rows(**columns), tokenizer, tools="t", template=template)
    assert tokenizer.decode(found.tokens["input_ids"]).startswith("add<s>")
    assert learned(found, tokenizer) == ["Hello.<|eot_id|>", "No.<|eot_id|>"]


WRONG = {
    "the same answers": (
        rows(prompt=["a", "b"], chosen=["x", "y"], rejected=["z", "y"]),
        {},
        r"a\.jsonl, row 2: 'chosen' and 'rejected' are the same: none is preferred; leave it out",
    ),
    "an empty answer": (
        rows(prompt=["a"], chosen=["x"], rejected=[" "]),
        {},
        r"a\.jsonl, row 1: 'rejected': message 1, of 'assistant', is empty",
    ),
    "no column": (rows(prompt=["a"], chosen=["x"]), {}, r"no column 'rejected'.*set config\.task\.rejected"),
    "no prompt": (rows(chosen=["x"], rejected=["y"]), {}, r"no column 'prompt'.*set config\.task\.prompt"),
    "nothing chosen": (rows(prompt=["a"], rejected=["y"]), {}, r"no column 'chosen'.*set config\.task\.chosen"),
    "an answer that is none": (
        rows(prompt=[[FIRST, HELLO]], chosen=[[SECOND, FOUR]], rejected=[[SECOND]]),
        {},
        r"row 1: 'rejected' has no message of the assistant",
    ),
    "texts without a prompt": (rows(chosen=["x"], rejected=["y"]), {"prompt": ""}, r"row 1: 'chosen' holds 'x', which"),
}


@pytest.mark.parametrize("name", WRONG)
def test_pairs_that_are_none(name: str):
    split, options, error = WRONG[name]
    with pytest.raises(UserError, match=error):
        tables.build(config.Preference(**options)).read(split)


@pytest.mark.parametrize("longer", [False, True])
def test_answers_that_the_template_makes_the_same(tokenizer, longer: bool):
    """As one that strips blanks."""
    split = rows(prompt=["a"], chosen=["x"], rejected=[" x \n"])
    template = LLAMA3 if not longer else CHATML
    if longer:
        assert len(set(learned(made(split, tokenizer, template=template), tokenizer))) == 2
    else:
        with pytest.raises(UserError, match=r"a\.jsonl, row 1: 'chosen' and 'rejected' are the same"):
            made(split, tokenizer, template=template)


def test_answers_that_differ_behind_the_cut(tokenizer):
    """They are kept, whether the cut goes through the first turn that is learned or lies before it: that is said."""
    answers = [[said("assistant", f"{'a' * 30}{end}"), SECOND, FOUR] for end in "xy"]
    split = rows(prompt=[[FIRST], [FIRST]], chosen=answers, rejected=answers[::-1])
    for length, counts in ((30, (1, 1)), (8, (0, 2))):
        found = made(split, tokenizer, length)
        assert found.lengths.tolist() == [length] * 4
        assert found.tokens["input_ids"][:length].tolist() == found.tokens["input_ids"][length : 2 * length].tolist()
        assert (found.examples["halved"][0], found.examples["lost"][0]) == counts


def test_what_a_template_leaves_alike_is_found_in_its_row(tokenizer):
    """The second row, of more than one."""
    split = rows(prompt=["a", "b"], chosen=["x", "y"], rejected=["z", " y"])
    with pytest.raises(UserError, match=r"a\.jsonl, row 2: 'chosen' and 'rejected' are the same"):
        made(split, tokenizer, template=LLAMA3)


def test_what_an_export_has(tmp_path):
    file = tmp_path / "chat.jinja"
    file.write_text(CHATML)
    options = tables.build(config.Preference(template=str(file))).resolve({})
    assert options.template == CHATML
    published = tables.build(options).published(models.build(LLAMA), 64)
    assert published.files == {CHAT_TEMPLATE: CHATML} and published.pipeline == "text-generation"


def measured(options: config.Preference, known: list[float] | None = None) -> dict[str, float]:
    """The metrics of four pairs: right, wrong, equal, and one of which an answer was cut off."""
    log_probs = np.asarray([-2, -6, -6, -2, -3, -3, 0, -9], np.float32)
    counted = np.asarray([2, 3, 3, 2, 1, 2, 0, 3], np.float32)
    examples = {} if known is None else {REFERENCE: np.asarray(known, np.float32)}
    features = Features(np.arange(9), {}, {"row": np.repeat(np.arange(4), 2), **examples})
    return tables.build(options).metrics({"log_prob": log_probs, "counted": counted}, features, rows(prompt=["a"]))


def test_metrics_by_hand():
    zeros, found = [0.0] * 8, measured(config.Preference(beta=0.5), [0.0] * 8)
    assert found == pytest.approx({"accuracy": 1 / 3, "margin": 0.5 * (4 - 4 + 0) / 3})
    means = measured(config.Preference(loss="ipo", beta=0.5), zeros)
    assert means == pytest.approx({"accuracy": 1 / 3, "margin": 0.5 * (1 - 1 - 1.5) / 3})
    assert measured(config.Preference(loss="orpo", beta=0.5)) == means
    shifted = measured(config.Preference(beta=0.5), [4, 0, 0, 4, 0, 0, 0, 0])
    assert shifted == pytest.approx({"accuracy": 0.0, "margin": 0.0}, abs=1e-7)
    shifted = measured(config.Preference(beta=0.5), [-1, 0, -1, 0, -1, 0, 0, 0])
    assert shifted == pytest.approx({"accuracy": 2 / 3, "margin": 0.5 * (5 - 3 + 1) / 3})
    assert all(math.isnan(value) for value in measured(config.Preference()).values())


def test_nothing_to_measure():
    features = Features(np.arange(3), {}, {"row": np.zeros(2, np.int64)})
    outputs = {"log_prob": np.zeros(2, np.float32), "counted": np.asarray([0, 1], np.float32)}
    table = tables.build(config.Preference(loss="orpo"))
    assert table.metrics(outputs, features, rows(prompt=["a"])) == {}
    assert list(table.predictions(outputs, features, rows(prompt=["a"]))) == [
        {
            "prediction": None,
            "chosen_log_prob": None,
            "chosen_tokens": 0,
            "rejected_log_prob": 0.0,
            "rejected_tokens": 1,
        }
    ]


def test_predictions_by_hand():
    features = Features(np.arange(5), {}, {"row": np.repeat(np.arange(2), 2)})
    outputs = {"log_prob": np.asarray([-4, -5, -2, -2.0]), "counted": np.asarray([2, 3, 1, 1.0])}
    found = list(tables.build(config.Preference()).predictions(outputs, features, rows(prompt=["a", "b"])))
    assert [one["prediction"] for one in found] == ["rejected", "chosen"]
    assert (found[0]["chosen_log_prob"], found[0]["rejected_tokens"]) == (-4, 3)


def test_inputs_tell_rows_apart():
    assert tables.build(config.Preference()).inputs == ("prompt", "chosen", "rejected")
    assert tables.build(config.Preference(prompt="", tools="t")).inputs == ("chosen", "rejected", "t")


def write(file: Path, count: int) -> Path:
    """Pairs of a right and a wrong answer to what stands before or after a number."""
    lines = []
    for *before, answer in chats.counting(count):
        wrong = chats.NUMBERS[chats.NUMBERS.index(answer["content"]) - 2]
        lines.append({"prompt": before, "chosen": [answer], "rejected": [said("assistant", wrong)]})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def run_of(model: Path, cache: Path, source: Path, **changes: Any) -> config.Experiment:
    data = {"source": str(source), "encoding": "utf-8", "max_length": 64, "validation_examples": 16}
    data |= {"test_examples": 0, "train_examples": 0}
    e = experiment(model, cache, data=data, **changes)
    e.task, e.model.dropout = config.Preference(), 0.0
    return e


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    chats.save_decoder(folder / "model")
    write(folder / "pairs.jsonl", 96)
    return folder


@pytest.fixture(scope="module")
def trained(pairs, cache):
    e = run_of(pairs / "model", cache, pairs / "pairs.jsonl", train={"epochs": 12, "eval_every": 30})
    modes.train(e, str(pairs / "run"))
    return pairs


@pytest.mark.matrix
def test_a_run_learns_and_opens_in_pytorch(torch, trained, cache, tmp_path, capsys):
    """Rewards are those of the export beside the model that it began with, as AutoModelForCausalLM computes both."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = results(trained / "run")
    assert found["validation/accuracy"] > 0.9 and found["validation/loss"] < 0.5 < math.log(2)
    again = modes.evaluate(str(trained / "run"))
    assert again["validation/loss"] == pytest.approx(found["validation/loss"], rel=1e-5)
    asked = write(tmp_path / "asked.jsonl", 8)
    assert str(Predictor.open(str(trained / "run")).run) == str(trained / "run")
    evaluated = modes.evaluate(str(trained / "run"), inputs=str(asked))
    modes.predict(str(trained / "run"), str(asked), str(tmp_path / "answers.jsonl"))
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    models = [AutoModelForCausalLM.from_pretrained(trained / name).eval() for name in ("run/export", "model")]
    tokenizer = AutoTokenizer.from_pretrained(trained / "run" / "export")
    losses, correct = [], []
    for line, one in zip(asked.read_text().splitlines(), answers, strict=True):
        row, sums = json.loads(line), {}
        for name in ("chosen", "rejected"):
            ids = torch.tensor([tokenizer.apply_chat_template(row["prompt"] + row[name])["input_ids"]])
            begin = len(tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"])
            end = ids.shape[1] - len(tokenizer("\n", add_special_tokens=False)["input_ids"])
            for number, model in enumerate(models):
                with torch.no_grad():
                    scores = torch.log_softmax(model(ids).logits[0].double(), -1)
                places = torch.arange(begin - 1, end - 1)
                sums[name, number] = float(scores[places, ids[0, begin:end]].sum())
            assert one[f"{name}_log_prob"] == pytest.approx(sums[name, 0], rel=1e-4, abs=1e-3)
            assert one[f"{name}_tokens"] == end - begin
        margin = (sums["chosen", 0] - sums["chosen", 1]) - (sums["rejected", 0] - sums["rejected", 1])
        losses.append(math.log1p(math.exp(-0.1 * margin)))
        correct.append(margin > 0)
    assert evaluated["input/loss"] == pytest.approx(np.mean(losses), rel=1e-3)
    assert evaluated["input/accuracy"] == pytest.approx(np.mean(correct))


def test_what_the_start_says_is_computed_once(pairs, cache, tmp_path, capsys):
    """And kept: for the next start of the run, and for rows that its model is measured on later."""
    e = run_of(pairs / "model", cache, pairs / "pairs.jsonl", train={"steps": 1})
    e.data.cache, e.data.train_examples = str(tmp_path / "cache"), 12
    job = started(e)
    features, said = job.features["train"], capsys.readouterr().err
    assert "reference: the model as it begins answers 24 train examples" in said
    assert features.examples[REFERENCE].shape == (24,) and (features.examples[REFERENCE] < 0).all()
    assert job.features["validation"].examples[REFERENCE].shape == (32,)
    bare = dataclasses.replace(job, features={name: without(part) for name, part in job.features.items()})
    assert bare.origin == job.origin, "a run resumes where rounding is another"
    run = Workdir(tmp_path / "run")
    run.claim(job.experiment, overwrite=False)
    again = reference.of_rows(without(features), job.task, run)
    assert again.examples[REFERENCE].tolist() == features.examples[REFERENCE].tolist()
    assert again.examples.keys() == features.examples.keys() > {"row", "learned"}
    assert "answers" not in capsys.readouterr().err
    kept = [*(tmp_path / "cache" / "reference").iterdir()]
    assert len(kept) == 2 and all(file.suffix == ".npz" for file in kept)


def started(e: config.Experiment) -> Job:
    """The job of a run, before its first step."""
    return reference.referred(prepare(adapters.adopted(config.check(e))))


def without(features: Features) -> Features:
    """The features as they are before the reference is computed."""
    examples = {name: column for name, column in features.examples.items() if name != REFERENCE}
    return dataclasses.replace(features, examples=examples)


@pytest.mark.matrix
def test_the_start_of_adapters(pairs, cache, tmp_path):
    """One that adds nothing yet is the model; one that the run goes on from is part of it. ORPO has no start.

    In another dtype it is computed anew.
    """
    make = lambda **changes: dataclasses.replace(  # noqa: E731
        run_of(pairs / "model", cache, pairs / "pairs.jsonl", train={"steps": 1}), **changes
    )
    full, lora = started(make()), started(make(adapt="lora"))
    trainable = lora.program.state.trainable
    drawn = jax.tree.map(lambda x: jnp.asarray(np.random.default_rng(0).normal(0, 0.3, x.shape), x.dtype), trainable)
    adapters.write(tmp_path / "adapter", lora.experiment, drawn)
    model = config.Model(path=str(pairs / "model"), adapter=str(tmp_path / "adapter"), dropout=0.0)
    moved = started(make(adapt="lora", model=model))
    plain, same, other = (job.features["train"].examples[REFERENCE] for job in (full, lora, moved))
    np.testing.assert_allclose(same, plain, rtol=1e-5)
    assert np.abs(other - plain).max() > 0.1
    rounded = started(make(compute=config.Compute(dtype="bfloat16"))).features["train"].examples[REFERENCE]
    assert 0 < np.abs(rounded - plain).max() < 1
    assert REFERENCE not in started(make(task=config.Preference(loss="orpo"))).features["train"].examples


@pytest.mark.matrix
def test_a_run_measures_and_predicts_the_same_packed(trained, tmp_path):
    assert_packed_is_padded(trained / "run", trained / "pairs.jsonl", tmp_path)


@pytest.mark.matrix
def test_the_reference_is_kept_as_the_run_kept_its_start(pairs, cache, tmp_path):
    """Its frozen parameters in nf4, where those of the export are float32."""
    e = run_of(pairs / "model", cache, pairs / "pairs.jsonl", train={"epochs": 2}, compute={"frozen": "nf4"})
    e = dataclasses.replace(e, adapt="lora")
    modes.train(e, str(tmp_path / "run"))
    found, again = results(tmp_path / "run"), modes.evaluate(str(tmp_path / "run"))
    for name in ("validation/loss", "validation/margin"):
        assert again[name] == pytest.approx(found[name], rel=1e-4, abs=1e-6)


@pytest.mark.matrix
def test_lora_by_orpo_resumes(pairs, cache, tmp_path, monkeypatch):
    """Stopped in the middle and started again: the same weights; and with DPO, of which the reference is not saved."""
    from jaxft.modes import training

    for loss in ("orpo", "dpo"):

        def e(loss: str = loss) -> config.Experiment:
            made = run_of(pairs / "model", cache, pairs / "pairs.jsonl", train={"epochs": 2, "save_every": 2})
            return dataclasses.replace(made, adapt="lora", task=config.Preference(loss=loss))

        modes.train(e(), str(tmp_path / loss / "whole"))
        plain, steps = training.fit, []

        def stopped(step, *rest, plain=plain, steps=steps):
            def counted(state, batch):
                steps.append(1)
                if len(steps) == 6:
                    raise KeyboardInterrupt
                return step(state, batch)

            return plain(counted, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(training, "fit", stopped)
            with pytest.raises(KeyboardInterrupt):
                modes.train(e(), str(tmp_path / loss / "cut"))
        modes.train(e(), str(tmp_path / loss / "cut"))
        assert results(tmp_path / loss / "cut") == results(tmp_path / loss / "whole")
        assert weights(tmp_path / loss / "cut") == weights(tmp_path / loss / "whole")


def test_a_directory_is_read_for_pairs(pairs):
    """A model's directory answers for them where it is told to; what it began with is not known."""
    predictor = Predictor.open(str(pairs / "model"), task=config.Preference(loss="orpo"))
    assert type(predictor.engine.task) is preference.Preference and predictor.run is None
    features = Features(np.arange(3), {}, {})
    assert reference.of_rows(features, predictor.engine.task, None) is features
    with pytest.raises(UserError, match=r"config\.task\.loss is dpo, which compares with the model that a run begins"):
        reference.of_rows(features, tasks.build(config.Preference()), None)
