"""Chat templates of strangers end within a bound on time and size, and those of known models render as they did."""

from __future__ import annotations

import resource
import time
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from regraft.errors import DataError, Unsupported
from regraft.tasks.inputs.chat_template import end_token_id, render_prompt
from support.language_models import byte_tokenizer

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "<think>\nsum\n</think>\n\n4"},
    {"role": "user", "content": "sure?"},
]
DOUBLED = "{%% set ns = namespace(x=%s) %%}{%% for i in range(60) %%}{%% set ns.x = %s %%}{%% endfor %%}{{ ns.x }}"
COSTLY = {
    "a power": "{{ 10**(10**9) }}",
    "powers in turn": DOUBLED % ("3", "ns.x * ns.x"),
    "a repeated text": "{{ 'a' * 10**11 }}",
    "a repeated list": "{{ [1] * 10**11 }}",
    "joined texts": DOUBLED % ("'a'*1000", "ns.x ~ ns.x"),
    "added texts": DOUBLED % ("'a'*1000", "ns.x + ns.x"),
    "dicts in dicts": DOUBLED % ("1", "dict(a=ns.x, b=ns.x)"),
    "a wide filter": "{{ 'a' | center(10**9) }}",
    "a wide method": "{{ 'a'.ljust(1000000000) }}",
    "a wide format": "{{ '{:1000000000}'.format(1) }}",
    "a wide percent": "{{ '%1000000000d' % 1 }}",
    "a wide star": "{{ '%*d' % (10**9, 1) }}",
    "a wide format filter": "{{ '%1000000000d' | format(1) }}",
    "a replaced text": "{{ ('a' * 1000000) | replace('a', 'b' * 1000000) }}",
    "a replacing method": "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
    "a long separator": "{{ range(100000) | join('a' * 100000) }}",
    "an indent": "{{ messages | tojson(indent=10**9) }}",
    "a batch": "{{ [1] | batch(10**9, 'x') | list }}",
    "a mapped filter": "{{ range(100000) | map('center', 100000) | list }}",
    "tabs": "{{ ('\t' * 1000000).expandtabs(100000) }}",
    "bytes": "{{ (1).to_bytes(1000000000, 'big') }}",
    "a rounding": "{{ 1.5 | round(10**9) }}",
    "much output": "{% for i in range(100000) %}{{ 'a' * 10000 }}{% endfor %}",
    "much text in a block": "{% set x %}{% for i in range(100000) %}" + "y" * 200_000 + "{% endfor %}{% endset %}",
    "a recursive loop": "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "a macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "a long source": "{{ '" + "a" * 300_000 + "' }}",
}
SLOW = {
    "loops in loops": "{% set r = range(100000) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}",
    "lists in lists": DOUBLED % ("[1]", "[ns.x, ns.x]"),
    "macros that call twice": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "slices": "{% set b = 'a' * 4000000 %}{% for i in range(100000) %}{% set x = b[1:] %}{% endfor %}",
    "comparisons": "{% set b = 'a' * 4000000 %}{% set c = b[1:] + 'a' %}{% for i in range(100000) %}"
    "{% if b == c %}{% endif %}{% endfor %}",
    "marked turns": "{% for i in range(100000) %}{% generation %}{{ 'a' * 40 }}{% endgeneration %}{% endfor %}",
    "sums of lists": "{{ ([[1] * 1000] * 1000) | sum(start=[]) }}",
}
LLAMA = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = '<|begin_of_text|>' + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' ~ message.role ~ '\n' ~ message.content ~ '<|im_end|>' ~ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN = (
    "{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}"
    "{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}"
    "{%- if ns.multi_step_tool and message.role == 'user' and message.content is string %}"
    "{%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}{%- endif %}{%- endfor %}"
    "{%- for message in messages %}{%- set content = message.content %}{%- if message.role == 'assistant' %}"
    "{%- set reasoning = '' %}{%- if '</think>' in content %}"
    "{%- set reasoning = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{%- if loop.index0 > ns.last_query_index %}{{- '<|im_start|>' + message.role + '\n<think>\n' + "
    "reasoning.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}{%- else %}"
    "{{- '<|im_start|>' + message.role + '\n' + content }}{%- endif %}{{- '<|im_end|>\n' }}{%- else %}"
    "{{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
