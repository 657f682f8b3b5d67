"""SimCLR with Lightly on small images.

Usage: python benchmarks/recipes/lightly_simclr.py --epochs 1
"""

from __future__ import annotations

import argparse
from typing import Any

import pytorch_lightning as pl
import torch
from backbone import build_backbone
from datasets import MEAN, STD, DatasetError, build_dataset, dataset_info, evaluation_transform
from evaluation import OnlineEvaluation
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.models.utils import get_weight_decay_parameters
from lightly.transforms.simclr_transform import SimCLRTransform
from lightly.utils.lars import LARS
from options import LARS_MOMENTUM, LARS_WEIGHT_DECAY, parse_options, recipe_parser
from pytorch_lightning.callbacks import LambdaCallback
from torch.utils.data import DataLoader


class SimCLR(pl.LightningModule):
    """SimCLR: two views of an image attract each other, all other views repel.

    Args:
        backbone: ``"small"`` or ``"resnet18"``.
        image_size: Side of the views, in pixels.
        lr: Learning rate.
        temperature: Temperature of the contrastive loss.
        optimizer: ``"adam"`` or ``"lars"``.
    """

    def __init__(
        self,
        backbone: str,
        image_size: int,
        lr: float,
        temperature: float,
        optimizer: str = "adam",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.backbone, num_features = build_backbone(backbone, image_size)
        self.projection_head = SimCLRProjectionHead(num_features, num_features, 64)
        self.criterion = NTXentLoss(temperature=temperature, gather_distributed=True)
        self.lr = lr
        self.optimizer = optimizer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the representations of a batch of images."""
        features: torch.Tensor = self.backbone(images)
        return features

    def training_step(self, batch: tuple[list[torch.Tensor], Any], batch_idx: int) -> torch.Tensor:
        """Returns the loss of one batch of view pairs."""
        views = batch[0]
        # One pass over both views: (2 * batch_size, 3, side, side) -> (2 * batch_size, 64)
        z0, z1 = self.projection_head(self(torch.cat(views))).chunk(2)
        loss: torch.Tensor = self.criterion(z0, z1)
        self.log("train_loss", loss, prog_bar=True, batch_size=len(views[0]))
        return loss

    def configure_optimizers(self) -> Any:
        """Returns Adam or LARS with a cosine schedule over all steps."""
        optimizer: torch.optim.Optimizer
        if self.optimizer == "lars":
            decayed, others = get_weight_decay_parameters([self.backbone, self.projection_head])
            optimizer = LARS(
                [{"params": decayed}, {"params": others, "weight_decay": 0.0}],
                lr=self.lr,
                momentum=LARS_MOMENTUM,
                weight_decay=LARS_WEIGHT_DECAY,
            )
        else:
            optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def main(args: argparse.Namespace) -> None:
    """Trains, evaluates and prints the accuracies."""
    pl.seed_everything(args.seed, workers=True)
    info = dataset_info(args.data)
    views = SimCLRTransform(
        input_size=info.image_size,
        cj_strength=0.5,  # as Lightly recommends for small images
        min_scale=0.6,  # smaller crops would cut the digits out of the image
        gaussian_blur=0.0 if info.image_size <= 64 else 0.5,
        hf_prob=0.5 if info.mirrored else 0.0,
        normalize={"mean": list(MEAN), "std": list(STD)},
    )
    plain = evaluation_transform(info.image_size)
    source = {"data_root": args.data_root, "download": args.download}
    train_set = build_dataset(
        args.data, True, views, size=args.train_size, unlabeled=True, **source
    )
    labelled_set = build_dataset(args.data, True, plain, size=args.train_size, **source)
    test_set = build_dataset(args.data, False, plain, **source)
    loader = DataLoader(
        train_set,
        batch_size=args.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
    )
    model = SimCLR(args.backbone, info.image_size, args.lr, args.temperature, args.optimizer)
    evaluation = OnlineEvaluation(model.backbone, labelled_set, test_set, every=args.eval_every)
    trainer = pl.Trainer(
        max_epochs=args.epochs,
        accelerator=args.accelerator,
        devices=args.devices,
        default_root_dir=args.default_root_dir,
        log_every_n_steps=min(50, max(len(loader), 1)),  # short runs log something too
        logger=args.default_root_dir is not None,
        enable_checkpointing=args.default_root_dir is not None,
        callbacks=[LambdaCallback(on_train_epoch_end=evaluation)],
    )
    trainer.fit(model, loader)
    if trainer.is_global_zero:
        metrics = trainer.callback_metrics
        print(f"knn_acc {metrics['knn_acc']:.3f}, linear_acc {metrics['linear_acc']:.3f}")


if __name__ == "__main__":
    options = recipe_parser(__doc__, train_size=2048, epochs=5, batch_size=128, temperature=0.1)
    try:
        main(parse_options(options))
    except DatasetError as error:
        options.error(str(error))
