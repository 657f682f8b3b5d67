"""The methods, a module each as in the host, and the table of all."""

from solo.methods.all4one import All4One
from solo.methods.base import BaseMethod
from solo.methods.mocov2plus import MoCoV2Plus
from solo.methods.mocov3 import MoCoV3
from solo.methods.nnclr import NNCLR
from solo.methods.others import BYOL, NNBYOL, BarlowTwins, LinearModel, SwAV
from solo.methods.ressl import ReSSL
from solo.methods.simclr import SimCLR
from solo.methods.supcon import SupCon

METHODS = {
    "base": BaseMethod,
    "linear": LinearModel,
    "all4one": All4One,
    "barlow_twins": BarlowTwins,
    "byol": BYOL,
    "mocov2plus": MoCoV2Plus,
    "mocov3": MoCoV3,
    "nnbyol": NNBYOL,
    "nnclr": NNCLR,
    "ressl": ReSSL,
    "simclr": SimCLR,
    "supcon": SupCon,
    "swav": SwAV,
}

__all__ = ["METHODS", *(kind.__name__ for kind in METHODS.values())]
