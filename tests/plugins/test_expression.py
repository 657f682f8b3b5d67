"""Expressions: what is read, what is refused, and where the caret stands."""

from __future__ import annotations

import inspect
import sys

import pytest
from expression_errors import error_of, marked

from negplug import make_objective, make_sampler
from negplug.plugins.expression import Call, ExpressionError, parse


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ("64", 64),
        ("-3", -3),
        ("+3", 3),
        ("0x10", 16),
        ("1_000", 1000),
        ("0.5", 0.5),
        ("1e-3", 0.001),
        ("True", True),
        ("False", False),
        ("None", None),
        ("'labels'", "labels"),
        ('"two  blanks.npy"', "two  blanks.npy"),
        ("'a' 'b'", "ab"),
        ("'κόσμος'", "κόσμος"),
        ("r'C:\\data'", "C:\\data"),
        ("'in_batch()'", "in_batch()"),
        ("'__import__'", "__import__"),
        ("[]", []),
        ("()", ()),
        ("[1, 'two', (3.0, None)]", [1, "two", (3.0, None)]),
    ],
)
def test_a_literal_is_read_as_python_reads_it(literal, value):
    for text, name in ((f"f({literal})", None), (f"f(x={literal})", "x")):
        (argument,) = parse(text).arguments
        assert argument.name == name
        assert argument.value == value
        assert type(argument.value) is type(value)


def test_calls_nest():
    call = parse("hierarchical(uniform(64, source=queue(size=8)), in_batch(), weight=0.5)")
    assert call.name == "hierarchical"
    uniform, in_batch, weight = call.arguments
    assert [argument.name for argument in call.arguments] == [None, None, "weight"]
    assert isinstance(uniform.value, Call)
    assert (uniform.value.name, uniform.value.canonical) == (
        "uniform",
        "uniform(64, source=queue(size=8))",
    )
    assert [argument.name for argument in uniform.value.arguments] == [None, "source"]
    assert uniform.value.arguments[1].value.canonical == "queue(size=8)"
    assert in_batch.value.arguments == ()
    assert weight.value == 0.5


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("in_batch()", "in_batch()"),
        ("  in_batch ( ) ", "in_batch()"),
        ("uniform(num_negatives = 64,shared=True,)", "uniform(num_negatives=64, shared=True)"),
        (
            "\n  uniform(\n    num_negatives=64,\r\n\tsource=in_batch()\n  )\n",
            "uniform(num_negatives=64, source=in_batch())",
        ),
        ('f("x", 1e-3, 0x10, [1,2], (3,))', "f('x', 0.001, 16, [1, 2], (3,))"),
        ("f(by='two  blanks.npy')", "f(by='two  blanks.npy')"),
        ("f(x=-1)  # a comment", "f(x=-1)"),
    ],
)
def test_the_canonical_form_is_pythons_and_stable(text, canonical):
    call = parse(text)
    assert call.canonical == canonical
    again = parse(call.canonical)
    assert again.canonical == call.canonical
    assert [a.name for a in again.arguments] == [a.name for a in call.arguments]


def test_the_canonical_form_is_the_samplers_name():
    sampler = make_sampler(" uniform( 3 ,source = in_batch( ) ) ")
    assert str(sampler) == "uniform(3, source=in_batch())"
    assert str(sampler.source) == "in_batch()"
    assert sampler.num_negatives == 3
    assert str(make_objective('infonce(positives="mean")')) == "infonce(positives='mean')"


