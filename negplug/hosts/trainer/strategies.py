"""Which of the Trainer's strategies negplug has not been tried with."""

from __future__ import annotations

from typing import Any

_UNTESTED = ("FSDP", "Sharded", "DeepSpeed", "ModelParallel")
"""Parts of the names of strategies that shard or rewrite the model."""


def untested_strategy(trainer: Any) -> str | None:
    """Return the name of the Trainer's strategy if it shards or rewrites the model, else None."""
    strategy = type(trainer.strategy).__name__
    return strategy if any(part in strategy for part in _UNTESTED) else None


def refusal(trainer: Any) -> ValueError | None:
    """Return the error that refuses to treat a model under the Trainer's strategy, if it must."""
    strategy = untested_strategy(trainer)
    if strategy is None:
        return None
    return ValueError(
        f"negplug is untested with {strategy}, which shards or rewrites the model; use a single "
        f"device or DDP"
    )
