"""The Lightning callback on a real recipe of the installed host, and the environment's way in."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import hosts
import pytest
import torch

from negplug import ContrastiveLoss, inject
from negplug.samplers.queue import Queue
from negplug.samplers.uniform import Uniform

SUPPORT = Path(hosts.__file__).parent

pytestmark = pytest.mark.filterwarnings("ignore")


def fit(sampler=None, seed=0, size=24, module=None, **kwargs):
    hosts.lightning().seed_everything(seed)
    module = hosts.recipe() if module is None else module
    callbacks = [] if sampler is None else [hosts.negative_control()(sampler)]
    trainer = hosts.trainer(callbacks=callbacks, **kwargs)
    trainer.fit(module, hosts.loader(size))
    return module, callbacks[0] if callbacks else None, trainer


@pytest.mark.parametrize(("precision", "tolerance"), [(32, 1e-4), (64, 1e-11)])
def test_in_batch_trains_as_the_untouched_recipe_does(precision, tolerance):
    # 20 steps; equal within rounding, far from where they started.
    untouched, _, _ = fit(size=160, max_steps=20, precision=precision)
    treated, callback, _ = fit("in_batch()", size=160, max_steps=20, precision=precision)
    hosts.lightning().seed_everything(0)
    start = hosts.parameters(hosts.recipe())
    moved = (hosts.parameters(untouched) - start).norm()
    assert callback.injection.losses[hosts.site_name()].calls == 20
    apart = (hosts.parameters(treated) - hosts.parameters(untouched)).norm()
    assert apart < tolerance * moved


def test_few_negatives_train_differently_from_the_same_start_on_the_same_batches():
    seen = {}

    def record(name, sampler):
        hosts.lightning().seed_everything(0)
        module = hosts.recipe()
        seen[name] = [hosts.parameters(module)]
        inner = module.training_step

        def training_step(batch, batch_idx):
            views = batch[0] if isinstance(batch[0], list) else batch[1]
            seen[name].append(torch.stack(list(views)).sum() + torch.rand(()))
            return inner(batch, batch_idx)

        module.training_step = training_step
        callbacks = [hosts.negative_control()(sampler)] if sampler else []
        hosts.trainer(callbacks=callbacks).fit(module, hosts.loader())
        return hosts.parameters(module)

    untouched, treated = record("untouched", None), record("treated", "uniform(num_negatives=1)")
    assert len(seen["treated"]) == 4
    for a, b in zip(seen["untouched"], seen["treated"], strict=True):
        assert torch.equal(a, b)  # weights, batches and the global generator
    assert not torch.equal(untouched, treated)


def test_half_precision_trains():
    spelling = "bf16" if hosts.lightning().__version__.startswith("1.") else "bf16-mixed"
    module, callback, _ = fit("uniform(num_negatives=1)", precision=spelling, size=80)
    assert callback.injection.losses[hosts.site_name()].calls == 10
    assert hosts.parameters(module).isfinite().all()


def test_sharding_strategies_are_refused_with_the_reason():
    class FSDPStrategy:
        """Stands for a strategy that this machine cannot start."""

    class Trainer:
        strategy = FSDPStrategy()
        is_global_zero = True

    with pytest.raises(ValueError, match="untested with FSDPStrategy"):
        hosts.negative_control()("in_batch()").setup(Trainer(), hosts.recipe(), "fit")
    # A model that is not ours to treat trains with whatever it likes.
    hosts.negative_control()("in_batch()").setup(Trainer(), _without_loss(), "fit")


def test_the_model_is_given_back_and_its_checkpoint_is_the_hosts(tmp_path):
    module, _, trainer = fit("uniform(num_negatives=3)")
    assert "training_step" not in vars(module)
    assert all("forward" not in vars(child) for child in module.modules())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert set(checkpoint["state_dict"]) == set(hosts.recipe().state_dict())
    hosts.recipe().load_state_dict(checkpoint["state_dict"], strict=True)
    state = checkpoint["callbacks"]["negplug"]
    assert state["sampler"] == "uniform(num_negatives=3)"
    torch.save(state, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == state


def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    sampler = "uniform(num_negatives=2)"
    straight, _, _ = fit(sampler, max_epochs=4)
    _, _, half = fit(sampler, max_epochs=2)
    half.save_checkpoint(tmp_path / "half.ckpt")
    hosts.lightning().seed_everything(123)  # a new process would not have the old seed
    resumed = hosts.recipe()
    callback = hosts.negative_control()(sampler)
    trainer = hosts.trainer(callbacks=[callback], max_epochs=4)
    with _full_load():
        trainer.fit(resumed, hosts.loader(), ckpt_path=str(tmp_path / "half.ckpt"))
    assert torch.equal(hosts.parameters(straight), hosts.parameters(resumed))
    state = callback.state_dict()["losses"][hosts.site_name()]["_extra_state"]
    assert (state["step"], state["call"]) == (12, 0)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (("uniform(num_negatives=3)",), "written with the sampler uniform"),
        (
            ("uniform(num_negatives=2)", "sogclr()"),
            r"written with the objective of the host, this run has sogclr\(\)",
        ),
    ],
)
def test_resuming_with_another_choice_is_refused(tmp_path, choice, message):
    _, _, trainer = fit("uniform(num_negatives=2)")
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    callback = hosts.negative_control()(*choice)
    other = hosts.trainer(callbacks=[callback], max_epochs=2)
    with _full_load(), pytest.raises(ValueError, match=message):
        other.fit(hosts.recipe(), hosts.loader(), ckpt_path=str(tmp_path / "last.ckpt"))


def test_accumulated_batches_are_steps_of_their_own():
    _, callback, _ = fit("uniform(num_negatives=2)", accumulate_grad_batches=3)
    state = callback.state_dict()["losses"][hosts.site_name()]["_extra_state"]
    assert state["step"] == 3


def test_expression_and_negatives_reach_the_logger(tmp_path):
    loggers = hosts.lightning().loggers
    logger = loggers.CSVLogger(str(tmp_path))
    _, _, trainer = fit("uniform(num_negatives=5)", logger=logger, log_every_n_steps=1)
    name = f"negplug/{hosts.site_name()}/num_negatives"
    assert trainer.callback_metrics[name] == 5
    logger.save()
    written = (Path(logger.log_dir) / "hparams.yaml").read_text()
    assert "negplug/sampler: uniform(num_negatives=5)" in written


def test_both_lightnings_get_a_callback_of_their_own_class():
    control = hosts.negative_control()("in_batch()")
    assert isinstance(control, hosts.lightning().Callback)
    assert control.state_key == "negplug"


def test_a_model_without_known_loss_is_an_error():
    trainer = hosts.trainer(callbacks=[hosts.negative_control()("in_batch()")])
    with pytest.raises(ValueError, match="no known contrastive loss found in Plain"):
        trainer.fit(_without_loss(), hosts.loader())


def test_a_treated_loss_that_is_never_called_is_an_error():
    module = hosts.recipe()
    head = next(p for p in module.parameters() if p.requires_grad)
    module.training_step = lambda batch, batch_idx: head.sum() * 0
    trainer = hosts.trainer(callbacks=[hosts.negative_control()("in_batch()")])
    with pytest.raises(RuntimeError, match=f"treated {hosts.site_name()} of .* never called it"):
        trainer.fit(module, hosts.loader())


def test_calls_in_validation_do_not_count_as_training():
    module = hosts.recipe()
    step = module.training_step
    module.validation_step = lambda batch, batch_idx: step(batch, batch_idx) and None
    # solo-learn's own evaluation of what its validation_step returns.
    for name in ("validation_epoch_end", "on_validation_epoch_end"):
        if getattr(module, name, None) is not None:
            setattr(module, name, lambda *outputs: None)
    head = next(p for p in module.parameters() if p.requires_grad)
    module.training_step = lambda batch, batch_idx: head.sum() * 0
    trainer = hosts.trainer(callbacks=[hosts.negative_control()("in_batch()")])
    with pytest.raises(RuntimeError, match="the first training batch never called it"):
        trainer.fit(module, hosts.loader(), hosts.loader())


def test_epochs_of_a_single_batch():
    _, callback, _ = fit("in_batch()", max_epochs=3, limit_train_batches=1)
    assert callback.injection.losses[hosts.site_name()].calls == 3


def test_a_loss_that_stops_being_called_is_an_error():
    module = hosts.recipe()
    step = module.training_step
    head = next(p for p in module.parameters() if p.requires_grad)

    def training_step(batch, batch_idx):
        return step(batch, batch_idx) if module.current_epoch == 0 else head.sum() * 0

    module.training_step = training_step
    control = hosts.negative_control()("in_batch()")
    with pytest.raises(RuntimeError, match="but epoch 1 never called it"):
        hosts.trainer(callbacks=[control], max_epochs=3).fit(module, hosts.loader())


def test_a_loss_made_after_setup_is_treated():
    if hosts.site_name() != "criterion":
        pytest.skip("a criterion can be made late; solo-learn's loss belongs to the class")
    module = hosts.recipe()
    criterion = module.criterion
    del module.criterion
    module.configure_model = lambda: setattr(module, "criterion", criterion)
    control = hosts.negative_control()("in_batch()", target="criterion")
    hosts.trainer(callbacks=[control]).fit(module, hosts.loader())
    assert control.injection.losses["criterion"].calls == 3


def test_a_checkpoint_of_another_callback_is_complete():
    class Saves(hosts.lightning().Callback):
        def on_train_batch_end(self, trainer, *_):
            (control,) = [c for c in trainer.callbacks if getattr(c, "state_key", "") == "negplug"]
            self.state = control.state_dict()["losses"][hosts.site_name()]["_extra_state"]

    saves = Saves()
    control = hosts.negative_control()("uniform(num_negatives=2)")
    hosts.trainer(callbacks=[saves, control]).fit(hosts.recipe(), hosts.loader())
    assert (saves.state["step"], saves.state["call"]) == (3, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampler": "unifrom(num_negatives=3)"}, "did you mean uniform"),
        ({"sampler": "in_batch()", "temperature": 0}, "temperature must be above 0"),
        ({"sampler": "in_batch()", "objective": "infonce(x=1)"}, "unknown argument 'x'"),
    ],
)
def test_bad_arguments_fail_where_they_are_written(arguments, message):
    with pytest.raises(ValueError, match=message):
        hosts.negative_control()(**arguments)


def test_a_target_that_names_none():
    with pytest.raises(ValueError, match="target='nope' names no loss of this model; there are"):
        inject(hosts.recipe(), "in_batch()", target="nope")


def test_explicit_objective_and_temperature_replace_the_hosts():
    views = [torch.randn(6, 16) for _ in range(2)]
    loss_fn = ContrastiveLoss(objective="infonce()", temperature=0.7)
    module = hosts.recipe(temperature=0.2)
    control = inject(module, "in_batch()", "infonce(positives='each')", 0.7)
    treated = control.losses[hosts.site_name()]
    from negplug import ContrastiveBatch, make_objective

    batch = ContrastiveBatch.from_views(tuple(views))
    value = treated(batch, objective=make_objective("infonce()"), temperature=0.2)
    assert torch.equal(value, loss_fn(*views))


def run_script(tmp_path, text, **environ):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(text))
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT), **environ}
    return subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False
    )


TREATED = """
    import hosts
    trainer = hosts.trainer()
    trainer.fit(hosts.recipe(), hosts.loader())
    controls = [c for c in trainer.callbacks if type(c).__name__ == "NegativeControl"]
    calls = [t.calls for c in controls for t in c.injection.losses.values()]
    print("calls", sum(calls), "controls", len(controls))
