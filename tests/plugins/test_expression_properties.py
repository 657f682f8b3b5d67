"""Properties of the grammar: what is written is read back, and nothing else is let in."""

import contextlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from negplug.plugins.expression import Call, ExpressionError, parse

names = st.text(string.ascii_lowercase + "_", min_size=1, max_size=8).filter(
    lambda name: name.isidentifier() and not __import__("keyword").iskeyword(name)
)
numbers = st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)
literals = st.recursive(
    numbers | st.booleans() | st.none() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@st.composite
def calls(draw, depth: int = 2) -> str:
    arguments = []
    for name in draw(st.lists(names, unique=True, max_size=3)):
        nested = depth and draw(st.booleans())
        value = draw(calls(depth - 1)) if nested else repr(draw(literals))
        arguments.append(f"{name}={value}")
    return f"{draw(names)}({', '.join(arguments)})"


@given(calls())
def test_the_canonical_form_is_read_back_as_the_same_call(text):
    call = parse(text)
    assert isinstance(call, Call)
    assert parse(call.canonical).canonical == call.canonical


@given(calls())
def test_white_space_changes_nothing(text):
    assert parse(f"  {text}\n").canonical == parse(text).canonical


@given(st.text(max_size=40))
def test_any_text_is_a_call_or_an_error_of_the_grammar(text):
    with contextlib.suppress(ExpressionError):
        assert isinstance(parse(text), Call)


@pytest.mark.parametrize("inside", ["__import__('os')", "x.y", "lambda: 1", "[c for c in 'a']"])
@given(name=names)
def test_nothing_is_evaluated(inside, name):
    if inside.startswith("__import__"):
        # A call like any other: a name to look up, never to run.
        assert parse(f"{name}(source={inside})").canonical
    else:
        with pytest.raises(ExpressionError):
            parse(f"{name}(source={inside})")
