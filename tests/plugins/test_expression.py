"""Expressions: what is read, what is refused, and where the caret stands."""

from __future__ import annotations

import ast
import inspect
import sys

import pytest

from negplug import ContrastiveLoss, make_objective, make_sampler
from negplug.plugins.expression import Call, ExpressionError, parse


def marked(text: str) -> tuple[str, int, int]:
    """Split `f(«x»)` into the text and the place of what is between the marks."""
    start = text.index("«")
    stop = text.index("»") - 1
    return text.replace("«", "").replace("»", ""), start, stop


def error_of(action, text: str) -> tuple[str, str, int, int]:
    """Return reason, shown text and the carets' place of the error that `action(text)` raises."""
    with pytest.raises(ExpressionError) as caught:
        action(text)
    reason, shown, carets = str(caught.value).split("\n")
    assert reason == caught.value.reason
    assert shown.startswith("    ")
    assert set(carets[4:].strip()) == {"^"}
    start = len(carets) - len(carets.lstrip()) - 4
    return reason, shown[4:], start, len(carets) - 4


# --- reading ------------------------------------------------------------------------------------


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


# --- refusing -----------------------------------------------------------------------------------

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
        ("f(\x1b[31m)", 2),
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


# --- never evaluating ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "print('evaluated')",
        "exec('raise SystemExit')",
        "eval('1')",
        "uniform(num_negatives=int('3'))",
        "uniform(num_negatives=3, source=open('evaluated', 'w'))",
    ],
)
def test_a_call_is_looked_up_among_plugins_only(text, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    reason, shown, start, stop = error_of(make_sampler, text)
    inner = ast.parse(text, mode="eval").body
    assert isinstance(inner, ast.Call)
    if text.startswith("uniform"):
        inner = inner.keywords[-1].value
    assert reason.startswith(f"unknown sampler {inner.func.id!r}; ")
    assert shown[start:stop] == inner.func.id
    assert not list(tmp_path.iterdir())
    assert "evaluated" not in capfd.readouterr().out


# --- building -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("«unifrom»(num_negatives=3)", "unknown sampler 'unifrom'; did you mean uniform?"),
        ("«infonce»()", "unknown sampler 'infonce'; "),
        (
            "uniform(«num_negative»=3)",
            "unknown argument 'num_negative' of uniform(); it takes num_negatives, shared, "
            "correction, source",
        ),
        ("in_batch(«size»=3)", "unknown argument 'size' of in_batch(); it takes no arguments"),
        (
            "«uniform»()",
            "uniform(): missing a required argument: 'num_negatives'; it takes num_negatives, ",
        ),
        ("«in_batch»(3)", "in_batch(): too many positional arguments; it takes no arguments"),
        (
            "«uniform»(3, num_negatives=4)",
            "uniform(): multiple values for argument 'num_negatives'; it takes num_negatives, ",
        ),
        ("uniform(3, source=«in_bacth»())", "unknown sampler 'in_bacth'; did you mean in_batch?"),
        (
            "uniform(3, source=uniform(4, «sauce»='größe'))",
            "unknown argument 'sauce' of uniform(); it takes num_negatives, ",
        ),
    ],
)
def test_what_a_sampler_does_not_take_is_refused_under_the_token(text, reason):
    text, start, stop = marked(text)
    given, shown, caret_start, caret_stop = error_of(make_sampler, text)
    assert given.startswith(reason)
    assert shown == text
    assert (caret_start, caret_stop) == (start, stop)


def test_samplers_and_objectives_have_names_of_their_own():
    assert error_of(make_objective, "in_batch()")[0].startswith("unknown objective 'in_batch'; ")
    assert error_of(make_objective, "infonec()")[0].startswith(
        "unknown objective 'infonec'; did you mean infonce?"
    )


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("uniform(num_negatives=0)", ValueError, "num_negatives must be at least 1, got 0"),
        ("uniform(num_negatives='3')", TypeError, "num_negatives must be an integer, got '3'"),
        ("uniform(3, shared=1)", TypeError, "shared must be True or False, got 1"),
        ("uniform(3, source='in_batch()')", TypeError, "source must be a sampler, got 'in_batch"),
    ],
)
def test_a_value_that_a_sampler_refuses_is_its_own_error(text, kind, message):
    with pytest.raises(kind, match=r"^uniform: ") as caught:
        make_sampler(text)
    assert not isinstance(caught.value, ExpressionError)
    assert message in str(caught.value)


def test_every_sampler_of_an_expression_is_its_own_object():
    first, second = make_sampler("uniform(3)"), make_sampler("uniform(3)")
    assert first is not second
    assert first.source is not second.source
    assert ContrastiveLoss("uniform(3)").sampler is not ContrastiveLoss("uniform(3)").sampler


def test_each_part_knows_its_provider():
    sampler = make_sampler("uniform(3, source=in_batch())")
    assert (sampler.provider.name, sampler.provider.distribution) == ("uniform", "negplug")
    assert sampler.source.provider.name == "in_batch"