"""


def test_the_environment_treats_an_unmodified_recipe(tmp_path):
    done = run_script(tmp_path, TREATED, NEGPLUG_SAMPLER="uniform(num_negatives=2)")
    assert done.returncode == 0, done.stderr
    assert "calls 3 controls 1" in done.stdout


def test_without_the_variable_nothing_happens(tmp_path):
    done = run_script(tmp_path, TREATED, NEGPLUG_OBJECTIVE="nonsense(", NEGPLUG_TEMPERATURE="x")
    assert done.returncode == 0, done.stderr
    assert "calls 0 controls 0" in done.stdout


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"NEGPLUG_SAMPLER": "uniform(num_negatives=99)"}, "more than the 14 negatives"),
        ({"NEGPLUG_SAMPLER": "uniform("}, "malformed expression"),
        (
            {"NEGPLUG_SAMPLER": "in_batch()", "NEGPLUG_TEMPERATURE": "hot"},
            "NEGPLUG_TEMPERATURE must be a number, got 'hot'",
        ),
    ],
)
def test_a_bad_environment_fails_clearly(tmp_path, variables, message):
    done = run_script(tmp_path, TREATED, **variables)
    assert done.returncode != 0
    assert message in done.stderr


def test_environment_and_explicit_callback_together(tmp_path):
    text = """
        import hosts
        hosts.trainer(callbacks=[hosts.negative_control()("in_batch()")])
    """
    done = run_script(tmp_path, text, NEGPLUG_SAMPLER="in_batch()")
    assert done.returncode != 0
    assert "NEGPLUG_SAMPLER is set and the recipe passes a NegativeControl" in done.stderr


PROBE = """
    import hosts, torch
    module = hosts.recipe()
    pretraining = hosts.trainer()
    pretraining.fit(module, hosts.loader())

    class LinearProbe(hosts.lightning().LightningModule):
        def __init__(self, model):
            super().__init__()
            self.model = model  # with its criterion or method class
            self.head = torch.nn.Linear(768, 4)

        def training_step(self, batch, batch_idx):
            views, labels = (batch[0], batch[1]) if isinstance(batch[0], list) else batch[1:]
            return torch.nn.functional.cross_entropy(self.head(views[0].flatten(1)), labels)

        def configure_optimizers(self):
            return torch.optim.SGD(self.head.parameters(), lr=0.1)

    probe = hosts.trainer()
    probe.fit(LinearProbe(module), hosts.loader())
    for name, trainer in (("pretraining", pretraining), ("probe", probe)):
        (control,) = [c for c in trainer.callbacks if type(c).__name__ == "NegativeControl"]
        treated = control.injection.losses.values() if control.injection else []
        print(name, sum(t.calls for t in treated))
