"""solo-learn's SimCLR in a run: reached through a subclass, told of, and it comes back whole."""

from __future__ import annotations

import copy
import pickle
import sys

import hosts
import pytest
import torch
from solo_simclr import batch_for, step

from negplug import inject

GENERATION = hosts.solo_generation()
if GENERATION is None:
    pytest.skip("solo-learn is not installed in this environment", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_subclass_that_calls_super_is_reached_and_restored():
    kind = type(hosts.recipe())

    class Mine(kind):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * 2

    torch.manual_seed(0)
    model = hosts.recipe().double()
    model.__class__ = Mine
    before = dict(vars(sys.modules[kind.__module__]))
    with inject(model, "uniform(num_negatives=2)") as handle:
        step(model, batch_for(model))
        assert handle.losses["simclr_loss_func"].calls == 1
    assert "training_step" not in vars(model)
    assert dict(vars(sys.modules[kind.__module__])) == before


def test_another_model_in_the_same_process_stays_untreated():
    torch.manual_seed(0)
    treated, untouched = hosts.recipe().double(), hosts.recipe().double()
    wanted, _ = step(untouched, batch_for(untouched))
    with inject(treated, "uniform(num_negatives=1)") as handle:
        got, _ = step(untouched, batch_for(untouched))
        assert handle.losses["simclr_loss_func"].calls == 0
    assert torch.equal(got, wanted)


def test_remove_puts_back_a_step_of_the_instance():
    model = hosts.recipe()
    own = model.training_step = lambda batch, batch_idx: None
    keys = list(model.state_dict())
    handle = inject(model, "in_batch()")
    assert list(model.state_dict()) == keys
    with pytest.raises(ValueError, match="the model is treated already"):
        inject(model, "in_batch()")
    handle.remove()
    assert vars(model)["training_step"] is own


def test_a_treated_model_can_be_copied_and_pickled():
    torch.manual_seed(0)
    model = hosts.recipe().double()
    batch = batch_for(model)
    wanted, _ = step(copy.deepcopy(model), batch)
    with inject(model, "uniform(num_negatives=10)"):
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            torch.testing.assert_close(step(twin, batch)[0], wanted)


def test_a_changed_host_is_named(monkeypatch):
    model = hosts.recipe()
    module = sys.modules[type(model).__module__]
    monkeypatch.setattr(module, "simclr_loss_func", lambda z, mask: None)
    with pytest.raises(ValueError, match=r"solo-learn .* simclr_loss_func takes \(z, mask\)"):
        inject(model, "in_batch()")
    for name in ("simclr_loss_func", "manual_simclr_loss_func"):
        monkeypatch.delattr(module, name, raising=False)
    with pytest.raises(ValueError, match="has no simclr_loss_func, which this adapter expects"):
        inject(model, "in_batch()")


def test_the_report_tells_the_truth():
    from negplug_solo.plugin import report_methods

    of_main = {"All4One", "MoCoV3", "SupCon"} if GENERATION == "main" else set()
    contrastive = {"SimCLR", "MoCoV2Plus", "NNCLR", "ReSSL"} | of_main
    reports = {report.method: report for report in report_methods()}
    assert {name for name, report in reports.items() if report.treatable} == contrastive
    assert {"BYOL", "NNBYOL", "SwAV"} < set(reports) - contrastive
    for name in contrastive:
        settings = {} if name in ("SimCLR", "MoCoV3", "SupCon") else {"queue_size": 8}
        with inject(hosts.solo_method(name, **settings), "in_batch()") as handle:
            assert len(handle.losses) == 1
