"""Ctrl-C while samplers take a step in: the state that is saved then is all of the step's."""

from __future__ import annotations

import signal
import threading

import naive
import pytest
import torch

from negplug import ContrastiveBatch, ContrastiveLoss
from negplug.contract.part import Part
from negplug.loss.uninterrupted import uninterrupted
from negplug.samplers.common.remembering import RememberingSampler
from negplug.samplers.memory_bank import MemoryBank

SAMPLER = "hierarchical(queue(size=40), memory_bank(size=20))"


@pytest.fixture(autouse=True)
def ctrl_c():
    """Python's own handler, which a process that a shell starts in the background has not."""
    own = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, own)


def step(loss_fn, number=0):
    """A step of two calls, each with a memory of its own."""
    for more in range(2):
        views = naive.embeddings(2, 8, 6, seed=number + more)
        batch = ContrastiveBatch.from_views(views, torch.arange(8, device=views[0].device) + more)
        loss_fn.contrast(batch).backward(retain_graph=True)


def memories(state):
    """All that is remembered, as numbers."""
    return {
        f"{name} {entry}": torch.as_tensor(value).tolist()
        for name, part in state.items()
        for entry, value in {**part, **part.get("values", {})}.items()
        if entry not in ("settings", "values", "seed")
    }


@pytest.fixture(params=["between parts", "inside of an update"])
def signalling(request, monkeypatch):
    """Sends a signal from there, each time."""

    def send_from(owner, name, number):
        own = getattr(owner, name)

        def sending(*args):
            own(*args)
            signal.raise_signal(number)

        monkeypatch.setattr(owner, name, sending)

    place = (
        (Part, "take_in") if request.param == "between parts" else (RememberingSampler, "reserve")
    )
    return lambda number: send_from(*place, number)


def trained():
    loss_fn = ContrastiveLoss(SAMPLER, seed=1)
    loss_fn.begin_step()
    step(loss_fn)
    return loss_fn


@pytest.mark.filterwarnings("ignore:.*the loss trains its keys")
def test_ctrl_c_leaves_a_whole_step_and_is_raised(signalling):
    straight, loss_fn = trained(), trained()
    straight.end_step()
    signalling(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        loss_fn.end_step()
    assert memories(loss_fn.state_dict()) == memories(straight.state_dict())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.filterwarnings("ignore:.*the loss trains its keys")
def test_a_handler_that_saves_finds_a_whole_step(signalling):
    """As Lightning's does before a cluster takes the machine away."""
    straight, loss_fn, saved = trained(), trained(), []
    straight.end_step()
    own = signal.signal(signal.SIGTERM, lambda *_: saved.append(loss_fn.state_dict()))
    try:
        signalling(signal.SIGTERM)
        loss_fn.end_step()
    finally:
        signal.signal(signal.SIGTERM, own)
    assert saved
    for state in saved:
        assert memories(state) == memories(straight.state_dict())


@pytest.mark.filterwarnings("ignore:.*the loss trains its keys")
def test_ctrl_c_in_the_middle_of_loading_loads_nothing(monkeypatch):
    loss_fn, other, own = trained(), trained(), MemoryBank.set_extra_state
    before = loss_fn.state_dict()
    step(other, 50)
    state = other.state_dict()
    interrupts = [KeyboardInterrupt]

    def loads(self, state):
        if interrupts:
            raise interrupts.pop()
        own(self, state)

    monkeypatch.setattr(MemoryBank, "set_extra_state", loads)
    with pytest.raises(KeyboardInterrupt):
        loss_fn.load_state_dict(state)
    assert memories(loss_fn.state_dict()) == memories(before) != memories(state)


def test_signals_that_are_no_handlers_and_other_threads_are_left_alone():
    before, found = signal.getsignal(signal.SIGTERM), []
    with uninterrupted(), uninterrupted():
        found.append(signal.getsignal(signal.SIGTERM))
    assert found == [before]

    def elsewhere():
        with uninterrupted():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found[1] is signal.default_int_handler


def test_an_error_inside_keeps_no_signal_back():
    @uninterrupted()
    def failing():
        signal.raise_signal(signal.SIGINT)
        raise ArithmeticError

    with pytest.raises(KeyboardInterrupt) as caught:
        failing()
    assert isinstance(caught.value.__context__, ArithmeticError)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)  # a later one is raised where it comes


def test_a_handler_that_raises_keeps_no_other_signal_back():
    heard = []
    own = signal.signal(signal.SIGTERM, lambda *_: heard.append("SIGTERM"))

    @uninterrupted()
    def writing():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert not heard

    try:
        with pytest.raises(KeyboardInterrupt):
            writing()
        assert heard == ["SIGTERM"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, own)
