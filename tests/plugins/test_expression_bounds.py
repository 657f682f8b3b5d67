"""Long expressions: refused or read in a time that follows their length, with short messages."""

from __future__ import annotations

import ast

import pytest
from expression_errors import error_of

from negplug import make_sampler
from negplug.plugins.expression import LONGEST, ExpressionError, parse


@pytest.mark.parametrize(
    "text",
    [
        "in_batch(" + "x=1, " * 60_000 + ")",
        "uniform('" + "é" * LONGEST + "')",
        "f(" * LONGEST,
        "a" * 900_000,
    ],
    ids=["arguments", "string", "calls", "name"],
)
def test_what_is_too_long_is_refused_unread(text):
    with pytest.raises(ExpressionError, match=f"{len(text)} characters, more than 10000") as caught:
        make_sampler(text)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "text",
    [
        "x" * 9_000,
        "x" * 9_000 + "()",
        "uniform(" + "x" * 9_000 + "=1)",
        "uniform(" + "x" * 9_000 + ")",
        "f(" + "x" * 4_000 + "=1, " + "x" * 4_000 + "=2)",
        "f(" + "1, " * 3_000 + "x.y)",
        "f(" + "1, " * 3_000,
        "f(" * 80 + "'" + "y" * 8_000 + "', z" + ")" * 80,
    ],
)
def test_an_error_shows_what_is_around_the_token_and_no_more(text):
    with pytest.raises(ExpressionError) as caught:
        make_sampler(text)
    reason, shown, carets = str(caught.value).split("\n")
    # The built-in names are listed where none is close.
    assert len(reason) < 500
    assert len(shown) < 180
    assert len(carets) <= len(shown) + 1


@pytest.mark.parametrize("before", [0, 1, 45, 200, 2_000])
@pytest.mark.parametrize("behind", [0, 1, 45, 200, 2_000])
def test_the_caret_stands_under_the_token_wherever_it_is(before, behind):
    text = "f(" + "1," * before + "wrong" + ",1" * behind + ")"
    reason, shown, start, stop = error_of(parse, text)
    assert reason.startswith("not a literal; quote it ('wrong')")
    assert shown[start:stop] == "wrong"
    assert shown.removeprefix("… ").removesuffix(" …") in text
    assert shown.startswith("… ") == (not text.startswith(shown[:5]))


@pytest.mark.parametrize(
    "text",
    [
        "f(g(h(1, x=-2), (3,), y=[1, (2,), 'a' \"b\"]), z=k(True, w=None), v=1e-3)",
        "f(x=(), y=((1, 2), 3), z=[(-1,)])",
        "f('it''s', \"it's\", r'\\d')",
    ],
)
def test_the_canonical_form_is_still_pythons(text):
    assert parse(text).canonical == ast.unparse(ast.parse(text, mode="eval"))
