"""The environment's way in: unmodified scripts are treated by it, probes are left alone."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import hosts
import pytest

SUPPORT = Path(hosts.__file__).parent
pytestmark = pytest.mark.filterwarnings("ignore")


def run_script(tmp_path, text, **environ):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(text))
    path = os.pathsep.join(filter(None, (str(SUPPORT), os.getenv("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, **environ}
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


def fitted():
    """Fit the recipe in this process, whose environment every Trainer reads; its Trainer."""
    trainer = hosts.trainer()
    trainer.fit(hosts.recipe(), hosts.loader())
    return trainer


def controls(trainer):
    return [c for c in trainer.callbacks if type(c).__name__ == "NegativeControl"]


def test_without_the_variable_nothing_happens(monkeypatch):
    for name in ("NEGPLUG_OBJECTIVE", "NEGPLUG_TEMPERATURE"):
        monkeypatch.setenv(name, "")
    assert not controls(fitted())
    monkeypatch.setenv("NEGPLUG_SAMPLER", "in_batch()")
    assert len(controls(fitted())) == 1


def test_a_bad_environment_ends_the_process(tmp_path):
    done = run_script(tmp_path, TREATED, NEGPLUG_SAMPLER="uniform(num_negatives=99)")
    assert done.returncode != 0
    assert "more than the 14 negatives" in done.stderr


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"NEGPLUG_SAMPLER": "uniform("}, "malformed expression"),
        (
            {"NEGPLUG_SAMPLER": "in_batch()", "NEGPLUG_TEMPERATURE": "hot"},
            "NEGPLUG_TEMPERATURE must be a number, got 'hot'",
        ),
        ({"NEGPLUG_OBJECTIVE": "decoupled()"}, "has no effect without NEGPLUG_SAMPLER"),
    ],
)
def test_a_bad_environment_fails_clearly(monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        fitted()


def test_environment_and_explicit_callback_together(monkeypatch):
    monkeypatch.setenv("NEGPLUG_SAMPLER", "in_batch()")
    message = "NEGPLUG_SAMPLER is set and the recipe passes a NegativeControl"
    with pytest.raises(ValueError, match=message):
        hosts.trainer(callbacks=[hosts.negative_control()("in_batch()")])


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
