"""Checks of randomness: what a run's draws depend on, and what they leave alone."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from typing import Any

import torch

from negplug.contract.draws import Draws
from negplug.kernels.rng_states import isolated_rng
from negplug.testing.subject import Subject, copied, difference, evaluate, train

_STEPS = 5


def the_same_seed_gives_the_same_run(subject: Subject) -> None:
    """Two new losses with one seed repeat each other bit for bit."""
    found = difference(_outcomes(subject), _outcomes(subject), "step")
    assert found is None, f"two runs with the same seed differ: {found}"


def draws_change_with_seed_step_and_call(subject: Subject) -> None:
    """A sampler that draws gives other negatives for another seed, step or call of a step."""
    loss = subject.loss()
    train(subject, loss, range(_STEPS))
    batch = evaluate(subject, loss, _STEPS).batch

    # Of a schedule, which asks another sampler at another step, the last one.
    turn = max(part.turns for part in loss.sampler.all_samplers()) - 1

    def negatives(draws: Draws) -> list[dict[str, Any]]:
        with torch.no_grad():
            return copied(loss.sampler(batch.within(draws, turn=turn)))

    first = negatives(Draws())
    # A few of each: a second draw may happen to equal the first.
    changes = {
        key: any(
            difference(first, negatives(replace(Draws(), **{key: value}))) for value in range(1, 6)
        )
        for key in ("seed", "step", "call")
    }
    assert len(set(changes.values())) == 1, (
        f"the draws change with the {_join(changes, True)}, but not with the "
        f"{_join(changes, False)}; draw from self.random(batch)"
    )


def the_global_generators_are_left_alone(subject: Subject) -> None:
    """The generators of torch, random and NumPy are neither advanced nor listened to."""
    runs = []
    with isolated_rng(torch.device(subject.device)):
        for seed in (1, 2):
            _seed_everything(seed)
            before = _generators(subject.device)
            runs.append(_outcomes(subject))
            changed = [
                name for name, now in _generators(subject.device).items() if now != before[name]
            ]
            assert not changed, f"the global generator of {' and '.join(changed)} was advanced"
    found = difference(runs[0], runs[1], "step")
    assert found is None, f"the run depends on the seed of a global generator: {found}"


def _outcomes(subject: Subject) -> list[dict[str, Any]]:
    return [step.outcome() for step in train(subject, subject.loss(), range(_STEPS))]


def _join(changes: dict[str, bool], kind: bool) -> str:
    return " and ".join(key for key, does in changes.items() if does is kind)


def _generators(device: torch.device | str) -> dict[str, str]:
    """Return the state of each global generator, as text that can be compared."""
    states = {"torch": str(torch.get_rng_state().tolist()), "random": str(random.getstate())}
    kind = torch.device(device).type
    if kind != "cpu":
        module = torch.get_device_module(kind)
        states[f"torch on {kind}"] = str(module.get_rng_state(device).tolist())
    if "numpy" in sys.modules:
        name, keys, *rest = sys.modules["numpy"].random.get_state()
        states["numpy"] = str((name, keys.tolist(), rest))
    return states


def _seed_everything(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
