"""A Trainer whose ranks were started by somebody else, with a model that is sharded or not."""

from __future__ import annotations

import os

import hosts
import torch


def join(rank, world):
    """Let a Trainer of this process be one of ranks that are there already."""
    own = {"LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": world, "MASTER_PORT": 29_500}
    os.environ.update({name: str(value) for name, value in own.items()})
    os.environ["MASTER_ADDR"] = "127.0.0.1"


def fitted(
    world, sampler, shards, folder, epochs=2, save=None, resume=None, sizes=None, **settings
):
    """Train the host's recipe treated; return its parameters, whole, and the callback's state."""
    from pytorch_lightning.strategies import ModelParallelStrategy
    from torch.distributed.fsdp import fully_shard

    hosts.lightning().seed_everything(0)
    model, strategy = hosts.recipe(), "ddp"
    if shards:
        strategy = ModelParallelStrategy(*(sizes or (world, 1)), process_group_backend="gloo")

        def configure_model():
            for part in (model.backbone, model.head):
                fully_shard(part, mesh=model.device_mesh["data_parallel"])

        model.configure_model = configure_model
    control = hosts.negative_control()(sampler, **settings)
    trainer = hosts.trainer(
        strategy=strategy,
        devices=world,
        max_epochs=epochs,
        callbacks=[control],
        default_root_dir=folder,
    )
    trainer.fit(model, hosts.loader(32, 4), ckpt_path=resume)
    if save:
        trainer.save_checkpoint(save)
    return whole(model.parameters()), control.state_dict()


def whole(tensors):
    """Return tensors in one, those that are spread over ranks gathered."""
    each = (t.full_tensor() if hasattr(t, "full_tensor") else t for t in tensors)
    return torch.cat([tensor.detach().flatten().clone() for tensor in each])
