"""A process whose variables change, as a notebook's do: a loss gets what they ask for by then."""

from __future__ import annotations

import hosts
import naive
import pytest
import torch

from negplug.hosts import first_loss, notices
from negplug.hosts import watch as at_work

NTXentLoss = pytest.importorskip("lightly.loss").NTXentLoss


@pytest.fixture
def asks(monkeypatch):
    """Sets the variable; None takes it away."""

    def change(sampler):
        if sampler is None:
            monkeypatch.delenv("NEGPLUG_SAMPLER")
        else:
            monkeypatch.setenv("NEGPLUG_SAMPLER", sampler)
        at_work.from_environment()

    return change


def loss_of(host=NTXentLoss):
    return float(host(0.2)(*naive.embeddings(2, 16)).detach())


class Untold(NTXentLoss):
    """A loss whose form no adapter knows."""

    def forward(self, out0, out1):
        return super().forward(out0, out1)


@pytest.mark.parametrize("later", [None, "in_batch()"])
def test_a_loop_after_the_variable_has_changed(asks, later):
    own = loss_of()
    asks("uniform(num_negatives=2)")
    assert loss_of() < own - 0.5
    asks(later)
    assert loss_of() == pytest.approx(own, rel=1e-6)
    asks("hard(num_negatives=2)")  # and is watched again
    assert loss_of() < own - 0.2


@pytest.mark.parametrize("later", [None, "in_batch()"])
def test_the_next_call_of_a_loss_that_was_treated(monkeypatch, later):
    own, criterion, z = loss_of(), NTXentLoss(0.2), naive.embeddings(2, 16)
    monkeypatch.setenv("NEGPLUG_SAMPLER", "uniform(num_negatives=2)")
    at_work.from_environment()
    assert float(criterion(*z).detach()) < own - 0.5
    if later is None:
        monkeypatch.delenv("NEGPLUG_SAMPLER")
    else:
        monkeypatch.setenv("NEGPLUG_SAMPLER", later)
    for _ in range(2):
        assert float(criterion(*z).detach()) == pytest.approx(own, rel=1e-6)
    assert ("forward" in vars(criterion)) == (later is not None)


def test_a_variable_that_goes_and_comes_again_in_a_process_that_was_armed(monkeypatch, caplog):
    own = loss_of()
    monkeypatch.setenv("NEGPLUG_SAMPLER", "uniform(num_negatives=2)")
    first_loss.wait()
    treated = loss_of()
    assert treated < own - 0.5
    monkeypatch.delenv("NEGPLUG_SAMPLER")
    for _ in range(2):
        assert loss_of() == pytest.approx(own, rel=1e-6)
    assert len([text for text in caplog.messages if "is set no longer" in text]) == 1
    monkeypatch.setenv("NEGPLUG_SAMPLER", "uniform(num_negatives=2)")
    assert loss_of() == treated


def test_a_variable_that_is_gone_by_the_first_loss_is_named(monkeypatch, caplog):
    monkeypatch.setenv("NEGPLUG_SAMPLER", "in_batch()")
    first_loss.wait()
    notices.show()
    monkeypatch.delenv("NEGPLUG_SAMPLER")  # as a script does that clears its environment
    loss_of()
    assert any("NEGPLUG_SAMPLER was set in this process" in text for text in caplog.messages)


def test_a_loss_that_was_treated_is_the_host_s_again(asks):
    own, criterion = loss_of(), NTXentLoss(0.2)
    asks("uniform(num_negatives=2)")
    assert float(criterion(*naive.embeddings(2, 16)).detach()) < own - 0.5
    asks(None)
    assert float(criterion(*naive.embeddings(2, 16)).detach()) == pytest.approx(own, rel=1e-6)


def test_what_a_refusal_advises_is_heard(asks, monkeypatch):
    asks("in_batch()")
    with pytest.raises(ValueError, match="overrides the forward of NTXentLoss"):
        loss_of(Untold)
    monkeypatch.setenv("NEGPLUG_IGNORE", "Untold")
    assert loss_of(Untold) > 0


def test_a_refusal_ends_with_the_variable(asks):
    asks("in_batch()")
    with pytest.raises(ValueError, match="overrides the forward of NTXentLoss"):
        loss_of(Untold)
    asks(None)
    assert loss_of(Untold) > 0


def test_a_trainer_after_the_variable_is_gone(asks):
    def fitted():
        torch.manual_seed(0)
        model = hosts.recipe()
        hosts.trainer().fit(model, hosts.loader())
        return hosts.parameters(model)

    own = fitted()
    asks("uniform(num_negatives=1)")
    assert not torch.equal(fitted(), own)
    asks(None)
    assert torch.equal(fitted(), own)


def test_a_watch_that_a_command_started_stays(asks, watch):
    own = loss_of()
    watch("uniform(num_negatives=2)")
    asks("in_batch()")
    asks(None)
    assert loss_of() < own - 0.5
