"""Lightly's criteria in a model: each is treated once, told of, and comes back whole."""

from __future__ import annotations

import copy
import pickle

import naive
import pytest
import torch
from two_criteria import Recipe

import negplug
from negplug import inject

lightly_loss = pytest.importorskip("lightly.loss")
NTXentLoss = lightly_loss.NTXentLoss


def test_every_criterion_is_treated_once_with_state_of_its_own():
    model, z = Recipe(), naive.embeddings(2, 8)
    with inject(model, "uniform(num_negatives=2)") as handle:
        assert set(handle.losses) == {"first", "losses.0"}
        losses = model.first(*z), model.first(*z), model.losses[0](*z)
        assert all(loss.requires_grad for loss in losses)  # kept: a dropped loss is no call
        assert [handle.losses[name].calls for name in ("first", "losses.0")] == [2, 1]
        state = handle.state_dict()
    assert state["first"]["_extra_state"]["call"] == 2
    assert state["losses.0"]["_extra_state"]["call"] == 1
    again = inject(model, "uniform(num_negatives=2)")
    again.load_state_dict(state)
    assert again.state_dict() == state
    with pytest.raises(ValueError, match=r"saved negative state is of \['x'\]"):
        again.load_state_dict({"x": {}})
    again.remove()


def test_target_restricts():
    model = Recipe()
    with inject(model, "in_batch()", target="losses.0") as handle:
        assert set(handle.losses) == {"losses.0"}
        assert "forward" not in vars(model.first)


def test_remove_restores_the_objects():
    model = Recipe()
    modules, keys = dict(model.named_modules()), list(model.state_dict())
    before = {name: dict(vars(module)) for name, module in modules.items()}
    handle = inject(model, "uniform(num_negatives=2)")
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.modules(), modules.values(), strict=True))
    handle.remove()
    handle.remove()  # a second time changes nothing
    for name, module in model.named_modules():
        assert module is modules[name]
        assert vars(module).keys() == before[name].keys()
        assert all(vars(module)[key] is value for key, value in before[name].items())


def test_a_treated_model_can_be_copied_and_pickled():
    model, z = Recipe(), naive.embeddings(2, 8)
    with inject(model, "uniform(num_negatives=14)"):
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            twin.first.temperature = 0.3
            torch.testing.assert_close(twin.first(*z), NTXentLoss(temperature=0.3)(*z))


def test_treating_twice_is_an_error_and_leaves_the_first_treatment():
    model = Recipe()
    with inject(model, "in_batch()", target="losses.0") as handle:
        with pytest.raises(ValueError, match=r"'losses.0' is treated already"):
            inject(model, "in_batch()")
        assert "forward" not in vars(model.first)  # the failed call undid its own part
        model.losses[0](*naive.embeddings(2, 4))
        assert handle.losses["losses.0"].calls == 1


def test_a_changed_host_is_named(monkeypatch):
    criterion = NTXentLoss()
    monkeypatch.setattr(NTXentLoss, "forward", lambda self, out0, out1, weights: None)
    message = r"lightly [\d.]+ NTXentLoss: forward takes .*'weights'.* expects .*'out1'\]"
    with pytest.raises(ValueError, match=message):
        inject(criterion, "in_batch()")


def test_a_subclass_with_a_forward_of_its_own_is_named_rather_than_left_out():
    class Mine(NTXentLoss):
        def forward(self, out0, out1):
            return 2 * super().forward(out0, out1)

    model = Recipe()
    model.mine = Mine()
    with pytest.raises(ValueError, match="'mine' overrides the forward of NTXentLoss"):
        inject(model, "in_batch()")
    with inject(model, "in_batch()", target="first") as handle:
        assert set(handle.losses) == {"first"}


def test_an_explicit_objective_has_state_for_each_site():
    class Counting(negplug.Objective):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, batch, negatives, temperature):
            self.calls += 1
            return batch.anchors.embeddings.sum(1)

    model, z = Recipe(), naive.embeddings(2, 8)
    with inject(model, "in_batch()", Counting()) as handle:
        losses = model.first(*z), model.first(*z), model.losses[0](*z)
        assert all(loss.requires_grad for loss in losses)  # kept: a dropped loss is no call
    state = handle.state_dict()
    assert state["first"]["objective.calls"] == 2
    assert state["losses.0"]["objective.calls"] == 1


def test_the_report_tells_the_truth():
    from negplug_lightly.plugin import report_methods

    reports = {report.method: report for report in report_methods()}
    for name, report in reports.items():
        if report.treatable:
            with inject(getattr(lightly_loss, name)(), "in_batch()") as handle:
                assert set(handle.losses) == {name}
    assert {name for name, report in reports.items() if report.treatable} == {
        "NTXentLoss",
        "DirectCLRLoss",
        "DCLLoss",
        "DCLWLoss",
        "MACLLoss",
    }
    refused = {name for name, report in reports.items() if "regions of images" in report.note}
    assert refused == {"DetConBLoss", "DetConSLoss"}
    with pytest.raises(ValueError, match="no known contrastive loss found in DetConSLoss"):
        inject(lightly_loss.DetConSLoss(), "in_batch()")
