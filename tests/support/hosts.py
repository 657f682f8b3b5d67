"""A tiny real recipe of whichever host is installed: its method or loss, its Lightning."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from device import DEVICE
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

IMAGE = 16

# Of a Trainer: one process, nothing shown, nothing written.
QUIET = {
    "accelerator": "cpu" if DEVICE.type == "cpu" else "gpu",
    "devices": 1,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "max_epochs": 1,
}


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


def queue_recipe(queue_size: int, temperature: float = 0.2) -> Any:
    """The same with negatives from a queue: a memory bank in Lightly, MoCo v2+ in solo-learn."""
    if _has("lightly"):
        from lightly.loss import NTXentLoss

        module = _lightly_module(temperature)
        module.criterion = NTXentLoss(temperature, memory_bank_size=(queue_size, 16))
        return module
    return _solo_queue(queue_size, temperature)


def queue_site_name() -> str:
    return "criterion" if _has("lightly") else "mocov2plus_loss_func"


def site_name() -> str:
    return "criterion" if _has("lightly") else "simclr_loss_func"


def trainer(**kwargs: Any) -> Any:
    return lightning().Trainer(**(QUIET | kwargs))


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
        num_small_crops=small_crops,
        temperature=temperature,
        supervised=supervised,
        **_published_arguments(),
    )
    model.encoder = _encoder()  # of ResNet-18's width, and quick
    return model


def _published_arguments() -> dict[str, Any]:
    return dict(
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
        proj_output_dim=16,
        proj_hidden_dim=32,
    )


def _solo_main(temperature: float, small_crops: int = 0) -> Any:
    from solo.methods import SimCLR

    model = SimCLR(_main_config("simclr", small_crops, temperature=temperature))
    model.backbone = _encoder()  # of ResNet-18's width, and quick
    return model


def _main_config(method: str, small_crops: int = 0, **method_kwargs: Any) -> Any:
    from omegaconf import OmegaConf

    cfg = {
        "name": "test",
        "method": method,
        "method_kwargs": {"proj_output_dim": 16, "proj_hidden_dim": 32, **method_kwargs},
        "momentum": {"base_tau": 0.9, "final_tau": 1.0, "classifier": False},
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
    return config


def _solo_queue(queue_size: int, temperature: float) -> Any:
    return solo_method("MoCoV2Plus", temperature, queue_size=queue_size)


def solo_method(name: str, temperature: float = 0.2, small_crops: int = 0, **settings: Any) -> Any:
    """Any contrastive method of the installed solo-learn, on a small encoder."""
    methods = importlib.import_module("solo.methods")
    kind = getattr(methods, name)
    if name == "ReSSL":
        settings = {"temperature_q": temperature, "temperature_k": temperature / 2.5} | settings
    else:
        settings = {"temperature": temperature} | settings
    if name in ("MoCoV3", "NNCLR", "All4One"):
        settings = {"pred_hidden_dim": 32} | settings
    with_momentum = issubclass(kind, methods.base.BaseMomentumMethod)
    if solo_generation() == "main":
        model = kind(_main_config(name.lower(), small_crops, **settings))
        encoder = "backbone"
    else:
        if with_momentum:
            settings |= {"base_tau_momentum": 0.9, "final_tau_momentum": 1.0}
            settings |= {"momentum_classifier": False}
            kind = _on_today(kind)
        model = kind(num_small_crops=small_crops, **settings, **_published_arguments())
        encoder = "encoder"
    setattr(model, encoder, _encoder())  # of ResNet-18's width, and quick
    if with_momentum:
        setattr(model, f"momentum_{encoder}", _encoder())
        for online, momentum in model.momentum_pairs:
            momentum.load_state_dict(online.state_dict())
            momentum.requires_grad_(False)
    return model


def _on_today(kind: Any) -> Any:
    class OnToday(kind):
        """1.0.2 expects an argument that Lightning has not passed since 1.7."""

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_end(outputs, batch, batch_idx, 0)

    return OnToday
