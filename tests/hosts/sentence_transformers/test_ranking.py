"""sentence-transformers' ranking loss, treated: the same loss, and other negatives."""

from __future__ import annotations

import naive
import pytest
import torch

from negplug import inject

# The host imports slowly, so what needs nothing of it runs elsewhere.
losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
import sentence_transformers  # noqa: E402
import tiny_bert  # noqa: E402
from sentence_transformers.util import dot_score  # noqa: E402

BOTH = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_bert.encoder(tmp_path_factory.mktemp("encoder") / "bert").train()


def loss_of(model, **kwargs):
    return losses.MultipleNegativesRankingLoss(model, **kwargs)


# The loss, its columns and arguments, and how often a step compares.
FORMS = [
    *((loss_of, columns, {}, 1) for columns in (2, 4)),
    (loss_of, 3, {"scale": 7.0}, 1),
    *((loss_of, columns, BOTH, 2) for columns in (2, 4)),
    (losses.MultipleNegativesSymmetricRankingLoss, 3, {}, 2),
    (lambda m: losses.MatryoshkaLoss(m, loss_of(m), [16, 8]), 3, {}, 2),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("form", "columns", "kwargs", "calls"), FORMS)
def test_in_batch_equals_the_host(model, form, columns, kwargs, calls):
    host = form(model, **kwargs)
    texts = [model.preprocess(tiny_bert.sentences(6, 40 * n)) for n in range(columns)]
    weights = [p for p in model.parameters() if p.requires_grad]

    def computed():
        loss = host([dict(column) for column in texts], None)
        grads = torch.autograd.grad(loss, weights, allow_unused=True)
        return loss, torch.cat([g.flatten() for g in grads if g is not None])

    theirs, reference = computed()
    with inject(host, "in_batch()") as handle:
        ours, gradient = computed()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert naive.relative(gradient, reference) < 1e-4
    (treated,) = handle.losses.values()
    assert treated.calls == calls


def test_in_batch_equals_the_host_in_float64(model):
    host, z = loss_of(model, **BOTH), naive.embeddings(4, 9)
    theirs = host.compute_loss_from_embeddings(z, None)
    with inject(host, "in_batch()"):
        ours = host.compute_loss_from_embeddings(z, None)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(theirs, z)) < 1e-9


def test_fewer_negatives(model):
    host, z = loss_of(model), naive.embeddings(2, 32)
    whole = host.compute_loss_from_embeddings(z, None)
    for sampler in ("uniform(num_negatives=2)", "hard(num_negatives=2)"):
        with inject(host, sampler):
            assert host.compute_loss_from_embeddings(z, None) < whole


REFUSED = {
    "similarity_fct is dot_score": lambda m: loss_of(m, similarity_fct=dot_score),
    "partition_mode='joint' is no mean": lambda m: loss_of(m, directions=BOTH["directions"]),
    "hardness_mode='all_negatives' weighs": lambda m: loss_of(
        m, hardness_mode="all_negatives", hardness_strength=1.0
    ),
    "a gradient cache of its own": losses.CachedMultipleNegativesRankingLoss,
    "TripletLoss' cannot be treated: contrastive": losses.TripletLoss,
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_treated_is_refused_by_name(model, why):
    version = sentence_transformers.__version__
    with pytest.raises(ValueError, match=f"sentence-transformers {version} .*{why}"):
        inject(REFUSED[why](model), "in_batch()")


def test_a_loop_of_plain_pytorch_embeds_its_first_batch_twice_and_draws_no_more(model, watch):
    torch.manual_seed(0)
    watching = watch("in_batch()")
    host = loss_of(model)
    texts = [model.preprocess(tiny_bert.sentences(6, 40 * n)) for n in range(2)]
    calls = []
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(2):
        host([dict(column) for column in texts], None).backward()
    hook.remove()
    assert len(calls) == 2 * 2 + 2
    (treated,) = watching.injections["MultipleNegativesRankingLoss"].losses.values()
    assert treated.calls == 2


def test_an_evaluation_is_the_host_s(model):
    host, z = loss_of(model), naive.embeddings(2, 16)
    with inject(host, "uniform(num_negatives=2)") as handle, torch.no_grad():
        model.eval()
        found = host.compute_loss_from_embeddings(z, None)
        model.train()
    torch.testing.assert_close(found, host.compute_loss_from_embeddings(z, None))
    assert next(iter(handle.losses.values())).calls == 0
