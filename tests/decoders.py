"""A small decoder with a tokenizer of its own."""

import json
from pathlib import Path
from typing import Any

import support
from tokenizers import Tokenizer, pre_tokenizers, processors, trainers
from tokenizers import decoders as tokenizer_decoders
from tokenizers import models as tokenizer_models

from jaxft import config, models, tasks
from jaxft.hub import export

TEXTS = ["the cat sat on the mat", "I", "dogs run", "the mat sat on the cat and the dog " * 3]


def save(directory: Path, **keys: Any) -> Path:
    """Writes a small random Llama, with a byte-level tokenizer that begins texts and ends none; returns where."""
    save_tokenizer(directory)
    hf = {**support.ARCHITECTURES["llama"], "vocab_size": 300, "max_position_embeddings": 64, "num_hidden_layers": 1}
    hf |= keys
    model, task = models.build(hf), tasks.build(config.CausalLM())
    params = support.random_params(task, model, seed=0)
    made = directory / "model"
    export.export(made, params, hf, model.hf_class(task.hf_class), directory, "A small model.\n")
    return made


def save_tokenizer(directory: Path) -> None:
    made = Tokenizer(tokenizer_models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    made.decoder = tokenizer_decoders.ByteLevel()  # pyright: ignore
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=letters)  # pyright: ignore
    made.train_from_iterator(TEXTS, trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])  # pyright: ignore
    made.save(str(directory / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    text = json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names})
    (directory / "tokenizer_config.json").write_text(text)
