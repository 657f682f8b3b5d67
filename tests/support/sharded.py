"""A Trainer on ranks that are there already, with a model that is sharded or not."""

from __future__ import annotations

import hosts
import torch


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
