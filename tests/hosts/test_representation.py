"""``RepresentationDiagnostics`` on the installed host, and the environment's way to diagnostics."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import hosts
import pytest
import ranks
import torch
from moments import callback
from torch.utils.data import DataLoader, TensorDataset

from negplug.diagnostics import intra_class_distance, silhouette
from negplug.diagnostics.embedding import embed

pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = ("negplug/intra_class_distance", "negplug/silhouette")
VARIABLE = "NEGPLUG_DIAGNOSTICS"


def labelled(n=30, classes=3, batch_size=8, seed=5):
    """A validation loader whose images come class after class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) * classes // n
    centres = torch.randn(classes, 3, hosts.IMAGE, hosts.IMAGE, generator=generator)
    images = centres[labels] + torch.randn(n, 3, hosts.IMAGE, hosts.IMAGE, generator=generator)
    return DataLoader(TensorDataset(images, labels), batch_size=batch_size)


def validated():
    """The recipe with a validation step, which solo-learn's methods have already."""
    module = hosts.recipe()
    if hosts.site_name() == "criterion":
        kind = type(module)
        kind.validation_step = lambda self, batch, batch_idx, dataloader_idx=0: None
    return module


def unscored():
    """The same without solo-learn's own evaluation, which takes one loader of labelled images."""
    module = validated()
    for name in ("validation_step", "validation_epoch_end", "on_validation_epoch_end"):
        if hasattr(type(module), name):
            setattr(module, name, lambda *args: None)
    return module


def fit(loaders, *args, module=None, trainer=None, **kwargs):
    hosts.lightning().seed_everything(0)
    module = module or validated()
    made = callback("RepresentationDiagnostics", *args, **kwargs)
    trainer = hosts.trainer(callbacks=[made], **(trainer or {}))
    trainer.fit(module, hosts.loader(), loaders)
    return module, trainer


def features(module, loader):
    encoder = module.backbone if hasattr(module, "backbone") else module.encoder
    images, labels = loader.dataset.tensors
    with torch.no_grad():
        return encoder.eval()(images), labels


def logged(trainer):
    return [float(trainer.callback_metrics[name]) for name in NAMES]


def test_logged_is_what_the_features_say():
    loader = labelled()
    module, trainer = fit(loader)
    rows, labels = features(module, loader)
    expected = [intra_class_distance(rows, labels), silhouette(rows, labels)]
    assert logged(trainer) == pytest.approx(expected, rel=1e-5)


def test_of_several_loaders_the_last_counts():
    last = labelled(seed=6)
    module, trainer = fit([labelled(), last], module=unscored())
    assert logged(trainer)[1] == pytest.approx(silhouette(*features(module, last)), rel=1e-5)


def test_few_images_are_of_all_batches():
    loader = labelled(n=32, classes=4)  # one class in each batch
    module, trainer = fit(loader, max_samples=10)
    rows, labels = features(module, loader)
    chosen = torch.tensor([0, 1, 8, 9, 10, 16, 17, 24, 25, 26])  # 2, 3, 2, 3
    assert logged(trainer)[1] == pytest.approx(silhouette(rows[chosen], labels[chosen]), rel=1e-5)


def test_images_without_a_class_are_left_out():
    loader = labelled()
    loader.dataset.tensors[1][:10] = -1
    module, trainer = fit(loader)
    rows, labels = features(module, loader)
    assert logged(trainer)[1] == pytest.approx(silhouette(rows[10:], labels[10:]), rel=1e-5)


def test_it_measures_after_every_so_many_epochs():
    seen = []

    class See(hosts.lightning().Callback):
        def on_validation_end(self, trainer, module):
            seen.append(NAMES[1] in trainer.callback_metrics)
            trainer.callback_metrics.pop(NAMES[1], None)

    hosts.lightning().seed_everything(0)
    made = callback("RepresentationDiagnostics", every=2)
    trainer = hosts.trainer(callbacks=[made, See()], max_epochs=3)
    trainer.fit(validated(), hosts.loader(), labelled())
    assert seen[-3:] == [False, True, False]  # a sanity check may come first


