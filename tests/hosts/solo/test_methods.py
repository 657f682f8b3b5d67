"""solo-learn's other contrastive methods, main and 1.0.2: treated, each is the same loss."""

from __future__ import annotations

import copy
import sys

import hosts
import pytest
import torch
from queue_contents import rows_in
from solo_steps import ALL, METHODS, assert_same, batch_for, model_of, step

from negplug import inject

GENERATION = hosts.solo_generation()
if GENERATION is None:
    pytest.skip("solo-learn is not installed in this environment", allow_module_level=True)
main_only = pytest.mark.skipif(GENERATION != "main", reason="of solo-learn main")
pytestmark = pytest.mark.filterwarnings("ignore")
every_method = pytest.mark.parametrize("name", METHODS)


@every_method
@pytest.mark.parametrize("temperature", [0.5, 0.05])
def test_in_batch_equals_the_host(name, temperature):
    model = model_of(name, temperature)
    twin = copy.deepcopy(model)
    function, calls, _ = ALL[name]
    with inject(twin, "in_batch()") as handle:
        for number in range(3):  # the hosts' queues move on
            assert_same(step(twin, batch_for(number)), step(model, batch_for(number)))
            handle.end_step()
        assert handle.losses[function].calls == 3 * calls
    assert "training_step" not in vars(twin)


@pytest.mark.parametrize("name", [*METHODS, "SimCLR"])
def test_a_sample_twice_in_a_batch_is_what_the_host_takes_it_for(name):
    model = hosts.recipe().double() if name == "SimCLR" else model_of(name)
    twin = copy.deepcopy(model)
    batch = batch_for(0)
    for names in (batch[0], batch[2], *batch[1]):  # sample 1 in the places of 4 and 5 as well
        names[4:] = names[1]
    with inject(twin, "in_batch()"):
        assert_same(step(twin, batch), step(model, batch))


@main_only
def test_supervised_contrast_of_many_crops():
    model = model_of("SupCon", small_crops=3)
    batch = batch_for(0, small_crops=3)
    theirs = step(model, batch)
    with inject(model, "in_batch()"):
        assert_same(step(model, batch), theirs)


@main_only
@pytest.mark.parametrize("objective", [None, "infonce()"])
def test_the_factor_of_moco_v3_follows_the_temperature(objective):
    theirs = step(model_of("MoCoV3", temperature=0.7), batch_for(0))
    with inject(model := model_of("MoCoV3"), "in_batch()", objective, temperature=0.7):
        assert_same(step(model, batch_for(0)), theirs)


def test_a_temperature_for_ressl_is_the_querys():
    theirs = step(model_of("ReSSL", temperature_k=0.08, temperature_q=0.3), batch_for(0))
    with inject(model := model_of("ReSSL", temperature_k=0.08), "in_batch()", temperature=0.3):
        assert_same(step(model, batch_for(0)), theirs)


def test_a_full_queue_is_ressls():
    model = model_of("ReSSL")
    twin = copy.deepcopy(model)
    with inject(twin, "queue()") as handle:
        for number in range(7):
            ours, theirs = step(twin, batch_for(number)), step(model, batch_for(number))
            handle.end_step()
            if number >= 4:  # 24 rows, 6 at a time
                assert_same(ours, theirs)
        (state,) = handle.state_dict().values()
    torch.testing.assert_close(rows_in(state), model.queue)


@every_method
@pytest.mark.parametrize("sampler", ["in_batch()", "uniform(num_negatives=4)", "queue(size=16)"])
def test_every_method_trains(name, sampler):
    function, calls, settings = ALL[name]
    seen, control = [], hosts.negative_control()(sampler)

    class Watch(hosts.lightning().Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, *args):
            seen.append(
                (control.injection.losses[function].loss.observed["num_negatives"], outputs["loss"])
            )

    torch.manual_seed(0)
    model = hosts.solo_method(name, **settings)
    before = hosts.parameters(model)
    hosts.trainer(callbacks=[control, Watch()], log_every_n_steps=1).fit(model, hosts.loader())
    assert control.injection.losses[function].calls == 3 * calls
    assert all(loss.isfinite() for _, loss in seen)
    assert hosts.parameters(model).isfinite().all()
    assert not torch.equal(hosts.parameters(model), before)
    counts = [number for number, _ in seen]
    if sampler.startswith("uniform"):
        assert counts == [4, 4, 4]
    elif sampler.startswith("in_batch"):
        # 16 crops of four classes; the other samples; the host's queue.
        assert counts == [{"SupCon": 12, "ReSSL": 24}.get(name, 7)] * 3
    else:
        # SupCon's step has 16 keys; those of the anchor's class are left out.
        assert counts == ([0, 12, 12] if name == "SupCon" else [0, 8, 16])


@every_method
def test_a_changed_loss_function_is_named(name, monkeypatch):
    model, function = model_of(name), ALL[name][0]
    module = sys.modules[f"solo.methods.{name.lower()}"]
    theirs = getattr(module, function)
    wanted = (
        rf"solo-learn .* {name}: {function} takes \(z, mask\) and does not gather, but this "
        rf"adapter expects \(\w+, .*temperature.*\) and .*gather"
    )
    monkeypatch.setattr(module, function, lambda z, mask: None)
    with pytest.raises(ValueError, match=wanted):
        inject(model, "in_batch()")
    monkeypatch.delattr(module, function)
    with pytest.raises(ValueError, match=f"has no {function}, which this adapter expects"):
        inject(model, "in_batch()")
    monkeypatch.setattr(module, function, theirs, raising=False)
    inject(model, "in_batch()").remove()


@main_only
def test_keys_that_are_no_longer_gathered_are_noticed(monkeypatch):
    model = model_of("MoCoV3")
    module = sys.modules["solo.methods.mocov3"]
    monkeypatch.setattr(module, "mocov3_loss_func", lambda query, key, temperature=0.2: None)
    with pytest.raises(ValueError, match=r"does not gather, .* gathers with concat_all_gather"):
        inject(model, "in_batch()")
