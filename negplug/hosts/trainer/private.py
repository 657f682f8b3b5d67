"""All that negplug takes from Lightning beyond its documented interface, one function each.

It is the same for both Lightnings, from 1.9 on; where versions differ, a function here knows it.
Each says in one sentence, with the installed version, if the thing it takes is gone;
``tests/hosts/test_lightning_private.py`` asks the installed Lightning for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader

from negplug.contract import provenance


def changed(lightnings: Any, what: str, reader: str) -> RuntimeError:
    """Return the error that says what of the installed Lightning is not as expected.

    Args:
        lightnings: A Trainer or a ``LightningModule``, whose classes tell which of both it is.
        what: What changed, as a clause.
        reader: The function of this module that relies on it.
    """
    homes = {kind.__module__.partition(".")[0] for kind in type(lightnings).__mro__}
    distribution = "lightning" if "lightning" in homes else "pytorch-lightning"
    return provenance.changed(distribution, what, f"{__name__}.{reader}")


def attached_trainer(model: Any) -> Any:
    """Return the Trainer that a ``LightningModule`` is attached to, or None.

    Its ``trainer`` raises where there is none, and so do the modules inside of it.
    """
    if not hasattr(model, "_trainer"):
        raise changed(model, "a LightningModule has no _trainer any more", "attached_trainer")
    return model._trainer


def loader_hook(trainer: Any) -> Callable[[Any], Any]:
    """Return what Lightning calls with each loader, once it is final and before it is iterated.

    That is ``process_dataloader`` of the strategy, which returns the loader to iterate.
    """
    if not hasattr(trainer.strategy, "process_dataloader"):
        raise changed(trainer, "a strategy has no process_dataloader any more", "loader_hook")
    hook: Callable[[Any], Any] = trainer.strategy.process_dataloader
    return hook


def own_loader_hook(trainer: Any) -> Callable[[Any], Any] | None:
    """Return the :func:`loader_hook` if it was set on the strategy itself, else None."""
    hook: Callable[[Any], Any] | None = vars(trainer.strategy).get("process_dataloader")
    return hook


def set_loader_hook(trainer: Any, hook: Callable[[Any], Any] | None) -> None:
    """Set the :func:`loader_hook` on the strategy itself; None uncovers its class's."""
    if hook is None:
        del trainer.strategy.process_dataloader
    else:
        trainer.strategy.process_dataloader = hook


def training_loader(trainer: Any) -> Any:
    """Return what the recipe trains on: a loader, or a collection of loaders.

    Lightning 1.9 gives its ``CombinedLoader``, later ones what is inside.
    """
    loader = trainer.train_dataloader
    return loader if isinstance(loader, DataLoader) else getattr(loader, "loaders", loader)


def batches_taken(trainer: Any) -> int:
    """Return how many batches of the epoch were taken, the one in training included.

    Batches that are None count too, though Lightning calls no hook for them.
    """
    try:
        return int(trainer.fit_loop.epoch_loop.batch_progress.current.ready)
    except AttributeError as error:
        what = f"a Trainer counts its batches elsewhere ({error})"
        raise changed(trainer, what, "batches_taken") from error


def epochs_done(trainer: Any) -> int:
    """Return how many epochs of a fit, and of the runs that it goes on from, are over.

    An epoch is over before its ``on_train_epoch_end``, as a checkpoint that is saved there has it.
    """
    try:
        return int(trainer.fit_loop.epoch_progress.current.processed)
    except AttributeError as error:
        what = f"a Trainer counts its epochs elsewhere ({error})"
        raise changed(trainer, what, "epochs_done") from error


def prefetched(trainer: Any, loader: DataLoader[Any]) -> int:
    """Return how many batches are drawn beyond the one handed out, until the end.

    Workers draw ahead; and Lightning looks one batch ahead where it cannot know the end.
    """
    fit_loop = trainer.fit_loop
    if not hasattr(fit_loop, "_data_fetcher"):
        raise changed(trainer, "a Trainer fetches its batches elsewhere", "prefetched")
    ahead = getattr(fit_loop._data_fetcher, "batches", ())  # none where the recipe fetches itself
    return loader.num_workers * (loader.prefetch_factor or 0) + len(ahead)


def logs_now(trainer: Any) -> bool:
    """Return whether Lightning hands the metrics of this step to its loggers."""
    try:
        return bool(trainer._logger_connector.should_update_logs)
    except AttributeError as error:
        what = f"a Trainer says elsewhere when it logs ({error})"
        raise changed(trainer, what, "logs_now") from error


def converts_batches(trainer: Any) -> bool:
    """Return whether a Trainer converts batches to the precision; before 2.0 the model does it.

    The two are told apart by a method of the Trainer that 2.0 made a function.
    """
    return not hasattr(trainer, "_call_strategy_hook")


def on_device(trainer: Any, model: Any, batch: Any) -> Any:
    """Return a collated batch as ``training_step`` gets it: by its hooks, and on its device."""
    if not hasattr(model, "_on_before_batch_transfer"):
        what = "a LightningModule has no _on_before_batch_transfer any more"
        raise changed(trainer, what, "on_device")
    if converts_batches(trainer):
        batch = trainer.precision_plugin.convert_input(batch)
    batch = model._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def loss_scaler(trainer: Any) -> Any:
    """Return the ``GradScaler`` with which a Trainer scales its losses, None if it scales none."""
    plugin = trainer.precision_plugin
    if str(plugin.precision) in ("16", "16-mixed") and not hasattr(plugin, "scaler"):
        raise changed(trainer, "a mixed precision has no scaler any more", "loss_scaler")
    return getattr(plugin, "scaler", None)