LITERALS = "only numbers, strings, True, False, None, lists of them and calls are allowed"
NO_CALL = "expected a call of a plain name, such as in_batch()"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        # not a call
        ("«uniform»", "expected a call; write uniform()"),
        ("«64»", NO_CALL),
        ("«'in_batch()'»", NO_CALL),
        ("«[in_batch()]»", NO_CALL),
        ("«in_batch() + in_batch()»", NO_CALL),
        ("«in_batch() if True else in_batch()»", NO_CALL),
        ("«lambda: in_batch()»", NO_CALL),
        ("«(x := in_batch())»".replace("«(", "(«").replace(")»", "»)"), NO_CALL),
        # not a call of a plain name
        ("«os.system('true')»", NO_CALL),
        ("«__import__('os').system('true')»", NO_CALL),
        ("«in_batch()()»", NO_CALL),
        ("«{'a': print}['a']()»", NO_CALL),
        ("«(lambda: 0)()»", NO_CALL),
        ("uniform(source=«a.b()»)", NO_CALL),
        # arguments that are no literals
        ("uniform(«M»)", "not a literal; quote it ('M') or call it (M())"),
        ("uniform(source=«in_batch»)", "not a literal; quote it ('in_batch') or call it (in"),
        ("uniform(num_negatives=«os.environ»)", f"not a literal; {LITERALS}"),
        ("uniform(num_negatives=«x[0]»)", f"not a literal; {LITERALS}"),
        ("uniform(num_negatives=«2 ** 70»)", f"not a literal; {LITERALS}"),
        ("uniform(num_negatives=«1 + 2»)", f"not a literal; {LITERALS}"),
        ("uniform(num_negatives=«1 + 2j»)", f"not a literal; {LITERALS}"),
        ("uniform(num_negatives=«not 1»)", f"not a literal; {LITERALS}"),
        ("uniform(num_negatives=«lambda: 3»)", f"not a literal; {LITERALS}"),
        ("uniform(num_negatives=«[i for i in 'abc']»)", f"not a literal; {LITERALS}"),
        ("uniform(«*[1]»)", f"not a literal; {LITERALS}"),
        ("uniform(«x := 3»)", f"not a literal; {LITERALS}"),
        ("f(by=«f'{1 + 1}'»)", f"not a literal; {LITERALS}"),
        ("f(x=«b'bytes'»)", f"not a literal; {LITERALS}"),
        ("f(x=«...»)", f"not a literal; {LITERALS}"),
        ("f(x=«1j»)", f"not a literal; {LITERALS}"),
        ("f(x=«{'a': 1}»)", f"not a literal; {LITERALS}"),
        ("f(x=«{1, 2}»)", f"not a literal; {LITERALS}"),
        ("f(x=[1, «y», 3])", "not a literal; quote it ('y') or call it (y())"),
        ("f(x=[1, («set()», 2)])", f"not a literal; {LITERALS}"),
        ("f(x=-«y»)".replace("-«y»", "«-y»"), f"not a literal; {LITERALS}"),
        # argument lists
        ("f(a=1, «**{'b': 2}»)", "** is not allowed; write the arguments out"),
        ("f(a=1, «a»=2)", "a is given twice"),
        ("g(f(a=1, b=2, «b»=3))", "b is given twice"),
        # characters, not bytes
        ("f('κόσμος', «größe»)", "not a literal; quote it ('größe') or call it (größe())"),
        ("f('🦊🦊', x=«y»)", "not a literal; quote it ('y') or call it (y())"),
        ("f(größe=1, «größe»=2)", "größe is given twice"),
        # lines and blanks
        ("   f(«x»)   ", "not a literal; quote it ('x') or call it (x())"),
        ("f(\n    1,\n    «x»\n)", "not a literal; quote it ('x') or call it (x())"),
    ],
)
def test_what_is_no_expression_is_refused_under_the_token(text, reason):
    text, start, stop = marked(text)
    blanks = len(text) - len(text.lstrip())
    given, shown, caret_start, caret_stop = error_of(parse, text)
    assert given.startswith(reason)
    assert shown == text.strip().replace("\n", " ")
    assert (caret_start, caret_stop) == (start - blanks, stop - blanks)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("uniform(", 7),
        ("uniform(num_negatives=64", 7),
        ("uniform)", 7),
        ("uniform(]", 8),
        ("in_batch() in_batch()", 11),
        ("in_batch(); print(1)", 10),
        ("x = in_batch()", 2),
        ("f(x=1, 2)", 8),
        ("f(x='open)", 4),
        ("f('κόσμος', ?)", 12),
        ("f(1,\u00a0\u00a02)", 4),
        ("import os", 0),
        pytest.param(
            *("f(\x1b[31m)", 2),
            marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 points behind it"),
        ),
        ("f(x=\0)", 4),
    ],
)
def test_what_python_cannot_read_is_refused_where_it_breaks(text, at):
    reason, shown, start, stop = error_of(parse, text)
    assert reason.startswith("malformed expression: ")
    assert shown == text
    assert (start, stop) == (at, at + 1)


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_an_empty_expression_is_refused(text):
    reason, shown, start, stop = error_of(parse, text)
    assert reason == "the expression is empty; write a call such as in_batch()"
    assert (shown, start, stop) == ("", 0, 1)


@pytest.mark.parametrize("value", [None, 3, b"in_batch()", ["in_batch()"], object])
def test_only_a_string_is_an_expression(value):
    with pytest.raises(TypeError, match="an expression must be a string, got "):
        parse(value)


@pytest.mark.parametrize(
    "text",
    [
        "f(" * 5_000 + ")" * 5_000,
        "f(" * 100_000,
        "f(x=" + "[" * 100_000 + ")",
        "f(x=" + "-" * 100_000 + "1)",
        "f(x=" + "1+" * 50_000 + "1)",
        "f(x=" + "9" * 10_000 + ")",
        "f(x=0x" + "f" * 10_000 + ")",
        "f" + "()" * 50_000,
        "f" + ".a" * 50_000 + "()",
        "f('\ud800')",
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_monsters_are_refused_with_the_one_error(text):
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    assert "\n" not in caught.value.reason


@pytest.mark.parametrize("text", ["f(" * 60 + ")" * 60, "f(x=" + "[" * 60 + "]" * 60 + ")"])
def test_nesting_beyond_what_is_left_of_the_stack_is_the_same_error(text):
    assert parse(text).name == "f"
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        with pytest.raises(ExpressionError, match="nested too deeply"):
            parse(text)
    finally:
        sys.setrecursionlimit(limit)


def test_fifty_tiers_are_not_too_many():
    text = "uniform(1, source=" * 50 + "in_batch()" + ")" * 50
    assert parse(text).canonical == text
    assert str(make_sampler(text)) == text
