"""What a host's unmodified script finds different when this folder is on ``PYTHONPATH``.

Python imports this file at the start of every process, those that Lightning launches included. A
script then trains on a few random images, without workers, on the CPU, for two steps, though it
asks for CIFAR, workers, GPUs and epochs:

* ``torchvision.datasets.CIFAR10`` and ``CIFAR100`` are small and need no download;
* Lightly's ``KNNClassifier`` does not log where today's Lightning refuses it;
* a ``DataLoader`` has no workers and batches of at most ``UPSTREAM_BATCH``;
* a ``Trainer`` runs two steps on ``UPSTREAM_DEVICES`` processes (1) of the CPU, in single
  precision, and appends what it did to the file ``UPSTREAM_RECORD``, a line per rank and fit.

``UPSTREAM_WITHOUT=name,…`` makes the named distributions and their modules absent.
"""

import functools
import importlib.abc
import importlib.machinery
import importlib.metadata
import json
import os
import sys

BATCH = int(os.environ.get("UPSTREAM_BATCH", "8"))


def small_cifar(module):
    import torch

    class Small(torch.utils.data.Dataset):
        def __init__(self, root, train=True, transform=None, target_transform=None, download=False):
            generator = torch.Generator().manual_seed(0)
            shape = (4 * BATCH, 32, 32, 3)
            self.data = torch.randint(256, shape, generator=generator, dtype=torch.uint8).numpy()
            self.transform = transform

        def __len__(self):
            return len(self.data)

        def __getitem__(self, index):
            from PIL import Image

            image = Image.fromarray(self.data[index])
            return (image if self.transform is None else self.transform(image)), index % 10

    module.CIFAR10 = module.CIFAR100 = Small


def small_batches(module):
    theirs = module.DataLoader.__init__

    @functools.wraps(theirs)
    def init(self, *args, **kwargs):
        if kwargs.get("batch_size") is not None:
            kwargs["batch_size"] = min(kwargs["batch_size"], BATCH)
        kwargs.update(num_workers=0, persistent_workers=False)
        theirs(self, *args, **kwargs)

    module.DataLoader.__init__ = init


def short_training(module):
    trainer = module.Trainer
    theirs, fit = trainer.__init__, trainer.fit

    @functools.wraps(theirs)
    def init(self, *args, **kwargs):
        kwargs.update(accelerator="cpu", devices=int(os.environ.get("UPSTREAM_DEVICES", "1")))
        # Epochs stay: schedules warm up for some of them.
        kwargs.update(max_steps=2, limit_train_batches=2, limit_val_batches=1)
        kwargs.update(precision="32-true", sync_batchnorm=False, log_every_n_steps=1)
        kwargs.update(enable_progress_bar=False, enable_model_summary=False)
        theirs(self, *args, **kwargs)

    @functools.wraps(fit)
    def recorded(self, model, *args, **kwargs):
        fit(self, model, *args, **kwargs)
        record(self, model)

    trainer.__init__, trainer.fit = init, recorded


def silent_knn(module):
    # It logs while it is a part of the module that is validated, which today's Lightning refuses.
    theirs = module.KNNClassifier.log_dict

    def log_dict(self, *args, **kwargs):
        if self._current_fx_name is not None:
            theirs(self, *args, **kwargs)

    module.KNNClassifier.log_dict = log_dict


def record(trainer, model):
    path = os.environ.get("UPSTREAM_RECORD")
    if path is None:
        return
    controls = [c for c in trainer.callbacks if c.state_key == "negplug"]
    treated = [c.injection.losses for c in controls if c.injection is not None]
    line = {
        "model": type(model).__name__,
        "rank": trainer.global_rank,
        "world": trainer.world_size,
        "steps": trainer.global_step,
        "weights": sum(float(p.detach().double().abs().sum()) for p in model.parameters()),
        "calls": {name: loss.calls for losses in treated for name, loss in losses.items()},
        "logged": {k: float(v) for k, v in trainer.callback_metrics.items() if "negplug" in k},
    }
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


PATCHES = {
    "torchvision.datasets": small_cifar,
    "torch.utils.data.dataloader": small_batches,
    "lightly.utils.benchmarking.knn_classifier": silent_knn,
    "pytorch_lightning.trainer.trainer": short_training,
    "lightning.pytorch.trainer.trainer": short_training,
}
ABSENT = tuple(filter(None, os.environ.get("UPSTREAM_WITHOUT", "").split(",")))


class Substitute(importlib.abc.MetaPathFinder):
    """Changes a module as soon as it is imported, and hides what is to be absent."""

    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name not in PATCHES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None:
            load = spec.loader.exec_module

            def load_and_change(module):
                load(module)
                PATCHES[name](module)

            spec.loader.exec_module = load_and_change
        return spec


def hide_distributions():
    discover = importlib.metadata.Distribution.discover.__func__

    def visible(cls, **kwargs):
        found = discover(cls, **kwargs)
        return (d for d in found if d.metadata["Name"] not in ABSENT)

    importlib.metadata.Distribution.discover = classmethod(visible)


sys.meta_path.insert(0, Substitute())
if ABSENT:
    hide_distributions()
