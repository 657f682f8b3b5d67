"""What the import of a plugin changes for everybody else: put back, and named.

A recipe trains the same whether a plugin is installed that it does not use. So the global
generators stay where they were, and so do the settings below.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch

from negplug.contract.hookspecs import PROJECT
from negplug.contract.provenance import PluginInfo
from negplug.kernels.precision import float32_products
from negplug.kernels.rng_states import isolated_rng


class PluginWarning(UserWarning):
    """A plugin was left out because it failed to load, or has changed what is everybody's."""


class _Setting(NamedTuple):
    what: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]


@contextmanager
def put_back(plugin: PluginInfo, stage: str) -> Iterator[None]:
    """Put back what a third-party plugin changes inside the ``with`` block, with a warning.

    Args:
        plugin: Whose code runs there.
        stage: What it is doing.
    """
    if plugin.distribution == PROJECT:
        yield
        return
    before = [setting.read() for setting in _SETTINGS]
    changed = []
    try:
        with isolated_rng(torch.device("cpu")):
            yield
    finally:
        for setting, value in zip(_SETTINGS, before, strict=True):
            if setting.read() != value:
                changed.append(setting.what)
                setting.write(value)
        if changed:
            warnings.warn(
                f"plugin {plugin} changed {' and '.join(changed)} at {stage}; "
                "negplug has put that back, because it is not the plugin's own",
                PluginWarning,
                stacklevel=2,
            )


def _set_default_device(device: torch.device) -> None:
    # With None torch looks at no call; with the CPU, which is as good, at each.
    torch.set_default_device(None if device.type == "cpu" else device)


def _set_float32_products(precision: str | None) -> None:
    if precision is not None:
        torch.set_float32_matmul_precision(precision)


def _cudnn() -> tuple[bool, bool]:
    return torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic


def _set_cudnn(before: tuple[bool, bool]) -> None:
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = before


def _working_directory() -> str | None:
    with suppress(OSError):  # it may have been removed
        return os.getcwd()
    return None


def _change_directory(path: str | None) -> None:
    if path is not None:
        with suppress(OSError):
            os.chdir(path)


def _errors() -> list[Any]:
    return [entry for entry in warnings.filters if entry[0] == "error"]


def _set_errors(before: list[Any]) -> None:
    kept = [entry for entry in warnings.filters if entry[0] != "error" or entry in before]
    warnings.filters[:] = kept  # type: ignore[index]


_SETTINGS = (
    # First, because what follows warns.
    _Setting("which warnings are errors", _errors, _set_errors),
    _Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    _Setting("torch's default device", torch.get_default_device, _set_default_device),
    _Setting("whether torch records gradients", torch.is_grad_enabled, torch.set_grad_enabled),
    _Setting(
        "whether torch is deterministic",
        torch.get_deterministic_debug_mode,  # which says too whether it warns or raises
        torch.set_deterministic_debug_mode,
    ),
    _Setting("torch's precision of float32 products", float32_products, _set_float32_products),
    _Setting("how cuDNN chooses its algorithms", _cudnn, _set_cudnn),
    _Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    _Setting("what logging leaves out", lambda: logging.root.manager.disable, logging.disable),
    _Setting("the working directory", _working_directory, _change_directory),
)
