"""Hostile templates: nothing of Python is reached, and what they may cost is bounded."""

from __future__ import annotations

import tracemalloc

import pytest

from penstock.errors import TemplateError
from penstock.text.budget import Limits
from penstock.text.templates import ChatTemplate

MESSAGES = [{"role": "user", "content": "hi"}]
SMALL = Limits(steps=200_000, chars=4 << 20, seconds=1.0)
NS = "{% set ns = namespace(x=START) %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x }}"


def grow(start: str, step: str) -> str:
    return NS.replace("START", start).replace("STEP", step)


BOMBS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) if false %}x{% endfor %}{% endfor %}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% for x in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}",
    "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{% macro f() %}{% for i in range(99) %}{{ caller() }}{% endfor %}{% endmacro %}"
    "{% call f() %}{% call f() %}{% call f() %}{% call f() %}x{% endcall %}{% endcall %}{% endcall %}{% endcall %}",
    "{{ 'a' * 10**9 }}", "{{ 10**9 * 'a' }}", "{{ [1] * 10**9 }}", "{{ 9**(9**9) }}",
    "{{ ((range(99999) | list) * 80) | sort | length }}", grow("2", "ns.x * ns.x"),
    grow("'a'", "ns.x ~ ns.x"), grow("'a'", "ns.x + ns.x"), grow("['a']", "ns.x + ns.x"),
    grow("['a']", "[ns.x, ns.x]"), grow("['a']", "(ns.x, ns.x)"), grow("['a']", "{'a': ns.x, 'b': ns.x}"),
    grow("['a']", "(ns.x + ns.x) | batch(2) | list"), grow("'ab'", "ns.x.replace('a', ns.x)"),
    grow("'ab'", "ns.x | replace('a', ns.x)"), grow("'ab'", "ns.x.join([ns.x, ns.x, ns.x])"),
    grow("'ab'", "[ns.x, ns.x] | join"), grow("'ab'", "'%s%s' % (ns.x, ns.x)"),
    grow("'ab'", "'%s%s' | format(ns.x, ns.x)"), grow("'ab'", "'{0}{0}'.format(ns.x)"),
    grow("['a']", "[ns.x | tojson, ns.x | tojson]"), grow("'ab\\n'", "(ns.x ~ '\\nb') | indent(ns.x)"),
    "{{ 'a' | center(10**9) }}", "{{ 'a'.center(10**9) }}", "{{ 'a'.ljust(10**9) }}", "{{ 'a'.zfill(10**9) }}",
    "{{ '\t'.expandtabs(10**9) }}", "{{ 'a' | indent(10**9) }}", "{{ 'a' | indent(width=10**9) }}",
    "{{ [1] | slice(10**9) | list }}", "{{ [1] | batch(10**9, 0) | list }}", "{{ 1 | round(10**9) }}",
    "{{ '%1000000000d' % 1 }}", "{{ '%*d' % (10**9, 1) }}", "{{ '%.1000000000f' % 1.0 }}",
    "{{ '%(a)1000000000d' % {'a': 1} }}", "{{ '%1000000000d' | format(1) }}", "{{ '{:>1000000000}'.format(1) }}",
    "{{ '{:{w}}'.format(1, w=10**9) }}", "{{ '{:{}}'.format(1, 10**9) }}", "{{ messages | tojson(indent=10**9) }}",
    "{{ range(99999) | join('x' * 99999) | length }}", "{{ ('a\n' * 99999) | indent('b' * 99999) | length }}",
    "{{ range(99999) | map('center', 90000) | list | length }}", "{{ [[1]] | sum(start=[]) }}",
    "{% for i in range(99999) %}{{ 'xxxxxxxxxx' * 9999 }}{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% set ns = namespace(l=[]) %}"
    "{% for i in range(9999) %}{% set ns.l = ns.l + [x[1:]] %}{% endfor %}",
    "{% set x %}{% for i in range(99999) %}" + "y" * 500 + "{% endfor %}{% endset %}{{ x | length }}",
    "{% set x = ['a' * 99999] * 9999 %}{{ x }}", "{% set ns = namespace(a=1) %}{% set ns.a = ns %}{{ ns }}",
    "{{ (5).to_bytes(10**9, 'big') }}", "{{ strftime_now('%1000000000Y') }}",
]  # fmt: skip
REACHES = [
    "{{ ''.__class__.__mro__ }}", "{{ cycler.__init__.__globals__ }}",
    "{{ self.__init__.__globals__ }}", "{{ namespace.__init__.__globals__ }}", "{{ joiner.__init__.__globals__ }}",
    "{{ raise_exception.__globals__.x }}", "{{ dict.mro() }}", "{{ messages.append(1) }}", "{{ messages.clear() }}",
    "{{ messages[0].update({'role': 'x'}) }}", "{{ messages[0].pop('role') }}", "{{ 'a'.encode() }}",
    "{{ '{0.__class__.x}'.format(1) }}", "{{ '{x.__class__.__mro__}'.format_map({'x': 1}) }}",
    "{{ (messages | map(attribute='__class__') | list)[0].mro }}", "{{ lipsum.__globals__ }}",
    "{% include 'x' %}", "{% import 'os' as os %}{{ os.system }}", "{% extends 'x' %}",
]  # fmt: skip
BROKEN = ["{% if %}", "{{ a b }}", "{{ undefined.foo.bar }}", "{{ 'a' | nofilter }}", "{{ 1 / 0 }}",
          "{{ '%d' % 'x' }}", "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "{{ [1][7].x }}",
          "{% for i in 5 %}{% endfor %}", "{% block a %}{% endblock %}{% block a %}{% endblock %}"]  # fmt: skip


