"""SimCLR with solo-learn's main branch (configured by OmegaConf) on small images.

Usage: python benchmarks/recipes/solo_main_simclr.py --epochs 1

``solo_simclr.py`` is the same recipe for the released version.
"""

from __future__ import annotations

import argparse
from typing import Any

from backbone import SmallConvNet
from datasets import MEAN, STD, DatasetError, build_dataset, dataset_info, evaluation_transform
from evaluation import OnlineEvaluation
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import LambdaCallback
from omegaconf import DictConfig, OmegaConf
from options import LARS_MOMENTUM, LARS_WEIGHT_DECAY, parse_options, recipe_parser
from solo.data.pretrain_dataloader import (
    FullTransformPipeline,
    NCropAugmentation,
    build_transform_pipeline,
    dataset_with_index,
    prepare_dataloader,
)
from solo.methods import METHODS


def build_config(args: argparse.Namespace) -> DictConfig:
    """Translates the command line to solo-learn's configuration."""
    info = dataset_info(args.data)
    lars = args.optimizer == "lars"
    large = {
        "rrc": {"enabled": True, "crop_min_scale": 0.6, "crop_max_scale": 1.0},
        "color_jitter": {
            "prob": 0.8,
            "brightness": 0.4,
            "contrast": 0.4,
            "saturation": 0.4,
            "hue": 0.1,
        },
        "grayscale": {"prob": 0.2},
        "gaussian_blur": {"prob": 0.0 if info.image_size <= 64 else 0.5},
        "solarization": {"prob": 0.0},
        "equalization": {"prob": 0.0},
        "horizontal_flip": {"prob": 0.5 if info.mirrored else 0.0},
        "crop_size": info.image_size,
        "num_crops": 2,
        "mean": MEAN,
        "std": STD,
    }
    small = large | {
        "rrc": {"enabled": True, "crop_min_scale": 0.3, "crop_max_scale": 0.6},
        "crop_size": info.image_size // 2,
        "num_crops": args.small_crops,
    }
    return OmegaConf.create(
        {
            "name": "simclr",
            "method": "supcon" if args.supervised else "simclr",
            "method_kwargs": {
                "proj_hidden_dim": 256,
                "proj_output_dim": 64,
                "temperature": args.temperature,
            },
            "backbone": {"name": "resnet18"},
            "augmentations": [large, small] if args.small_crops else [large],
            "data": {
                # The host gives ResNet-18 its stem for small images by this name.
                "dataset": "cifar10" if info.image_size <= 64 else "custom",
                "num_classes": info.num_classes,
                "num_large_crops": 2,
                "num_small_crops": args.small_crops,
            },
            "optimizer": {
                "name": args.optimizer,
                "batch_size": args.batch_size,
                "lr": args.lr,
                "classifier_lr": args.lr,
                "weight_decay": LARS_WEIGHT_DECAY if lars else 0.0,
                "kwargs": (
                    {"momentum": LARS_MOMENTUM, "exclude_bias_n_norm": True} if lars else {}
                ),
            },
            "scheduler": {"name": "warmup_cosine", "warmup_epochs": 0},
            "max_epochs": args.epochs,
        }
    )


def log_train_loss(trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
    """Logs what is minimised: the contrastive loss plus that of the online classifier."""
    module.log("train_loss", outputs["loss"], prog_bar=True)


def main(args: argparse.Namespace) -> None:
    """Trains, evaluates and prints the accuracies."""
    seed_everything(args.seed, workers=True)
    cfg = build_config(args)
    views = FullTransformPipeline(
        [
            # "custom" makes the host take mean and standard deviation from the configuration.
            NCropAugmentation(build_transform_pipeline("custom", augmentation), num_crops)
            for augmentation in cfg.augmentations
            for num_crops in [augmentation.num_crops]
        ]
    )
    plain = evaluation_transform(dataset_info(args.data).image_size)
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

    model = METHODS[cfg.method](cfg)
    if args.backbone == "small":
        # The host knows its own backbones only. One with as many features as the ResNet-18 it has
        # built fits the classifier and the projector that are already there.
        model.backbone = SmallConvNet(model.features_dim)
    evaluation = OnlineEvaluation(model.backbone, labelled_set, test_set, every=args.eval_every)
    trainer = Trainer(
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
    try:
        main(parse_options(options))
    except DatasetError as error:
        options.error(str(error))