"""


@pytest.mark.parametrize("wrapped", ["module", "torch.nn.ModuleList(module.children())"])
def test_a_linear_probe_in_the_same_script_is_left_alone(tmp_path, wrapped):
    # Of the LightningModule, or of a plain module that still holds the criterion.
    text = PROBE.replace("LinearProbe(module)", f"LinearProbe({wrapped})")
    done = run_script(tmp_path, text, NEGPLUG_SAMPLER="uniform(num_negatives=2)")
    assert done.returncode == 0, done.stderr
    assert "pretraining 3\nprobe 0\n" in done.stdout
    notices = [line for line in done.stderr.splitlines() if "leaves LinearProbe alone" in line]
    assert len(notices) == 1


def test_samplers_made_in_python_are_told_apart_in_checkpoints(tmp_path):
    def made(number, size=16):
        return Uniform(number, source=Queue(size))

    _, _, trainer = fit(made(4), limit_train_batches=1)
    path = str(tmp_path / "last.ckpt")
    trainer.save_checkpoint(path)
    for other in (made(8), made(4, 24)):
        control = hosts.negative_control()(other)
        longer = hosts.trainer(callbacks=[control], max_epochs=2, limit_train_batches=1)
        message = r"written with the sampler Uniform\(num_negatives=4, .*queue\(size=16"
        with _full_load(), pytest.raises(ValueError, match=message):
            longer.fit(hosts.recipe(), hosts.loader(), ckpt_path=path)
    control = hosts.negative_control()(made(4))
    longer = hosts.trainer(callbacks=[control], max_epochs=2, limit_train_batches=1)
    with _full_load():
        longer.fit(hosts.recipe(), hosts.loader(), ckpt_path=path)
    assert control.state_dict()["losses"][hosts.site_name()]["_extra_state"]["step"] == 2


def test_every_evaluation_of_an_optimizers_closure_is_a_step():
    module = hosts.recipe()
    lbfgs = torch.optim.LBFGS(module.parameters(), lr=1e-3, max_iter=4)
    module.configure_optimizers = lambda: lbfgs
    _, control, trainer = fit("queue(size=1000)", module=module)
    (treated,) = control.injection.losses.values()
    assert trainer.global_step == 3
    assert treated.calls > 6
    state = treated.loss.state_dict()
    counters = state["_extra_state"]
    assert (counters["step"], counters["further"]) == (treated.calls, 0)
    assert len(state["sampler._extra_state"]["rows"]) == 16 * treated.calls


def _without_loss():
    class Plain(hosts.lightning().LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

        def training_step(self, batch, batch_idx):
            return self.layer(torch.ones(1, 2)).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Plain()


class _full_load:
    """Lets pytorch-lightning 1.9 read its own checkpoints under today's torch."""

    def __enter__(self):
        self._before = torch.load
        torch.load = lambda *a, **k: self._before(*a, **(k | {"weights_only": False}))

    def __exit__(self, *_):
        torch.load = self._before
