"""SimCLR with solo-learn 1.0 (the released version, configured by arguments) on small images.

Usage: python benchmarks/recipes/solo_simclr.py --epochs 1

``solo_main_simclr.py`` is the same recipe for solo-learn's main branch.
"""

from __future__ import annotations

import argparse
from typing import Any

import pytorch_lightning as pl
from backbone import SmallConvNet
from datasets import MEAN, STD, DatasetError, build_dataset, dataset_info, evaluation_transform
from evaluation import OnlineEvaluation
from options import parse_options, recipe_parser
from pytorch_lightning.callbacks import LambdaCallback
from solo.methods import SimCLR
from solo.utils.pretrain_dataloader import (
    dataset_with_index,
    prepare_dataloader,
    prepare_n_crop_transform,
    prepare_transform,
)


def build_model(args: argparse.Namespace, num_classes: int, image_size: int) -> SimCLR:
    """Returns solo-learn's SimCLR, with the recipe's small backbone unless told otherwise."""
    model = SimCLR(
        encoder="resnet18",
        backbone_args={"cifar": image_size <= 64, "zero_init_residual": False},
        num_classes=num_classes,
        max_epochs=args.epochs,
        batch_size=args.batch_size,
        optimizer="adam",
        lars=False,
        lr=args.lr,
        weight_decay=0.0,
        classifier_lr=args.lr,
        exclude_bias_n_norm=False,
        accumulate_grad_batches=1,
        extra_optimizer_args={},
        scheduler="cosine",
        min_lr=0.0,
        warmup_start_lr=0.0,
        warmup_epochs=0,
        num_large_crops=2,
        num_small_crops=args.small_crops,
        proj_hidden_dim=256,
        proj_output_dim=64,
        temperature=args.temperature,
        supervised=args.supervised,
    )
    if args.backbone == "small":
        # The host knows its own encoders only. One with as many features as the ResNet-18 it has
        # built fits the classifier and the projector that are already there.
        model.encoder = SmallConvNet(model.features_dim)
    return model


def log_train_loss(trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
    """Logs what is minimised: the contrastive loss plus that of the online classifier."""
    module.log("train_loss", outputs["loss"], prog_bar=True)


def main(args: argparse.Namespace) -> None:
    """Trains, evaluates and prints the accuracies."""
    pl.seed_everything(args.seed, workers=True)
    info = dataset_info(args.data)
    augmentations = {
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.4,
        "hue": 0.1,
        "gaussian_prob": 0.0 if info.image_size <= 64 else 0.5,
        "horizontal_flip_prob": 0.5 if info.mirrored else 0.0,
        "mean": MEAN,
        "std": STD,
    }
    large = prepare_transform(
        "custom", crop_size=info.image_size, min_scale=0.6, max_scale=1.0, **augmentations
    )
    small = prepare_transform(
        "custom", crop_size=info.image_size // 2, min_scale=0.3, max_scale=0.6, **augmentations
    )
    views = prepare_n_crop_transform([large, small], num_crops_per_aug=[2, args.small_crops])
    plain = evaluation_transform(info.image_size)
    source = {"data_root": args.data_root, "download": args.download}
    train_set = build_dataset(
        args.data,
        True,
        views,
        size=args.train_size,
        unlabeled=not args.supervised,
        decorate=dataset_with_index,  # batches begin with the indexes of their images
        **source,
    )
    labelled_set = build_dataset(args.data, True, plain, size=args.train_size, **source)
    test_set = build_dataset(args.data, False, plain, **source)
    loader = prepare_dataloader(train_set, args.batch_size, num_workers=args.workers)

    model = build_model(args, info.num_classes, info.image_size)
    evaluation = OnlineEvaluation(model.encoder, labelled_set, test_set, every=args.eval_every)
    trainer = pl.Trainer(
        max_epochs=args.epochs,
        accelerator=args.accelerator,
        devices=args.devices,
        default_root_dir=args.default_root_dir,
        log_every_n_steps=min(50, max(len(loader), 1)),  # short runs log something too
        logger=args.default_root_dir is not None,
        enable_checkpointing=args.default_root_dir is not None,
        callbacks=[
            LambdaCallback(on_train_batch_end=log_train_loss, on_train_epoch_end=evaluation)
        ],
    )
    trainer.fit(model, loader)
    if trainer.is_global_zero:
        metrics = trainer.callback_metrics
        print(f"knn_acc {metrics['knn_acc']:.3f}, linear_acc {metrics['linear_acc']:.3f}")


if __name__ == "__main__":
    options = recipe_parser(__doc__, train_size=2048, epochs=5, batch_size=128, temperature=0.1)
    options.add_argument(
        "--supervised", action="store_true", help="count images of one class as positives"
    )
    options.add_argument("--small-crops", type=int, default=0, help="additional small views")
    parsed = parse_options(options)
    if parsed.optimizer == "lars":
        # Its wrapper scales the gradients that it finds before the step's own are there.
        options.error("solo-learn 1.0.2's LARS has no effect here; use solo_main_simclr.py")
    try:
        main(parsed)
    except DatasetError as error:
        options.error(str(error))
