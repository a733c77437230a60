"""A small decoder that speaks ChatML, and conversations in a language that it can learn in seconds."""

import json
from pathlib import Path
from typing import Any

import support
from chat_templates import CHATML, SPECIAL, said
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models

from jaxft import config, models, tasks
from jaxft.hub import export
from jaxft.hub.directory import CHAT_TEMPLATE

NUMBERS = ("one", "two", "three", "four", "five", "six")
WORDS = (*NUMBERS, "after", "before", "assistant", "user", "system", "\n")


def save_tokenizer(directory: Path, template: str = CHATML) -> Path:
    """One of bytes and a few words, with the special tokens of many templates."""
    made = Tokenizer(tokenizer_models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    made.decoder = decoders.ByteLevel()  # pyright: ignore
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=letters, show_progress=False)  # pyright: ignore
    made.train_from_iterator([" ".join(WORDS), *WORDS] * 3, trainer)
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    beginning = [("<s>", made.token_to_id("<s>"))]  # which no template asks for
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=beginning)  # pyright: ignore
    directory.mkdir(exist_ok=True)
    made.save(str(directory / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "<|im_end|>"}  # none for padding, of which there is no need
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    if template:
        (directory / CHAT_TEMPLATE).write_text(template)
    return directory


def save_decoder(directory: Path, template: str = CHATML, length: int = 64) -> Path:
    """A small random Llama of one layer, as a Hugging Face directory."""
    source = save_tokenizer(directory.with_name(f"{directory.name}-tokenizer"), template)
    size = len(json.loads((source / "tokenizer.json").read_text())["model"]["vocab"]) + len(SPECIAL)
    hf = {**support.ARCHITECTURES["llama"], "vocab_size": size, "max_position_embeddings": length}
    hf = {**hf, "num_hidden_layers": 1, "tie_word_embeddings": True}
    del hf["pad_token_id"], hf["bos_token_id"], hf["eos_token_id"]
    model, task = models.build(hf), tasks.build(config.CausalLM())
    params = support.random_params(task, model, seed=0)
    export.export(directory, params, hf, model.hf_class(task.hf_class), source, "A small decoder.\n")
    return directory


def counting(count: int) -> list[list[dict[str, Any]]]:
    """Conversations of three questions each, no two alike: which number stands before or after another."""
    sides = (("after", 1), ("before", -1))
    questions = [(f"{side} {one}", NUMBERS[(at + step) % 6]) for side, step in sides for at, one in enumerate(NUMBERS)]
    found = []
    for number in range(count):
        chosen = (number * 577) % 12**3  # 577 and 12 share no factor
        asked = [questions[chosen // 12**place % 12] for place in range(3)]
        found.append([one for ask, answer in asked for one in (said("user", ask), said("assistant", answer))])
    return found
