"""Command line options that all recipes share."""

from __future__ import annotations

import argparse
from typing import Any

from datasets import DatasetError, dataset_info

ADAM_LR = 2e-3
# Of a batch of one; it grows with the root of the batch size (Chen et al. 2020, appendix B.1).
LARS_LR = 0.075
LARS_MOMENTUM = 0.9
# Hosts' LARS leaves parameters without weight decay unscaled.
LARS_WEIGHT_DECAY = 1e-6


def recipe_parser(
    description: str | None, *, loader_processes: bool = True, **defaults: Any
) -> argparse.ArgumentParser:
    """Returns a parser with the options that all recipes share.

    Args:
        description: First lines of the help text.
        loader_processes: Whether the recipe has any, and so an option for their number.
        **defaults: Defaults of this recipe, by option name with underscores.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        default="digits",
        help="digits and cameras (embedded), fashion-mnist, cifar10, cifar100, stl10, or a "
        "folder with one sub-folder per class in train/ and in val/ or test/",
    )
    data.add_argument("--data-root", default="data", help="folder of downloaded data sets")
    data.add_argument("--download", action="store_true", help="let torchvision download the data")
    data.add_argument("--train-size", type=int, help="use only so many training images")
    if loader_processes:
        data.add_argument("--workers", type=int, default=2, help="loader processes")

    train = parser.add_argument_group("training")
    train.add_argument("--backbone", choices=["small", "resnet18"], default="small")
    train.add_argument("--epochs", type=int)
    train.add_argument("--batch-size", type=int)
    train.add_argument(
        "--optimizer", choices=["adam", "lars"], default="adam", help="lars is the host's own"
    )
    train.add_argument(
        "--lr",
        type=float,
        help=f"learning rate; None: {ADAM_LR} with adam, "
        f"{LARS_LR} times the root of the batch size with lars",
    )
    train.add_argument("--temperature", type=float)
    train.add_argument("--seed", type=int, default=0)
    train.add_argument(
        "--eval-every", type=int, default=0, help="evaluate every so many epochs; 0: at the end"
    )

    hardware = parser.add_argument_group("hardware and output")
    hardware.add_argument("--accelerator", default="auto", help="cpu, gpu, ... as for the Trainer")
    hardware.add_argument("--devices", type=int, default=1, help="number of processes")
    hardware.add_argument(
        "--default-root-dir", help="write logs and checkpoints to this folder; default: nothing"
    )
    parser.set_defaults(**defaults)
    return parser


def parse_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parses the command line and checks that there is a known data set and a step to train.

    The learning rate, where none is given, is that of the optimizer.
    """
    args = parser.parse_args()
    if args.lr is None:
        args.lr = LARS_LR * args.batch_size**0.5 if args.optimizer == "lars" else ADAM_LR
    if args.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {args.epochs}")
    if args.train_size is not None and args.train_size < args.batch_size:
        parser.error(f"--train-size {args.train_size} is less than --batch-size {args.batch_size}")
    try:
        dataset_info(args.data)
    except DatasetError as error:
        parser.error(str(error))
    return args
