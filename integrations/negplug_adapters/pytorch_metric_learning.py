"""pytorch-metric-learning: ``NTXentLoss`` and ``SupConLoss``, alone or inside its wrappers.

Rows of one label are positives of each other. Labels last: a row that a sampler remembers is no
negative of a later row of its label. Inside of ``SelfSupervisedLoss`` the rows are two views of the
batch's samples. Inside of ``CrossBatchMemory`` they are compared with that memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import AdapterSpec, hookimpl
from negplug.contract.inputs import check_embeddings
from negplug.contract.labels import as_labels
from negplug.contract.negatives import Negatives
from negplug.hosts.loss_modules import KnownLoss, LossModules
from negplug.hosts.treated_method import LossCall
from negplug.kernels import late
from negplug.kernels.distributed import world_size
from negplug.kernels.unit import unit_rows
from negplug.objectives.infonce import InfoNCE


class PerPair(InfoNCE):
    """``NTXentLoss``: the mean over pairs, each positive against the negatives alone."""

    def __init__(self) -> None:
        super().__init__("each")
        self.expression = "NTXentLoss's mean over pairs of positives"

    def forward(
        self, batch: ContrastiveBatch, negatives: Sequence[Negatives], temperature: float
    ) -> Tensor:
        """Return the loss per anchor, ``[N]``, weighted by its number of positives."""
        losses = super().forward(batch, negatives, temperature)
        if not batch.padded:
            return losses
        pairs = (batch.positives >= 0).sum(1).to(losses.dtype)
        return losses * (pairs * (pairs > 0).sum() / pairs.sum().clamp(min=1))


def ntxent(
    call: LossCall,
    embeddings: Tensor,
    labels: Tensor | None = None,
    indices_tuple: Any = None,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
) -> Tensor:
    """Return the treated ``NTXentLoss`` of rows ``[N, d]`` with labels ``[N]``."""
    given = embeddings, labels, indices_tuple, ref_emb, ref_labels
    batch = _batch(call, *given)
    return call.contrast(batch, objective=PerPair(), temperature=call.loss.temperature)


def supcon(
    call: LossCall,
    embeddings: Tensor,
    labels: Tensor | None = None,
    indices_tuple: Any = None,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
) -> Tensor:
    """Return the treated ``SupConLoss`` of rows ``[N, d]`` with labels ``[N]``."""
    given = embeddings, labels, indices_tuple, ref_emb, ref_labels
    batch, form = _batch(call, *given), InfoNCE("mean")
    loss = call.contrast(batch, objective=form, temperature=call.loss.temperature)
    # The host learns nothing from a batch of one class.
    ids = torch.cat([batch.anchors.ids, batch.keys.ids])
    return loss * (ids.min() != ids.max())


def _batch(
    call: LossCall,
    embeddings: Tensor,
    labels: Tensor | None,
    indices_tuple: Any,
    ref_emb: Tensor | None,
    ref_labels: Tensor | None,
) -> ContrastiveBatch:
    check_embeddings("embeddings", embeddings)
    wrapper = _wrapper(call.around)
    if labels is None or (ref_emb is not None and ref_labels is None):
        raise ValueError(f"{type(call.loss).__name__} needs the labels of its rows; pass them")
    if indices_tuple is not None and wrapper != "CrossBatchMemory":
        raise ValueError(
            f"{type(call.loss).__name__} is given indices_tuple, pairs that the recipe has chosen, "
            f"so there are no negatives to choose; leave it out, and the miner"
        )
    if wrapper == "SelfSupervisedLoss":
        views = tuple(embeddings.chunk(2)) if ref_emb is None else (embeddings, ref_emb)
        form = ContrastiveBatch.from_views if ref_emb is None else _pairs
        return form(views, **call.known_of(views[0]))
    ids = as_labels("labels", labels, len(embeddings)).to(embeddings.device)
    late.check(
        "labels of classes",
        (ids < 0).any(),
        lambda: ValueError(f"labels must be classes from 0 on, got {int(ids.min())}"),
    )
    known = call.known_of(embeddings)
    known = known | {"labels": ids if known["labels"] is None else known["labels"]}
    rows = unit_rows(embeddings)
    if ref_emb is None:
        return ContrastiveBatch.from_ids(rows, ids, **known, lasting=True)
    keys, key_ids = unit_rows(ref_emb), as_labels("ref_labels", ref_labels, len(ref_emb))
    own = None
    if wrapper == "CrossBatchMemory":
        own = _own_columns(call.around[-1], indices_tuple, ids, key_ids.to(ids.device))
    return ContrastiveBatch.from_ids(
        rows, ids, keys, key_ids.to(ids.device), own, **known, lasting=True
    )


def _pairs(views: tuple[Tensor, ...], **known: Any) -> ContrastiveBatch:
    return ContrastiveBatch.from_pairs(views[0], views[1], **known)


def _own_columns(memory: Any, pairs: Any, labels: Tensor, past: Tensor) -> Tensor | None:
    """Return where in the memory the rows themselves are; None if they are not put there.

    Args:
        memory: The ``CrossBatchMemory``.
        pairs: What it has chosen for the loss: all pairs, but those of a row with itself.
        labels: ``[N]``, of the rows.
        past: ``[K]``, of the memory.
    """
    same = int((labels[:, None] == past).sum())
    positives, negatives = len(pairs[0]), len(pairs[-1])
    if len(pairs) == 4 and negatives == len(labels) * len(past) - same:
        if positives == same:
            return None  # with an enqueue_mask
        if positives == same - len(labels):
            own: Tensor = memory.curr_batch_idx
            return own
    raise ValueError(
        "CrossBatchMemory is given indices_tuple, pairs that the recipe has chosen beside its "
        "memory's; leave it out"
    )


def _wrapper(around: tuple[nn.Module, ...]) -> str:
    return type(around[-1]).__name__ if around else ""


def _refusal(loss: Any, around: tuple[nn.Module, ...]) -> str | None:
    """Say why a loss cannot be treated as it is configured."""
    distance, reducer = loss.distance, type(loss.reducer).__name__
    normal = distance.normalize_embeddings and distance.p == 2 and distance.power == 1
    if type(distance).__name__ not in ("CosineSimilarity", "DotProductSimilarity") or not normal:
        name, p, power = type(distance).__name__, distance.p, distance.power
        return (
            f"its distance is {name}, with p={p}, power={power}, "
            f"normalize_embeddings={distance.normalize_embeddings}; take CosineSimilarity()"
        )
    if reducer != (wanted := type(loss.get_default_reducer()).__name__):
        return f"its reducer is {reducer}, or it has an embedding_regularizer; leave it {wanted}"
    if getattr(around[-1] if around else None, "miner", None) is not None:
        return "a miner chooses its pairs; leave that out"
    if world_size() > 1 and "DistributedLossWrapper" in {type(m).__name__ for m in around}:
        return (
            "DistributedLossWrapper gathers the rows of all ranks, without the gradient of theirs; "
            "leave it out, and take gather() for the negatives of all ranks"
        )
    return None


_ATTRIBUTES = ("temperature", "distance", "reducer")
_CHOSEN = "contrastive, but of pairs or triplets with margins, which are no softmax loss"
_LOSSES = LossModules(
    "pytorch-metric-learning",
    "pytorch_metric_learning.losses",
    {
        "NTXentLoss": KnownLoss(
            ntxent,
            "every sampler, with CosineSimilarity, in CrossBatchMemory and SelfSupervisedLoss too; "
            "queue() needs a size; no miner",
            _ATTRIBUTES,
            parts=("compute_loss", "_compute_loss", "pair_based_loss"),
            refusal=_refusal,
        ),
        "SupConLoss": KnownLoss(
            supcon,
            "as NTXentLoss",
            _ATTRIBUTES,
            parts=("compute_loss", "_compute_loss", "mat_based_loss"),
            refusal=_refusal,
        ),
    },
    refused=dict.fromkeys(
        "AngularLoss CircleLoss ContrastiveLoss DynamicSoftMarginLoss FastAPLoss "
        "GeneralizedLiftedStructureLoss HistogramLoss IntraPairVarianceLoss LiftedStructureLoss "
        "MarginLoss MultiSimilarityLoss NCALoss NPairsLoss PNPLoss RankedListLoss "
        "SignalToNoiseRatioContrastiveLoss SmoothAPLoss ThresholdConsistentMarginLoss "
        "TripletMarginLoss TupletMarginLoss".split(),
        _CHOSEN,
    ),
    harmless=(
        "ArcFaceLoss BaseLossWrapper BaseMetricLossFunction CosFaceLoss CrossBatchMemory "
        "EmbeddingRegularizerMixin GenericPairLoss InstanceLoss LargeMarginSoftmaxLoss "
        "ManifoldLoss MultipleLosses NormalizedSoftmaxLoss P2SGradLoss ProxyAnchorLoss "
        "ProxyNCALoss SelfSupervisedLoss SoftTripleLoss SphereFaceLoss SubCenterArcFaceLoss "
        "VICRegLoss WeightRegularizerMixin".split()
    ),
    wrappers=("CrossBatchMemory", "DistributedLossWrapper", "SelfSupervisedLoss"),
    past_keys=("CrossBatchMemory",),
)


@hookimpl
def negplug_adapters() -> Iterable[AdapterSpec]:
    """Offer the adapter of pytorch-metric-learning."""
    yield _LOSSES.adapter("NTXentLoss and SupConLoss of pytorch_metric_learning.losses")
