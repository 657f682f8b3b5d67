"""A tiny real recipe of whichever host is installed: its method or loss, its Lightning."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

IMAGE = 16


def framework() -> str:
    """The Lightning that the installed host's recipes import."""
    if _has("lightly"):
        return "pytorch_lightning"
    return "lightning.pytorch" if solo_generation() == "main" else "pytorch_lightning"


def solo_generation() -> str | None:
    """``"main"``, ``"1.0.2"`` or None if solo-learn is not installed."""
    if not _has("solo"):
        return None
    return "main" if _has("solo.data") else "1.0.2"


def lightning() -> Any:
    return importlib.import_module(framework())


def negative_control() -> Any:
    package = "negplug_lightly" if _has("lightly") else "negplug_solo"
    return importlib.import_module(package).NegativeControl


class Pairs(Dataset):
    """Two views of random images; a pure function of the index, in the host's batch format."""

    def __init__(self, size: int = 24, views: int = 2) -> None:
        generator = torch.Generator().manual_seed(11)
        self.images = torch.randn(size, 3, IMAGE, IMAGE, generator=generator)
        self.noise = 0.3 * torch.randn(size, views, 3, IMAGE, IMAGE, generator=generator)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        views = list(self.images[index] + self.noise[index])
        if _has("lightly"):
            return views, index % 4, f"{index}.png"
        return index, views, index % 4


def loader(size: int = 24, batch_size: int = 8, views: int = 2, drop_last: bool = True) -> Any:
    return DataLoader(Pairs(size, views), batch_size=batch_size, drop_last=drop_last)


def recipe(temperature: float = 0.2, **kwargs: Any) -> Any:
    """A LightningModule as the host's users have it."""
    if _has("lightly"):
        return _lightly_module(temperature)
    build = _solo_main if solo_generation() == "main" else _solo_published
    return build(temperature, **kwargs)


def site_name() -> str:
    return "criterion" if _has("lightly") else "simclr_loss_func"


def trainer(**kwargs: Any) -> Any:
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "max_epochs": 1,
    }
    return lightning().Trainer(**(quiet | kwargs))


def parameters(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def _has(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _encoder() -> nn.Module:
    # Without BatchNorm, which would amplify rounding from step to step.
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 512),
    )


def _lightly_module(temperature: float) -> Any:
    from lightly.loss import NTXentLoss

    class SimCLR(lightning().LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = _encoder()
            self.head = nn.Linear(512, 16)
            self.criterion = NTXentLoss(temperature=temperature)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            views = batch[0]
            loss = self.criterion(*(self.head(self.backbone(view)) for view in views))
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05)

    return SimCLR()


def _solo_published(temperature: float, small_crops: int = 0, supervised: bool = False) -> Any:
    from solo.methods import SimCLR

    model = SimCLR(
        encoder="resnet18",
        num_classes=4,
        backbone_args={"cifar": True, "zero_init_residual": False},
        max_epochs=2,
        batch_size=8,
        optimizer="sgd",
        lars=False,
        lr=0.01,
        weight_decay=0.0,
        classifier_lr=0.01,
        exclude_bias_n_norm=False,
        accumulate_grad_batches=1,
        extra_optimizer_args={},
        scheduler="none",
        min_lr=0.0,
        warmup_start_lr=0.0,
        warmup_epochs=0,
        num_large_crops=2,
        num_small_crops=small_crops,
        proj_output_dim=16,
        proj_hidden_dim=32,
        temperature=temperature,
        supervised=supervised,
    )
    model.encoder = _encoder()  # of ResNet-18's width, and quick
    return model


def _solo_main(temperature: float, small_crops: int = 0) -> Any:
    from omegaconf import OmegaConf
    from solo.methods import SimCLR

    cfg = {
        "name": "test",
        "method": "simclr",
        "method_kwargs": {
            "proj_output_dim": 16,
            "proj_hidden_dim": 32,
            "temperature": temperature,
        },
        "backbone": {"name": "resnet18"},
        "data": {
            "dataset": "cifar10",
            "num_classes": 4,
            "num_large_crops": 2,
            "num_small_crops": small_crops,
        },
        "optimizer": {
            "name": "sgd",
            "batch_size": 8,
            "lr": 0.01,
            "classifier_lr": 0.01,
            "weight_decay": 0.0,
        },
        "scheduler": {"name": "none"},
        "checkpoint": {"enabled": False},
        "auto_resume": {"enabled": False},
        "max_epochs": 2,
        "devices": 1,
        "accelerator": "cpu",
        "num_nodes": 1,
    }
    config = OmegaConf.create(cfg)
    OmegaConf.set_struct(config, False)
    model = SimCLR(config)
    model.backbone = _encoder()  # of ResNet-18's width, and quick
    return model
