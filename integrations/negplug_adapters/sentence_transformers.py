"""sentence-transformers: ``MultipleNegativesRankingLoss``, its symmetric form included.

Its method that takes the embeddings is covered, so that the loss embeds its texts as before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from negplug.contract.hookspecs import AdapterSpec, hookimpl
from negplug.contract.pairs import batch_of_pairs
from negplug.hosts.loss_modules import KnownLoss, LossModules
from negplug.hosts.treated_method import LossCall
from negplug.objectives.infonce import InfoNCE

_DIRECTIONS = "query_to_doc", "doc_to_query"


def ranking(call: LossCall, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
    """Return the treated loss.

    Args:
        call: The call.
        embeddings: Of the columns ``[B, d]``: queries, documents, and given negatives, if any.
        labels: The data set's, which the host does not use.
    """
    if len(embeddings) < 2:
        raise ValueError(f"Expected at least 2 embeddings, got {len(embeddings)}")
    given, losses = torch.cat(embeddings[2:]) if embeddings[2:] else None, []
    for place, direction in enumerate(_DIRECTIONS):
        if direction in call.loss.directions:
            towers = embeddings[place], embeddings[1 - place], None if place else given
            batch = batch_of_pairs(*towers, direction=place, **call.known_of(embeddings[0]))
            batch = batch.gathered() if call.loss.gather_across_devices else batch
            temperature = 1 / call.loss.scale
            losses.append(call.contrast(batch, objective=InfoNCE(), temperature=temperature))
    return torch.stack(losses).mean()


def _refusal(loss: Any, around: tuple[nn.Module, ...]) -> str | None:
    """Say why a loss cannot be treated as it is configured."""
    if loss.similarity_fct is not sys.modules["sentence_transformers.util"].cos_sim:
        name = getattr(loss.similarity_fct, "__name__", loss.similarity_fct)
        return f"its similarity_fct is {name}, and only sentence_transformers.util.cos_sim is known"
    one, both = set(loss.directions) == {_DIRECTIONS[0]}, set(loss.directions) == set(_DIRECTIONS)
    if not (one or (both and loss.partition_mode == "per_direction")):
        return (
            f"directions={loss.directions!r} with partition_mode={loss.partition_mode!r} is no "
            f'mean of losses; take ("query_to_doc",), or both directions "per_direction"'
        )
    if loss.hardness_mode is not None and loss.hardness_strength:
        return f"hardness_mode={loss.hardness_mode!r} weighs its negatives; take hard(…) instead"
    return None


_RANKING = KnownLoss(
    ranking,
    "every sampler but those that need indexes; with cos_sim, of one direction or per_direction",
    ("scale", "similarity_fct", "gather_across_devices", "directions", "partition_mode"),
    "compute_loss_from_embeddings",
    ("forward",),
    _refusal,
)
_CACHED = "contrastive, with a gradient cache of its own; take MultipleNegativesRankingLoss and "
_CACHED += "negplug.accumulated"
_CHOSEN = "contrastive, of a form that is no softmax loss over the keys of a batch"
_LOSSES = LossModules(
    "sentence-transformers",
    "sentence_transformers.sentence_transformer.losses",
    {
        name: _RANKING
        for name in ("MultipleNegativesSymmetricRankingLoss", "MultipleNegativesRankingLoss")
    },
    refused={
        "CachedMultipleNegativesRankingLoss": _CACHED,
        "CachedMultipleNegativesSymmetricRankingLoss": _CACHED,
        **dict.fromkeys(
            "BatchAllTripletLoss BatchHardSoftMarginTripletLoss BatchHardTripletLoss "
            "BatchSemiHardTripletLoss CachedGISTEmbedLoss ContrastiveLoss ContrastiveTensionLoss "
            "ContrastiveTensionLossInBatchNegatives GISTEmbedLoss MegaBatchMarginLoss "
            "OnlineContrastiveLoss TripletLoss".split(),
            _CHOSEN,
        ),
    },
    harmless=(
        "AdaptiveLayerLoss AnglELoss CoSENTLoss CosineSimilarityLoss DenoisingAutoEncoderLoss "
        "DistillKLDivLoss EmbedDistillLoss GlobalOrthogonalRegularizationLoss MSELoss "
        "MarginMSELoss Matryoshka2dLoss MatryoshkaLoss SoftmaxLoss".split()
    ),
    wrappers=("AdaptiveLayerLoss", "Matryoshka2dLoss", "MatryoshkaLoss"),
)


@hookimpl
def negplug_adapters() -> Iterable[AdapterSpec]:
    """Offer the adapter of sentence-transformers."""
    yield _LOSSES.adapter("MultipleNegativesRankingLoss of sentence_transformers")
