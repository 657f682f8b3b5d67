"""SimCLR with either host, its images and augmentations on the device.

Usage: python benchmarks/recipes/device_simclr.py --host lightly

Model and loss are the host's own, as in ``lightly_simclr.py`` and ``solo_simclr.py``; what differs
is where images come from. kornia augments them (``pip install "negplug[device]"``).
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
from typing import Any

import pytorch_lightning as pl
import torch
from datasets import DatasetError, DatasetInfo, build_dataset, dataset_info
from device_images import Arrange, DeviceImages, build_augmentation, load, normalised, shape_of
from evaluation import OnlineEvaluation
from options import parse_options, recipe_parser
from pytorch_lightning.callbacks import LambdaCallback
from torch import Tensor, nn


def for_lightly(_: Tensor, views: list[Tensor], labels: Tensor) -> Any:
    """Returns a batch as Lightly's recipes take it."""
    return views, labels


def for_solo(indexes: Tensor, views: list[Tensor], labels: Tensor) -> Any:
    """Returns a batch as solo-learn's methods take it."""
    return indexes, views, labels


def build_model(
    args: argparse.Namespace, info: DatasetInfo
) -> tuple[pl.LightningModule, nn.Module, Arrange]:
    """Returns the host's model, its encoder, and how its batches are arranged."""
    recipe: Any = importlib.import_module(f"{args.host}_simclr")
    if args.host == "lightly":
        model = recipe.SimCLR(
            args.backbone, info.image_size, args.lr, args.temperature, args.optimizer
        )
        return model, model.backbone, for_lightly
    model = recipe.build_model(args, info.num_classes, info.image_size)
    return model, model.encoder, for_solo


def device_of(accelerator: str) -> torch.device:
    """Returns the device of this process, as the Trainer chooses it."""
    if accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


class Clock(pl.Callback):
    """Measures the training without the evaluation; the device is waited for at either end."""

    seconds = 0.0

    def on_train_start(self, *_: Any) -> None:
        """Starts it."""
        self.seconds = -time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stops it after the last epoch, ahead of the callback that evaluates."""
        if trainer.current_epoch + 1 == trainer.max_epochs:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds += time.perf_counter()


def main(args: argparse.Namespace) -> None:
    """Trains, evaluates and prints the accuracies and the time of the training."""
    pl.seed_everything(args.seed, workers=True)
    info = dataset_info(args.data)
    device = device_of(args.accelerator)
    source = {"data_root": args.data_root, "download": args.download}
    labelled, tested = (
        load(build_dataset(args.data, train, shape_of(info), size=size, **source), device)
        for train, size in ((True, args.train_size), (False, None))
    )
    model, encoder, arrange = build_model(args, info)
    train_set = DeviceImages(*labelled, build_augmentation(info).to(device), arrange)
    loader = train_set.loader(args.batch_size)
    evaluation = OnlineEvaluation(
        encoder, normalised(*labelled), normalised(*tested), every=args.eval_every
    )
    clock = Clock()
    trainer = pl.Trainer(
        max_epochs=args.epochs,
        accelerator=args.accelerator,
        devices=args.devices,
        default_root_dir=args.default_root_dir,
        log_every_n_steps=min(50, max(len(loader), 1)),  # short runs log something too
        logger=args.default_root_dir is not None,
        enable_checkpointing=args.default_root_dir is not None,
        callbacks=[clock, LambdaCallback(on_train_epoch_end=evaluation)],
    )
    trainer.fit(model, loader)
    if trainer.is_global_zero:
        metrics = trainer.callback_metrics
        print(f"knn_acc {metrics['knn_acc']:.3f}, linear_acc {metrics['linear_acc']:.3f}")
        print(f"trained for {clock.seconds:.1f} s on {device}")


def parser() -> argparse.ArgumentParser:
    """Returns the options of this recipe."""
    options = recipe_parser(
        __doc__,
        loader_processes=False,
        data="fashion-mnist",
        train_size=10_000,
        epochs=12,
        batch_size=256,
        temperature=0.2,
        # What solo-learn's recipe takes beside.
        small_crops=0,
        supervised=False,
    )
    options.add_argument("--host", choices=["lightly", "solo"], default="lightly")
    return options


if __name__ == "__main__":
    options = parser()
    parsed = parse_options(options)
    if parsed.host == "solo" and parsed.optimizer == "lars":
        # As in its twin: the wrapper scales gradients before they are there.
        options.error("solo-learn 1.0.2's LARS has no effect here; take adam")
    try:
        main(parsed)
    except DatasetError as error:
        options.error(str(error))
