"""Waits for the first loss of a process, without the cost of the watch that then takes over."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from negplug.hosts.first_pass import may_be_checkpointed
from negplug.kernels.torch_private import outside_graphs

_hook: Any = None


def wait() -> None:
    """Start the watch that the environment asks for at the first scalar with a gradient."""
    global _hook
    if _hook is None:
        _hook = register_module_forward_hook(_after_forward, with_kwargs=True)


def _after_forward(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> Any:
    if not isinstance(output, Tensor) or output.ndim:
        return None
    if not (output.requires_grad or may_be_checkpointed(module, output)):
        return None
    return _start(module, args, kwargs, output)


@outside_graphs
def _start(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    global _hook
    from negplug.hosts import watch

    treated = watch.take_over(module, args, kwargs, output)
    if watch.is_at_work() and _hook is not None:
        _hook.remove()
        _hook = None
    return treated
