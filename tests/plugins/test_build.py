"""Samplers and objectives built from expressions, which are never evaluated."""

from __future__ import annotations

import ast

import pytest
from expression_errors import error_of, marked

from negplug import ContrastiveLoss, make_objective, make_sampler
from negplug.plugins.expression import ExpressionError


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
        ("gather(«size»=3)", "unknown argument 'size' of gather(); it takes ring"),
        (
            "«uniform»()",
            "uniform(): missing a required argument: 'num_negatives'; it takes num_negatives, ",
        ),
        ("«gather»(True, 3)", "gather(): too many positional arguments; it takes ring"),
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
