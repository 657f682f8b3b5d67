"""Checks of memory: what changes it, what keeps it, and what restores it."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import torch

from negplug.loss.contrastive import ContrastiveLoss
from negplug.testing.subject import Step, Subject, call, close, difference, evaluate, train

_STEPS = 5


def only_a_finished_step_changes_state(subject: Subject) -> None:
    """An evaluation leaves no trace, and a training step none before its backward pass."""
    straight, disturbed = subject.loss(), subject.loss()
    for number in range(_STEPS):
        expected = close(straight, call(subject, straight, number))
        for other in (number, number + 1):
            _unchanged("an evaluation", disturbed, lambda n: evaluate(subject, disturbed, n), other)
        step = _unchanged(
            "a forward pass", disturbed, lambda n: call(subject, disturbed, n), number
        )
        close(disturbed, step)
        found = difference(expected.outcome(), step.outcome())
        assert found is None, f"step {number} is another one after an evaluation: {found}"


def a_saved_state_restores_the_next_negatives(subject: Subject) -> None:
    """The state dict loads with ``weights_only=True``; a new sampler with it goes on alike."""
    loss = subject.loss()
    train(subject, loss, range(_STEPS))
    resumed = subject.loss(seed=99)
    resumed.load_state_dict(_through_file(loss))
    for name, run in (("evaluation", evaluate), ("training step", call)):
        wanted, found = run(subject, loss, _STEPS), run(subject, resumed, _STEPS)
        where = difference(found.values, wanted.values)
        assert where is None, f"the first {name} after loading has other negatives: {where}"


def a_resumed_run_equals_an_uninterrupted_one(subject: Subject) -> None:
    """Steps of two calls each, saved half way and resumed, repeat bit for bit."""
    straight, first, second = subject.loss(), subject.loss(), subject.loss(seed=99)
    wanted = [_two_calls(subject, straight, number) for number in range(2 * _STEPS)]
    found = [_two_calls(subject, first, number) for number in range(_STEPS)]
    second.load_state_dict(_through_file(first))
    found += [_two_calls(subject, second, number) for number in range(_STEPS, 2 * _STEPS)]
    where = difference(found, wanted, "step")
    assert where is None, f"a run resumed at step {_STEPS} differs: {where}"
    where = difference(second.state_dict(), straight.state_dict())
    assert where is None, f"a resumed run ends in another state: {where}"


def casting_the_module_keeps_its_memory(subject: Subject) -> None:
    """``.to(dtype)`` on the loss, as a mixed-precision recipe does it, changes no step."""
    straight, cast = subject.loss(), subject.loss()
    for number in range(_STEPS):
        wanted = close(straight, call(subject, straight, number))
        found = close(cast, call(subject, cast, number))
        where = difference(found.outcome(), wanted.outcome())
        assert where is None, f"after a cast, step {number} differs: {where}"
        for dtype in (torch.bfloat16, torch.float64, torch.float16):
            cast.to(dtype)


def memory_moves_between_devices(subject: Subject) -> None:
    """State follows the module to an accelerator and back; tried where there is one."""
    device = _accelerator()
    if device is None:
        return
    loss = subject.loss().to("cpu")
    train(subject, loss, range(3), dtype=torch.float32, device="cpu")
    before = copy.deepcopy(loss.state_dict())
    loss.to(device)
    found = difference(before, _on_cpu(loss.state_dict()))
    assert found is None, f"the move to {device} changed the state: {found}"
    for step in train(subject, loss, range(3, 6), dtype=torch.float32, device=device):
        assert step.loss.isfinite(), f"on {device} the loss is {step.loss.item()}"
        for part in step.negatives:
            pool = part.rows.embeddings.device
            assert pool == step.views[0].device, f"the batch is on {device}, the pool on {pool}"
    saved = _on_cpu(loss.state_dict())
    loss.to("cpu")
    found = difference(saved, loss.state_dict())
    assert found is None, f"the move back from {device} changed the state: {found}"
    train(subject, loss, [6], dtype=torch.float32, device="cpu")


def _two_calls(subject: Subject, loss: ContrastiveLoss, number: int) -> list[Any]:
    """Take one training step in which the loss is called twice, with different batches."""
    first, second = call(subject, loss, number), call(subject, loss, number + 50)
    total = first.loss + second.loss
    gradients = torch.autograd.grad(total, (*first.views, *second.views), allow_unused=True)
    loss.end_step()
    return [first.outcome(), second.outcome(), list(gradients)]


def _unchanged(what: str, loss: ContrastiveLoss, run: Callable[[int], Step], number: int) -> Step:
    """Run something and insist that the sampler's state is the same before and after."""
    # The sampler's own: the loss's state_dict() applies what is held back.
    before = copy.deepcopy(loss.sampler.state_dict())
    step = run(number)
    found = difference(before, loss.sampler.state_dict())
    assert found is None, f"{what} changed the sampler's state: {found}"
    return step


def _through_file(loss: ContrastiveLoss) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    state: dict[str, Any] = torch.load(file, weights_only=True)
    return state


def _on_cpu(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {name: _on_cpu(value) for name, value in state.items()}
    return [_on_cpu(value) for value in state] if isinstance(state, list) else state


def _accelerator() -> torch.device | None:
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps", 0) if torch.backends.mps.is_available() else None
