"""``ContrastiveLoss``: one call, and the steps it belongs to."""

from negplug.loss.contrastive import ContrastiveLoss

__all__ = ["ContrastiveLoss"]
