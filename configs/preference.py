"""Teach a decoder which of two answers is preferred: DPO, IPO or ORPO.

  python run.py --config=configs/preference.py:pairs.jsonl --workdir=/tmp/preference

A row of pairs.jsonl holds `prompt`, `chosen` and `rejected`, texts or lists of messages, of which the tokenizer's chat
template makes conversations; where both answers are whole conversations:

  python run.py --config=configs/preference.py:pairs.jsonl --workdir=/tmp/preference --config.task.prompt=

What the model as it begins says of the answers is computed once before the first step, and kept, so that no second
model is held: by LoRA or in full, memory is that of ordinary training. ORPO wants no such reference:

  python run.py --config=configs/preference.py:pairs.jsonl --workdir=/tmp/preference --config.task.loss=orpo

Begin with a model that answers already, such as the export of configs/chat.py. Some rows to try it on:

  for n in $(seq 20); do printf '{"prompt": "What follows %d?", "chosen": "%d", "rejected": "%d"}\\n' \\
    $n $((n + 1)) $((n + 2)); done > pairs.jsonl

Qwen3-0.6B by LoRA, and all of Llama-3.2-1B, on the eight chips of a v5e-8. Nobody has run these yet. What `--mode=plan`
says of a step of 16 pairs, both answers of 2,048 tokens side by side, of times a bound and no forecast (docs/plan.md):

                              needs a chip        step    tokens a day  utilization
  Qwen3-0.6B, LoRA, data 8    7.13 of 15.75 GiB   0.51 s  11.1e9        41%
  Llama-3.2-1B, fsdp 8        9.48 of 15.75 GiB   0.77 s  7.4e9         45%

For one H100 leave `mesh` out; that is not planned.

  python run.py --config=configs/preference.py:pairs.jsonl --workdir=/tmp/qwen --config.model.path=Qwen/Qwen3-0.6B \\
    --config.adapt=lora --config.optimizer.learning_rate=5e-6 --config.compute.dtype=bfloat16 \\
    --config.compute.remat=true --config.compute.scan=true --config.data.max_length=2048 --config.train.batch_size=16
  python run.py --config=configs/preference.py:pairs.jsonl --workdir=/tmp/llama --config.compute.remat=true \\
    --config.compute.scan=true --config.model.path=meta-llama/Llama-3.2-1B-Instruct --config.compute.dtype=bfloat16 \\
    --config.mesh.data=1 --config.mesh.fsdp=8 --config.data.max_length=2048 --config.train.batch_size=16
"""

from jaxft.config import Data, Experiment, Model, Optimizer, Preference, Train


def get_config(source: str) -> Experiment:
    return Experiment(
        name="preference",
        model=Model(path="HuggingFaceTB/SmolLM2-135M-Instruct", dropout=0.0),
        task=Preference(),
        data=Data(source=source, max_length=1024),
        optimizer=Optimizer(learning_rate=5e-7),
        train=Train(batch_size=32, epochs=1),
    )
