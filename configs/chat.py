"""Teach a decoder to answer: conversations, of which the assistant's turns alone are learned.

  python run.py --config=configs/chat.py:conversations.jsonl --workdir=/tmp/chat

A row of conversations.jsonl holds `messages`, {role, content} each, of system, user, assistant and tool. The chat
template of the tokenizer makes a text of them; which of its tokens the assistant says is told by the template's marks
({% generation %}), or found, and a row of which that is not certain is refused. What is longer than data.max_length is
cut at its end, and how many turns that cuts is said. Prompts and completions instead:

  python run.py --config=configs/chat.py:pairs.csv --workdir=/tmp/chat --config.task.messages=

A model without a template is given one, which its export then has:

  python run.py --config=configs/chat.py:conversations.jsonl --workdir=/tmp/chat \\
    --config.model.path=openai-community/gpt2 --config.task.template=chatml.jinja

Some rows to try it on:

  for n in $(seq 20); do printf '{"messages": [{"role": "user", "content": "What follows %d?"},
    {"role": "assistant", "content": "%d"}]}\\n' $n $((n + 1)) | tr -d '\\n'; echo; done > conversations.jsonl

Qwen3-0.6B by LoRA, and all of Llama-3.2-1B, on the eight chips of a v5e-8. Nobody has run these yet. What `--mode=plan`
says of a step of 32 rows of 2,048 tokens, of times a bound and no forecast (docs/plan.md):

                              needs a chip       step    tokens a day  utilization
  Qwen3-0.6B, LoRA, data 8    7.13 of 15.75 GiB  0.46 s  12.4e9        46%
  Llama-3.2-1B, fsdp 8        8.92 of 15.75 GiB  0.74 s  7.7e9         47%

For one H100 (80 GB) leave `mesh` out. The planner compiles for GPUs that are attached alone: of the same step on one
chip of v5p it says 32.9 and 67.5 GiB, 349 and 683 TFLOP, 4.4 and 4.1 TB to and from memory, by plain attention. At the
rates of an H100's data sheet that much traffic takes 1.3 and 1.2 s; what XLA needs there nobody has seen.

  python run.py --config=configs/chat.py:conversations.jsonl --workdir=/tmp/qwen --config.model.path=Qwen/Qwen3-0.6B \\
    --config.adapt=lora --config.optimizer.learning_rate=2e-4 --config.compute.dtype=bfloat16 \\
    --config.compute.remat=true --config.compute.scan=true --config.data.max_length=2048
  python run.py --config=configs/chat.py:conversations.jsonl --workdir=/tmp/llama --config.compute.remat=true \\
    --config.compute.scan=true --config.model.path=meta-llama/Llama-3.2-1B-Instruct --config.compute.dtype=bfloat16 \\
    --config.mesh.data=1 --config.mesh.fsdp=8 --config.data.max_length=2048

What comes out opens with AutoModelForCausalLM and its chat template, an adapter with peft.
"""

from jaxft.config import Chat, Data, Experiment, Model, Optimizer, Train


def get_config(source: str) -> Experiment:
    return Experiment(
        name="chat",
        model=Model(path="HuggingFaceTB/SmolLM2-135M-Instruct"),
        task=Chat(),
        data=Data(source=source, max_length=1024),
        optimizer=Optimizer(learning_rate=2e-5),
        train=Train(batch_size=32, epochs=3),
    )