class Drawing(torch.nn.Module):
    """An encoder that draws random numbers, and has a part that is frozen in eval mode."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.norm = torch.nn.BatchNorm1d(512).eval()

    def forward(self, images):
        return self.norm(self.inner(images)) + 0.1 * torch.rand(len(images), 512).to(images)


def test_the_training_is_as_without_it():
    def trained(callbacks):
        hosts.lightning().seed_everything(0)
        module = validated()
        name = "backbone" if hasattr(module, "backbone") else "encoder"
        setattr(module, name, Drawing(getattr(module, name)))
        trainer = hosts.trainer(callbacks=callbacks, max_epochs=3, num_sanity_val_steps=0)
        trainer.fit(module, hosts.loader(), labelled())
        return torch.cat([hosts.parameters(module), torch.rand(1)])

    assert torch.equal(trained([]), trained([callback("RepresentationDiagnostics")]))


def test_embedding_leaves_no_trace():
    encoder = Drawing(torch.nn.Sequential(torch.nn.Linear(4, 512), torch.nn.Dropout().eval()))
    encoder.double().norm.train()
    modes = [module.training for module in encoder.modules()]
    assert set(modes) == {True, False}
    images, before = torch.randn(6, 4), torch.get_rng_state()
    found = embed(encoder, images)
    assert found.dtype == torch.float32
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(embed(encoder, images), found)  # the same draws
    assert [module.training for module in encoder.modules()] == modes
    assert encoder.norm.num_batches_tracked == 0


def test_ranks_measure_everyones_features(tmp_path):
    class Share(torch.utils.data.IterableDataset):
        """Two batches of eight for the first rank, for the second one of eight and one of one."""

        def __iter__(self):
            images, labels = labelled(25).dataset.tensors
            own = slice(0, 16) if torch.distributed.get_rank() == 0 else slice(16, None)
            return zip(images[own], labels[own], strict=True)

    class Write(hosts.lightning().Callback):
        def on_fit_end(self, trainer, module):
            found = features(module, labelled(25))
            both = [intra_class_distance(*found), silhouette(*found)]
            torch.save((logged(trainer), both), tmp_path / str(trainer.global_rank))

    def train():
        made = callback("RepresentationDiagnostics")
        parallel = {"strategy": "ddp_fork", "devices": 2, "num_sanity_val_steps": 0}
        trainer = hosts.trainer(callbacks=[made, Write()], **parallel)
        trainer.fit(validated(), hosts.loader(32, 4), DataLoader(Share(), batch_size=8))

    ranks.apart(train)
    for rank in range(2):
        found, expected = torch.load(tmp_path / str(rank), weights_only=True)
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("loader", "arguments", "message"),
    [
        (None, {}, "has no validation loader or no validation_step"),
        (labelled(), {"encoder": "trunk"}, "has no attribute 'trunk' that is a module"),
        (hosts.loader(), {}, r"batches that are no \(images \[n, …\], labels \[n\], …\)"),
        (labelled(classes=1), {}, "30 labelled validation images of 1 classes"),
    ],
)
def test_recipes_that_it_cannot_measure(loader, arguments, message, caplog):
    module = unscored()
    with pytest.raises(ValueError, match=message):
        fit(loader, module=module, **arguments)
    if not arguments:
        # Asked for by the environment it leaves the recipe alone, with one notice.
        fit(loader, module=module, from_environment=True, trainer={"max_epochs": 2})
        notices = [r.message for r in caplog.records if "measures no representations" in r.message]
        assert len(notices) == 1


def test_an_encoder_that_returns_no_tensor():
    module = validated()
    module.trunk = torch.nn.Module()
    module.trunk.forward = lambda images: {"feats": images}
    with pytest.raises(ValueError, match=r"the encoder Module must return a tensor .*, got dict"):
        fit(labelled(), encoder="trunk", module=module)


@pytest.mark.parametrize("arguments", [{"every": 0}, {"max_samples": 0}])
def test_arguments_out_of_range(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        callback("RepresentationDiagnostics", **arguments)


def ours(trainer):
    return [
        type(c).__name__
        for c in trainer.callbacks
        if type(c).__module__ == "negplug.hosts.trainer.lightnings"
    ]


def test_the_environment_measures_an_untouched_recipe(monkeypatch, caplog):
    monkeypatch.setenv(VARIABLE, "representation, gradient_snr,")
    trainer = hosts.trainer(max_epochs=2, log_every_n_steps=1)
    assert sorted(ours(trainer)) == ["GradientSNR", "RepresentationDiagnostics"]
    trainer.fit(unscored(), hosts.loader())
    found = {name for name in trainer.callback_metrics if name.startswith("negplug")}
    assert found == {"negplug/gradient_snr", "negplug/gradient_snr_std"}
    assert sum("measures no representations" in record.message for record in caplog.records) == 1
    trainer = hosts.trainer(log_every_n_steps=1)
    trainer.fit(validated(), hosts.loader(), labelled())
    assert found | set(NAMES) <= trainer.callback_metrics.keys()


def test_an_unknown_name_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "gradient_snr,entropy")
    message = f"^{VARIABLE} names 'entropy'; there are gradient_snr, representation, contact_sheet$"
    with pytest.raises(ValueError, match=message):
        hosts.trainer()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("gradient_snr", "GradientSNR"), ("representation", "RepresentationDiagnostics")],
)
def test_environment_and_explicit_callback_together(monkeypatch, name, kind):
    monkeypatch.setenv(VARIABLE, name)
    with pytest.raises(
        ValueError, match=f"{VARIABLE} names '{name}' and the recipe passes a {kind}"
    ):
        callback(kind)


SCRIPT = """
    import hosts
    trainer = hosts.trainer(log_every_n_steps=1)
    trainer.fit(hosts.recipe(), hosts.loader())
    print(sorted(name for name in trainer.callback_metrics if name.startswith("negplug")))
"""


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("gradient_snr", 0, "['negplug/gradient_snr', 'negplug/gradient_snr_std']\n"),
        (
            "entropy",
            2,
            "--diagnose 'entropy': there are gradient_snr, representation, contact_sheet.\n",
        ),
    ],
)
def test_the_command_line(tmp_path, name, code, said):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    negplug = ("negplug", "run", "--sampler", "baseline", "--diagnose", name, str(script))
    support = str(Path(hosts.__file__).parent)
    path = os.pathsep.join(filter(None, (support, os.getenv("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", *negplug],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert (done.stdout if code == 0 else done.stderr).endswith(said)
