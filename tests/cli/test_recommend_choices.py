"""The choices of a recommendation: the short list, their runs, and their command lines."""

from __future__ import annotations

import math
import shlex
import sys

import pytest

from negplug.cli.recommend.choice import (
    UNTOUCHED,
    Choice,
    RecommendSettings,
    choice_of,
    pasted_command,
    run_command,
)
from negplug.cli.recommend.shortlist import SHORT_LIST, choices_for, with_own
from negplug.cli.treatment import BASELINE
from negplug.plugins.build import make_objective, make_sampler

TUNED = Choice(BASELINE, temperature=0.2)
DECOUPLED = Choice("in_batch()", objective="decoupled(sigma=0.5)", temperature=0.07)


def settings(option: str | None = None) -> RecommendSettings:
    args = ("--epochs", "3", "--seed={seed}", "{other}")
    return RecommendSettings("/a/train.py", args, None, None, temperature_option=option)


def test_every_listed_choice_can_be_built_and_is_listed_once() -> None:
    assert [section.largest for section in SHORT_LIST] == [64, 256, math.inf]
    for section in SHORT_LIST:
        assert len(set(section.choices)) == len(section.choices) > 1
        assert UNTOUCHED not in section.choices
        for choice in section.choices:
            assert choice.sampler == BASELINE or make_sampler(choice.sampler)
            assert choice.objective is None or make_objective(choice.objective)
            assert choice_of(choice.run(3)) == choice
            assert choice.run(3).seed == 3


@pytest.mark.parametrize(("size", "section"), [(2, 0), (64, 0), (65, 1), (256, 1), (257, 2)])
def test_the_batch_size_decides_on_the_list(size: int, section: int) -> None:
    assert choices_for(size) == SHORT_LIST[section].choices


def test_samplers_of_the_users_own_come_first_and_once() -> None:
    given = ["queue(size=8)", "isir( )", "queue( size=8 )"]
    choices = with_own(choices_for(32), given)
    assert [choice.run(0).sampler for choice in choices[:2]] == ["queue(size=8)", "isir()"]
    # The list has isir() too, at a temperature of its own.
    assert len(choices) == len(choices_for(32)) + 2
    assert with_own(choices_for(32), []) == choices_for(32)


def test_a_run_is_a_command_that_the_choice_stands_in() -> None:
    begin = [sys.executable, "-m", "negplug", "run", "--sampler"]
    end = ["--seed", "4", "/a/train.py", "--epochs", "3", "--seed=4", "{other}"]
    assert run_command(UNTOUCHED.run(4), settings()) == [*begin, "baseline", *end]
    treated = ["in_batch()", "--objective", "decoupled(sigma=0.5)"]
    assert run_command(DECOUPLED.run(4), settings()) == [
        *begin,
        *treated,
        *("--temperature", "0.07"),
        *end,
    ]


@pytest.mark.parametrize(
    ("option", "given"),
    [("--tau", ["--tau", "0.2"]), ("method.temperature=", ["method.temperature=0.2"])],
)
def test_a_temperature_goes_to_the_recipes_own_option(option: str, given: list[str]) -> None:
    where = settings(option)
    assert TUNED.in_reach(where) == TUNED
    command = run_command(TUNED.run(0), where)
    assert command[5:6] == ["baseline"]
    assert command[-len(given) :] == given
    assert "--temperature" not in command
    pasted = shlex.split(pasted_command(TUNED, "train.py", where))
    assert pasted == ["python", "train.py", "--epochs", "3", "--seed=0", "{other}", *given]


def test_without_one_a_treated_loss_takes_it() -> None:
    where = settings()
    reached = TUNED.in_reach(where)
    assert reached == Choice("in_batch()", temperature=0.2)
    assert DECOUPLED.in_reach(where) == DECOUPLED
    pasted = shlex.split(pasted_command(reached, "train.py", where))
    assert pasted[:7] == "negplug run --sampler in_batch() --temperature 0.2 train.py".split()


def test_a_choice_is_readable() -> None:
    assert str(TUNED) == "untouched with temperature 0.2"
    assert str(DECOUPLED) == ("in_batch() with objective decoupled(sigma=0.5) and temperature 0.07")