MISTRAL = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}"
    "{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}{{- '<s>' }}"
    "{%- for message in loop_messages %}{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('roles must alternate') }}{%- endif %}{%- if message['role'] == 'user' %}"
    "{%- if loop.first and system_message is defined %}{{- '[INST] ' + system_message + '\n\n' + message['content'] + "
    "'[/INST]' }}{%- else %}{{- '[INST] ' + message['content'] + '[/INST]' }}{%- endif %}{%- else %}"
    "{{- ' ' + message['content'] + eos_token | default('') }}{%- endif %}{%- endfor %}"
)
GEMMA = (
    "{{ '<bos>' }}{%- if messages[0]['role'] == 'system' -%}{%- set first = messages[0]['content'] + '\n\n' -%}"
    "{%- set loop_messages = messages[1:] -%}{%- else -%}{%- set first = '' -%}{%- set loop_messages = messages -%}"
    "{%- endif -%}{%- for message in loop_messages -%}{%- if (message['role'] == 'assistant') -%}{%- set role = "
    "'model' -%}{%- else -%}{%- set role = message['role'] -%}{%- endif -%}{{ '<start_of_turn>' + role + '\n' + "
    "(first if loop.first else '') }}{%- if message['content'] is string -%}{{ message['content'] | trim }}"
    "{%- elif message['content'] is iterable -%}{%- for item in message['content'] -%}{{ item['text'] | trim }}"
    "{%- endfor -%}{%- endif -%}{{ '<end_of_turn>\n' }}{%- endfor -%}{%- if add_generation_prompt -%}"
    "{{ '<start_of_turn>model\n' }}{%- endif -%}"
)
TOOLS = (
    "{% macro line(role, text='') %}[{{ role|upper }}] {{ caller() if caller else text }}{% endmacro %}"
    "{% for m in messages if m.role != 'system' %}{{ line(m.role, m.content|replace('\n', ' ')|tojson) }}"
    "{{ ', ' if not loop.last }}{% endfor %}{% for k, v in {'a': 1, 'b': [2, 3]}.items() %}{{ k }}={{ v }};{% endfor %}"
    "{{ messages|map(attribute='role')|unique|join('/') }} {{ '%s-%d' % ('x', 7) }} {{ '{:>5}'.format('y') }}"
    "{{ [1, 2, 3]|sum }} {{ range(3)|list }} {{ messages|selectattr('role', 'eq', 'user')|list|length }}"
    "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ loop.length }}{{ loop.last }}{% endfor %}"
)
KNOWN = {"llama": LLAMA, "chatml": CHATML, "qwen": QWEN, "mistral": MISTRAL, "gemma": GEMMA, "tools": TOOLS}


@pytest.fixture(scope="module")
def processor() -> Any:
    return byte_tokenizer()


def refuse(template: str, processor: Any) -> str:
    """Return the message of a template that is refused, after little time and memory."""
    before, memory = time.thread_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError) as refused:
        render_prompt(TALK, template, processor)
    assert time.thread_time() - before < 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 600 << 10
    return refused.value.message


@pytest.mark.parametrize("name", COSTLY)
def test_a_template_that_would_not_end_is_stopped(name: str, processor: Any) -> None:
    message = refuse(COSTLY[name], processor)
    assert "the chat template" in message
    assert len(message) < 600


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_template_that_works_on_is_stopped(name: str, processor: Any) -> None:
    assert "the chat template is stopped: it " in refuse(SLOW[name], processor)


def test_a_template_is_refused_when_a_model_takes_it(processor: Any) -> None:
    with pytest.raises(Unsupported, match="8,192 bits") as refused:
        end_token_id(COSTLY["a power"], processor)
    assert refused.value.where == "task.template"


def test_namespaces_in_namespaces_are_no_endless_text(processor: Any) -> None:
    sets = "".join(f"{{% set n{i + 1} = namespace(a=n{i}, b=n{i}) %}}" for i in range(60))
    assert render_prompt(TALK, "{% set n0 = namespace(a=1) %}" + sets + "{{ n60 }}", processor) == "<namespace>"


@pytest.mark.parametrize("name", KNOWN)
def test_templates_of_known_models_render_as_transformers_renders_them(name: str, processor: Any) -> None:
    expected, _ = render_jinja_template(
        conversations=[TALK],
        chat_template=KNOWN[name],
        add_generation_prompt=True,
        **processor.special_tokens_map,
    )
    assert render_prompt(TALK, KNOWN[name], processor) == expected[0]


def test_a_long_conversation_renders(processor: Any) -> None:
    talk = [{"role": "user" if n % 2 == 0 else "assistant", "content": "word " * 50} for n in range(999)]
    for template in (LLAMA, CHATML, QWEN, MISTRAL, GEMMA):
        assert len(render_prompt(talk, template, processor)) > 200_000
