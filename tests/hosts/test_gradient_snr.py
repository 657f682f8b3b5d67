"""``GradientSNR`` in real runs of the installed host's recipe and Lightning."""

from __future__ import annotations

import importlib
import pickle

import hosts
import pytest
import ranks
import resumable
import torch
from device import DEVICE
from moments import Recording, Regression, callback, numbers, two_pass

pytestmark = pytest.mark.filterwarnings("ignore")

DECAY = 0.9
MEAN, STD = "negplug/gradient_snr", "negplug/gradient_snr_std"


def fit(module=None, optimizer=None, loader=None, **kwargs):
    """Train with the callback; return it, the optimizer and the Trainer."""
    hosts.lightning().seed_everything(0)
    module = module or hosts.recipe()
    optimizer = optimizer or Recording(module.named_parameters())
    module.configure_optimizers = lambda: optimizer
    snr = callback("GradientSNR", DECAY)
    settings = {"log_every_n_steps": 1, "max_epochs": 3} | kwargs
    trainer = hosts.trainer(callbacks=[snr, *settings.pop("callbacks", ())], **settings)
    trainer.fit(module, loader or hosts.loader())
    return snr, optimizer, trainer


def check(trainer, optimizer, rel=1e-4):
    trained = [n for n, g in enumerate(optimizer.recorded[-1]) if g is not None]
    recorded = [[step[n] for n in trained] for step in optimizer.recorded]
    logged = tuple(float(trainer.callback_metrics[name]) for name in (MEAN, STD))
    assert logged == pytest.approx(two_pass(recorded, DECAY), rel=rel)


def test_logged_is_what_the_steps_gradients_say():
    _, optimizer, trainer = fit()
    assert len(optimizer.recorded) == 9
    check(trainer, optimizer)


@pytest.mark.parametrize("name", ["GradientSNR", "RepresentationDiagnostics"])
def test_a_second_diagnostic_of_a_kind_is_refused(name):
    """Listed twice, or one more; Lightning's own words would ask for another ``state_key``."""
    if name == "RepresentationDiagnostics":
        pytest.importorskip("sklearn")
    one, other = callback(name), callback(name)
    for both in ([one, one], [one, other]):
        trainer = hosts.trainer(callbacks=both)
        with pytest.raises(ValueError, match=f"callbacks hold {name} 2 times"):
            trainer.fit(hosts.recipe(), hosts.loader())


def test_a_treated_recipe():
    control = hosts.negative_control()("uniform(num_negatives=2)")
    _, optimizer, trainer = fit(callbacks=[control])
    check(trainer, optimizer)
    assert trainer.callback_metrics[f"negplug/{hosts.site_name()}/num_negatives"] == 2


def test_frozen_parameters_have_no_moments():
    module = hosts.recipe()
    frozen = [name for name, _ in module.named_parameters()][:2]
    for name, parameter in module.named_parameters():
        parameter.requires_grad = name not in frozen
    snr, optimizer, trainer = fit(module)
    names = snr.state_dict()["means"].keys()
    assert names
    assert not names & set(frozen)
    check(trainer, optimizer)


def test_half_precision():
    old = hosts.lightning().__version__.startswith("1.")
    _, optimizer, trainer = fit(precision="bf16" if old else "bf16-mixed")
    check(trainer, optimizer)


@pytest.mark.parametrize("fused", [False, True])
def test_scaled_gradients_and_skipped_steps(fused):
    plugins = importlib.import_module(f"{hosts.framework()}.plugins.precision")
    old = hosts.lightning().__version__.startswith("1.")
    kind = plugins.MixedPrecisionPlugin if old else plugins.MixedPrecision
    # In half precision the gradients overflow under the first few scales; then the scale grows.
    scaler = torch.amp.GradScaler(DEVICE.type, 2.0**28, 4.0, 2.0**-10, growth_interval=1)
    precision = kind(16 if old else "16-mixed", DEVICE.type, scaler)
    module, scales = hosts.recipe(), []
    optimizer = Recording(module.named_parameters(), fused=fused)

    class Scale(hosts.lightning().Callback):
        def on_before_optimizer_step(self, *_):
            scales.append(scaler.get_scale())

    _, _, trainer = fit(module, optimizer, plugins=[precision], callbacks=[Scale()])
    assert len(scales) == 9
    assert scales[0] > scales[1]
    if fused:
        # The scaler hands it scaled gradients, and a flag if they are not finite.
        steps = zip(optimizer.recorded, scales, strict=True)
        unscaled = [[g if g is None else g / scale for g in step] for step, scale in steps]
        finite = [all(g is None or g.isfinite().all() for g in step) for step in unscaled]
        optimizer.recorded = [step for step, ok in zip(unscaled, finite, strict=True) if ok]
    assert 2 <= len(optimizer.recorded) < 9
    check(trainer, optimizer)