@pytest.mark.parametrize("source", BOMBS)
def test_bomb_is_stopped_in_bounds(source: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(TemplateError):
            ChatTemplate(source, limits=SMALL).render(MESSAGES)
        assert tracemalloc.get_traced_memory()[1] < 150 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("source", REACHES)
def test_python_is_out_of_reach(source: str) -> None:
    with pytest.raises(TemplateError):
        ChatTemplate(source).render(MESSAGES)


@pytest.mark.parametrize(
    "source", ["''.__class__", "''['__class__']", "'' | attr('__class__')", "raise_exception.__globals__",
               "'{0.__class__}'.format(1)", "messages | map(attribute='__class__') | join"],
)  # fmt: skip
def test_a_hidden_attribute_is_nothing(source: str) -> None:
    assert ChatTemplate("{{ " + source + " }}").render(MESSAGES).text == ""


@pytest.mark.parametrize("source", BROKEN)
def test_broken_template_is_one_clear_line(source: str) -> None:
    with pytest.raises(TemplateError) as caught:
        ChatTemplate(source, "the template").render(MESSAGES)
    assert str(caught.value).startswith("the template")
    assert "\n" not in str(caught.value)


def test_deadline_stops_what_the_steps_allow() -> None:
    limits = Limits(steps=10**12, seconds=0.2)
    with pytest.raises(TemplateError, match=r"0\.2 seconds"):
        ChatTemplate(BOMBS[0], limits=limits).render(MESSAGES)


def test_stopped_rendering_leaves_the_template_usable() -> None:
    template = ChatTemplate("{% for i in range(messages[0].content | int) %}x{% endfor %}", limits=Limits(steps=1000))
    with pytest.raises(TemplateError, match="1000 steps"):
        template.render([{"role": "user", "content": "5000"}])
    assert template.render([{"role": "user", "content": "3"}]).text == "xxx"


def test_source_is_bounded() -> None:
    with pytest.raises(TemplateError, match="characters"):
        ChatTemplate("x" * 600_000)


def test_long_conversations_fit() -> None:
    messages = [{"role": "user", "content": "word " * 200}] * 1000
    once = "{% for m in messages %}{% set t = '<' + m.content + '>' %}{{ t | trim }}{% endfor %}"
    assert len(ChatTemplate(once).render(messages).text) == 1000 * 1002
    again = (
        "{% set ns = namespace(t='') %}{% for m in messages %}{% set ns.t = ns.t + m.content %}{% endfor %}{{ ns.t }}"
    )
    assert len(ChatTemplate(again).render(messages[:400]).text) == 400_000
