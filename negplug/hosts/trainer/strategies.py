"""What of the Trainer's strategies that shard the model is treated, and what is refused.

``ModelParallelStrategy`` with a ``configure_model`` that calls ``fully_shard`` (FSDP2) hands a loss
plain tensors, so it is treated as DDP is. In its tensor-parallel groups several ranks have the same
samples, which would be negatives of themselves.
"""

from __future__ import annotations

from typing import Any

_UNTESTED = ("FSDP", "Sharded", "DeepSpeed")
"""Parts of the names of strategies that shard or rewrite the model, and that need a GPU."""

_FULLY_SHARDED = "ModelParallel"


def sharding_strategy(trainer: Any) -> str | None:
    """Return the name of the Trainer's strategy if it shards or rewrites the model, else None."""
    strategy = type(trainer.strategy).__name__
    return strategy if any(part in strategy for part in (*_UNTESTED, _FULLY_SHARDED)) else None


def refusal(trainer: Any) -> ValueError | None:
    """Return the error that refuses to treat a model under the Trainer's strategy, if it must."""
    strategy = sharding_strategy(trainer)
    if strategy is None:
        return None
    if _FULLY_SHARDED not in strategy:
        return ValueError(
            f"negplug is untested with {strategy}, which shards or rewrites the model; use "
            f"ModelParallelStrategy with fully_shard (FSDP2), a single device or DDP"
        )
    ranks = _tensor_parallel(trainer.strategy)
    if ranks == 1:
        return None
    return ValueError(
        f"{strategy} gives the same samples to the {ranks} ranks of a tensor-parallel group, so "
        f"that an anchor would meet itself among other ranks' keys; give it "
        f"tensor_parallel_size=1 and data_parallel_size=the number of ranks"
    )


def _tensor_parallel(strategy: Any) -> int:
    """Return the number of ranks that share their samples."""
    return int(strategy.device_mesh["tensor_parallel"].size())