def same_moments(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a["weights"] == b["weights"]
    for kind in ("means", "squares"):
        assert a[kind].keys() == b[kind].keys()
        for name in a[kind]:
            torch.testing.assert_close(a[kind][name], b[kind][name], rtol=1e-4, atol=1e-7)


def test_accumulated_gradients_are_those_of_a_large_batch():
    large, optimizer, trainer = fit(Regression(), loader=numbers(16))
    small, _, accumulated = fit(Regression(), loader=numbers(4), accumulate_grad_batches=4)
    assert trainer.global_step == accumulated.global_step == len(optimizer.recorded) == 9
    same_moments(large, small)
    logged = [float(t.callback_metrics[MEAN]) for t in (trainer, accumulated)]
    assert logged[0] == pytest.approx(logged[1], rel=1e-3)


def test_each_of_several_optimizers_counts_its_own_steps():
    module = Regression(manual=True)
    each = [Recording(part.named_parameters()) for part in (module.first, module.second)]
    snr, _, trainer = fit(module, each, loader=numbers(8))
    steps = [len(optimizer.recorded) for optimizer in each]
    assert steps == [18, 9]
    weights = snr.state_dict()["weights"]
    for layer, count in zip(("first", "second"), steps, strict=True):
        expected = sum(DECAY**k for k in range(count))
        assert weights[f"{layer}.weight"] == pytest.approx(expected)
    # Together: the lists of steps are of different lengths.
    padded = each[1].recorded + [[None, None]] * 9
    together = [a + b for a, b in zip(each[0].recorded, padded, strict=True)]
    logged = tuple(float(trainer.callback_metrics[name]) for name in (MEAN, STD))
    assert logged == pytest.approx(two_pass(together, DECAY), rel=1e-4)


def test_it_is_logged_every_so_many_steps(tmp_path):
    logger = hosts.lightning().loggers.CSVLogger(str(tmp_path))
    _, optimizer, trainer = fit(logger=logger, log_every_n_steps=4)
    optimizer.recorded.pop()  # the ninth step's, which nobody asks for
    check(trainer, optimizer)
    logger.save()
    header, *lines = (tmp_path / logger.log_dir / "metrics.csv").read_text().splitlines()
    columns = header.split(",")
    rows = [dict(zip(columns, line.split(","), strict=True)) for line in lines]
    assert [int(row["step"]) for row in rows if row[MEAN]] == [3, 7]


def test_resumed_equals_uninterrupted(tmp_path):
    straight, _, whole = fit(max_epochs=4)
    _, _, half = fit(max_epochs=2)
    half.save_checkpoint(tmp_path / "half.ckpt")
    saved = torch.load(tmp_path / "half.ckpt", weights_only=False)["callbacks"]
    torch.save(saved["negplug.gradient_snr"], tmp_path / "ours.pt")
    torch.load(tmp_path / "ours.pt", weights_only=True)
    module, snr = hosts.recipe(), callback("GradientSNR", DECAY)
    module.configure_optimizers = lambda: Recording(module.named_parameters())
    trainer = hosts.trainer(callbacks=[snr], log_every_n_steps=1, max_epochs=4)
    with resumable._whole_checkpoints():
        trainer.fit(module, hosts.loader(), ckpt_path=str(tmp_path / "half.ckpt"))
    assert resumable.same_state(snr.state_dict(), straight.state_dict())
    for name in (MEAN, STD):
        assert trainer.callback_metrics[name] == whole.callback_metrics[name]


def test_ranks_see_the_averaged_gradients(tmp_path):
    class Write(hosts.lightning().Callback):
        def on_train_end(self, trainer, module):
            check(trainer, trainer.optimizers[0])  # in the rank itself
            state = {name: trainer.callback_metrics[name] for name in (MEAN, STD)}
            torch.save((state, snr.state_dict()), tmp_path / str(trainer.global_rank))

    def train():
        hosts.lightning().seed_everything(0)
        module = Regression()
        module.configure_optimizers = lambda: Recording(module.named_parameters())
        settings = {"log_every_n_steps": 1, "max_epochs": 6, "strategy": "ddp_fork", "devices": 2}
        hosts.trainer(callbacks=[snr, Write()], **settings).fit(module, numbers(8, rows=16))

    snr = callback("GradientSNR", DECAY)
    ranks.apart(train)
    first, second = (torch.load(tmp_path / str(rank), weights_only=True) for rank in range(2))
    assert resumable.same_state(first, second)
    # Two ranks of eight rows each make a step of all sixteen.
    _, _, trainer = fit(Regression(), loader=numbers(16, rows=16), max_epochs=6)
    assert first[0][MEAN] == pytest.approx(float(trainer.callback_metrics[MEAN]), rel=1e-3)


def test_strategies_that_hide_gradients_are_refused():
    class FSDPStrategy:
        """Stands for a strategy that this machine cannot start."""

    class Trainer:
        strategy = FSDPStrategy()

    with pytest.raises(ValueError, match="does not see whole gradients under FSDPStrategy"):
        callback("GradientSNR").on_fit_start(Trainer(), hosts.recipe())


@pytest.mark.parametrize("name", ["GradientSNR", "RepresentationDiagnostics"])
def test_the_classes_are_the_lightnings_and_pickle(name):
    made = callback(name)
    assert isinstance(made, hosts.lightning().Callback)
    assert type(made).__name__ == name
    copied = pickle.loads(pickle.dumps(made))
    assert type(copied) is type(made)
    assert vars(copied).keys() == vars(made).keys()
