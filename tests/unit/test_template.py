"""Chat templates: what they write, and that a hostile one costs a line and no more."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import ModelFileError, RequestError
from edge.formats.gguf_file import Header
from edge.template import MAX_SOURCE, ChatTemplate

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HEADERS = """
{%- for message in messages %}
    {%- set role = '<|start|>' + message.role + '<|end|>\n\n' %}
    {%- set content = role + message.content | trim + '<|eot|>' %}
    {%- if loop.index0 == 0 %}
        {%- set content = bos_token + content %}
    {%- endif %}
    {{- content }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant<|end|>\n\n' }}
{%- endif %}
"""
THINKS = """
{%- for message in messages %}
    {%- if message.role == 'assistant' and '</think>' in message.content %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\n') %}
    {%- else %}
        {%- set content = message.content %}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\n' ~ content ~ '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""
HI = [{"role": "user", "content": "hi"}]


def turns(*contents: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]


@pytest.mark.parametrize(
    ("source", "messages", "text"),
    [
        (
            CHATML,
            HI,
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        (
            CHATML,
            [{"role": "system", "content": "S"}, *HI],
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        (
            HEADERS,
            turns("  a ", "b", "c\n"),
            "<bos><|start|>user<|end|>\n\na<|eot|><|start|>assistant<|end|>\n\nb<|eot|>"
            "<|start|>user<|end|>\n\nc<|eot|><|start|>assistant<|end|>\n\n",
        ),
        (
            THINKS,
            turns("q", "<think>long</think>\n\nshort", "r"),
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nshort<|im_end|>\n"
            "<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        ),
        ("{{ messages[0].content | tojson }}", turns('<a> "é"'), '"<a> \\"é\\""'),
        ("{{ strftime_now('%%') }}{% if tools or documents %}x{% endif %}", HI, "%"),
    ],
)
def test_what_it_writes(source: str, messages: list[dict[str, str]], text: str) -> None:
    rendering = ChatTemplate(source).render(messages, special_tokens={"bos_token": "<bos>"})
    assert rendering.text == text
    assert rendering.contents == tuple(message["content"] for message in messages)


def test_thinking_and_no_generation_prompt() -> None:
    template = ChatTemplate(THINKS)
    assert template.render(HI, enable_thinking=True).text.endswith("assistant\n")
    assert template.render(HI, add_generation_prompt=False).text.endswith("hi<|im_end|>\n")


@settings(max_examples=15, deadline=None)
@given(contents=st.lists(st.text(max_size=30), min_size=1, max_size=3))
def test_knows_which_characters_are_a_message_s(contents: list[str]) -> None:
    """What is not marked in one copy is the template's or white space."""
    safe = [text.encode("utf-8", "ignore").decode() for text in contents]
    rendering = ChatTemplate(CHATML).render(turns(*safe))
    assert rendering.is_aligned
    written = [
        character
        for character, shown in zip(rendering.text, rendering.marked, strict=True)
        if shown == rendering.mark
    ]
    assert written == [c for text in safe for c in text if not c.isspace()]


def test_a_template_that_moves_text_about_is_not_aligned() -> None:
    rendering = ChatTemplate(THINKS).render(turns("q", "<think>long</think>short"))
    assert not rendering.is_aligned


@pytest.mark.parametrize(
    ("messages", "wanted"),
    [
        ([{"role": "user"}], "form"),
        ([{"role": "user", "content": "x", "name": "y"}], "form"),
        (["hi"], "form"),
        ([{"role": "", "content": "x"}], "role"),
        ([{"role": "a b", "content": "x"}], "role"),
        ([{"role": "<|im_end|>", "content": "x"}], "role"),
        ([{"role": 3, "content": "x"}], "role"),
        ([{"role": "user", "content": 3}], "content is of type int"),
        ([{"role": "user", "content": "\ud800"}], "lone surrogate"),
        ([{"role": "user", "content": "x" * 2**20}] * 2, "characters"),
    ],
)
def test_messages_that_are_none(messages: list[Any], wanted: str) -> None:
    with pytest.raises(RequestError, match=wanted) as caught:
        ChatTemplate(CHATML).render(messages)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_template_may_refuse() -> None:
    with pytest.raises(RequestError, match="only one turn"):
        ChatTemplate("{{ raise_exception('only one turn') }}").render(HI)


HOSTILE = {
    "endless": "{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}",
    "doubling": "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}"
    "{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x | length }}",
    "long": "{{ 'a' * 10000000000 }}",
    "wide": "{{ 'a' | center(100000000000) }}",
    "much": "{% for i in range(9000) %}{{ 'a' * 1000 }}{% endfor %}",
    "itself": "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "nesting": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "signs": "{{ " + "-" * 200_000 + "1 }}",
    "unclosed": "{% for",
    "unknown filter": "{{ messages | steal }}",
    "unknown test": "{{ 1 is evil }}",
    "undefined": "{{ a.b.c }}",
    "include": "{% include '/etc/passwd' %}",
    "extends": "{% extends '/etc/passwd' %}",
    "import": "{% import 'os' as os %}{{ os }}",
    "attributes": "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "function": "{{ raise_exception.__globals__ }}{{ strftime_now.__self__.x }}",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_hostile(source: str) -> None:
    with pytest.raises(ModelFileError, match=r"chat template.*model\.gguf.*--raw") as caught:
        ChatTemplate(source, path="model.gguf").render(HI)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_the_caller_s_messages_stay_as_they_are() -> None:
    messages = turns("a", "b")
    with suppress(ModelFileError):
        ChatTemplate("{{ messages.clear() }}{{ messages.append(1) }}").render(messages)
    assert messages == turns("a", "b")


@pytest.mark.parametrize("value", [5, ["a"], "x" * (MAX_SOURCE + 1)], ids=["5", "list", "long"])
def test_what_is_no_template(value: Any) -> None:
    header = Header("m.gguf", {"tokenizer.chat_template": value}, {}, 0, 0)
    with pytest.raises(ModelFileError, match=r"tokenizer.chat_template.*m\.gguf"):
        ChatTemplate.from_header(header)


@pytest.mark.parametrize("metadata", [{}, {"tokenizer.chat_template": ""}])
def test_no_template(metadata: dict[str, Any]) -> None:
    assert ChatTemplate.from_header(Header("m.gguf", metadata, {}, 0, 0)) is None
