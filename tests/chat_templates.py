"""Chat templates of the shapes that public models have, written small, and what the assistant says by each.

Roles, headers, ends of turns, special tokens and habits are those of the models that are named; the Jinja is ours.
"""

from typing import Any, NamedTuple

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Of Qwen2, SmolLM2, OLMo and many others."""

MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML that marks what the assistant says, as SmolLM3."""

WITHOUT_PROMPT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
"""ChatML that knows no `add_generation_prompt`."""

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""Llama 3: what is said loses the blanks around it."""

LLAMA31 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "{% if m.tool_calls %} {{ m.tool_calls[0].function | tojson }}<|eom_id|>{% else %}<|eot_id|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""Llama 3.1: a call ends with another token, as the turn goes on."""

LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0].content %}"
    "{% else %}{% set rest = messages %}{% set system = '' %}{% endif %}"
    "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}{{ bos_token }}[INST] "
    "{% if loop.first and system %}<<SYS>>\n{{ system }}\n<</SYS>>\n\n{% endif %}{{ m.content }} [/INST]"
    "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
"""Llama 2: no prompt for an answer; each turn of the user begins a text."""

MISTRAL = (
    "{% set last = (messages | selectattr('role', 'equalto', 'user') | list)[-1] %}{{ bos_token }}"
    "{% for m in messages %}{% if m.role == 'user' %}"
    "{% if tools and m == last %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "[INST] {{ m.content }}[/INST]{% elif m.role == 'tool' %}[TOOL_RESULTS] {{ m.content }}[/TOOL_RESULTS]"
    "{% elif m.tool_calls %}[TOOL_CALLS] {{ m.tool_calls | tojson }}{{ eos_token }}"
    "{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
"""Mistral 7B v0.3: tools stand before the last turn of the user, wherever that is."""

ZEPHYR = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content + eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""Zephyr, TinyLlama: headers are no tokens."""

GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""Gemma: the assistant has another name."""

PHI3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
"""Phi-3: behind the last turn stands a token that ends the text."""

QWEN3 = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}"
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n"
    "</tool_response><|im_end|>\n{% elif m.role == 'assistant' %}{% set said = m.content %}"
    "{% set thought = m.reasoning_content or '' %}"
    "{% if '</think>' in said %}{% set thought = said.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}<|im_start|>assistant\n"
    "{% if loop.index0 > ns.last and (loop.last or thought) %}<think>\n{{ thought }}\n</think>\n\n{% endif %}{{ said }}"
    "{% for c in m.tool_calls or [] %}{% if said or not loop.first %}\n{% endif %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen3: what was thought before the last turn of the user is left out; the last turn always says that it thinks."""

DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}"
    "{% elif m.role == 'assistant' %}<|Assistant|>{{ m.content.split('</think>')[-1] }}{{ eos_token }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
"""DeepSeek-R1: its prompt begins a thought that no rendered turn has."""

VICUNA = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }} {% elif m.role == 'user' %}USER: {{ m.content }}"
    "{% else %} ASSISTANT: {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
"""Vicuna: words as headers, and a blank between header and answer."""

ALPACA = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n"
    "{% elif m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n{% else %}### Response:\n{{ m.content }}\n\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}### Response:\n{% endif %}"
)
"""Alpaca: nothing ends a turn but two line breaks."""

WORDS = (
    "{% for m in messages %}{{ m.role }}:\n{{ m.content }} [done]\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)
"""Ends of turns that are no tokens."""

LAST = (
    "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}{{ eos_token if loop.last else '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
"""A token that ends the text and no turn before it."""

ENDLESS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | upper if m.role == 'user' else m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""No ends: the token behind a turn begins the next one. What the user says is changed."""

TWO = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|end|><|eot|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A token that ends turns and begins as another does."""

GRANITE = (
    "{% for m in messages %}<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)
"""Granite 3."""

SPECIAL = (
    *("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|end|>", "[INST]", "[/INST]", "[TOOL_CALLS]"),
    *("<|User|>", "<|Assistant|>", "<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>", "<tool_call>"),
    *("</tool_call>", "<think>", "</think>", "<|eom_id|>", "<|end|><|eot|>", "<|eot|>"),
)
"""Tokens that the tokenizer of a test has for these."""


def said(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


SYSTEM, FIRST, SECOND = said("system", "Be brief."), said("user", "Hi there"), said("user", "And 2+2?")
HELLO, FOUR = said("assistant", "Hello."), said("assistant", "It is 4.")
SHORT = [FIRST, HELLO, SECOND, FOUR]
LONG = [SYSTEM, *SHORT]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"a": {"type": "number"}}}}]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
CALLED = said("assistant", "", tool_calls=[CALL])
AFTER_A_TOOL = [SECOND, CALLED, said("tool", "4"), FOUR]
THOUGHT = said("assistant", "<think>\nwell\n</think>\n\nHello.")


class Case(NamedTuple):
    """A template, messages, and what of their text is learned, turn by turn."""

    template: str
    messages: list[dict[str, Any]]
    learned: list[str]
    tools: list[dict[str, Any]] | None = None


_CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'
_MISTRAL_CALL = '[TOOL_CALLS] [{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}]</s>'
_EMPTY = "<think>\n\n</think>\n\n"

CASES = {
    "chatml": Case(CHATML, LONG, ["Hello.<|im_end|>", "It is 4.<|im_end|>"]),
    "chatml, the user last": Case(CHATML, SHORT[:3], ["Hello.<|im_end|>"]),
    "chatml, blanks are said": Case(CHATML, [FIRST, said("assistant", " a \n\n")], [" a \n\n<|im_end|>"]),
    "chatml, like a header": Case(
        CHATML, [FIRST, said("assistant", "<|im_start|>assistant\nHello."), SECOND, FOUR],
        ["<|im_start|>assistant\nHello.<|im_end|>", "It is 4.<|im_end|>"],
    ),
    "chatml, marked": Case(MARKED, LONG, ["Hello.<|im_end|>", "It is 4.<|im_end|>"]),
    "chatml, no prompt": Case(WITHOUT_PROMPT, LONG, ["Hello.<|im_end|>", "It is 4.<|im_end|>"]),
    "llama 3": Case(LLAMA3, LONG, ["Hello.<|eot_id|>", "It is 4.<|eot_id|>"]),
    "llama 3, stripped": Case(LLAMA3, [FIRST, said("assistant", " \nHello. ")], ["Hello.<|eot_id|>"]),
    "llama 3.1, a tool": Case(
        LLAMA31,
        [SECOND, {**CALLED, "content": "I add."}, said("tool", "4"), FOUR],
        ['I add. {"name": "add", "arguments": {"a": 2}}<|eom_id|>', "It is 4.<|eot_id|>"],
    ),
    "llama 2": Case(LLAMA2, LONG, [" Hello. </s>", " It is 4. </s>"]),
    "mistral": Case(MISTRAL, SHORT, [" Hello.</s>", " It is 4.</s>"]),
    "mistral, a tool": Case(MISTRAL, AFTER_A_TOOL, [_MISTRAL_CALL, " It is 4.</s>"], TOOLS),
    "mistral, tools move": Case(MISTRAL, SHORT, ["Hello.</s>", " It is 4.</s>"], TOOLS),
    "zephyr": Case(ZEPHYR, LONG, ["Hello.</s>", "It is 4.</s>"]),
    "gemma": Case(GEMMA, SHORT, ["Hello.<end_of_turn>", "It is 4.<end_of_turn>"]),
    "phi 3": Case(PHI3, LONG, ["Hello.<|end|>", "It is 4.<|end|>"]),
    "qwen 3": Case(QWEN3, SHORT, ["Hello.<|im_end|>", f"{_EMPTY}It is 4.<|im_end|>"]),
    "qwen 3, thoughts are dropped": Case(
        QWEN3, [FIRST, THOUGHT, SECOND, FOUR], ["Hello.<|im_end|>", f"{_EMPTY}It is 4.<|im_end|>"]
    ),
    "qwen 3, the last thought": Case(QWEN3, [FIRST, THOUGHT], ["<think>\nwell\n</think>\n\nHello.<|im_end|>"]),
    "qwen 3, a tool": Case(QWEN3, AFTER_A_TOOL, [f"{_CALL}<|im_end|>", f"{_EMPTY}It is 4.<|im_end|>"], TOOLS),
    "qwen 3, a thought before a tool, then more": Case(
        QWEN3,
        [SECOND, {**CALLED, "reasoning_content": "add"}, said("tool", "4"), FOUR, FIRST, HELLO],
        [f"{_CALL}<|im_end|>", "It is 4.<|im_end|>", f"{_EMPTY}Hello.<|im_end|>"],
        TOOLS,
    ),
    "deepseek r1": Case(DEEPSEEK, LONG, ["Hello.</s>", "It is 4.</s>"]),
    "deepseek r1, thoughts are dropped": Case(DEEPSEEK, [FIRST, THOUGHT], ["\n\nHello.</s>"]),
    "vicuna": Case(VICUNA, LONG, [" Hello.</s>", " It is 4.</s>"]),
    "alpaca": Case(ALPACA, LONG, ["Hello.", "It is 4."]),
    "words": Case(WORDS, LONG, ["Hello. [done]", "It is 4. [done]"]),
    "the last alone": Case(LAST, [FIRST, HELLO, SECOND, FOUR], ["Hello.", "It is 4.</s>"]),
    "no ends": Case(ENDLESS, SHORT, ["Hello.", "It is 4."]),
    "two tokens": Case(TWO, LONG, ["Hello.<|end|><|eot|>", "It is 4.<|end|><|eot|>"]),
    "granite": Case(GRANITE, LONG, ["Hello.<|end_of_text|>", "It is 4.<|end_of_text|>"]),
}  # fmt: skip
