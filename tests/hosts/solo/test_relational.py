"""ReSSL's objective: relations to chosen and weighted negatives."""

from __future__ import annotations

import hosts
import naive
import pytest
import torch
from solo_steps import batch_for, model_of, step
from torch.nn.functional import normalize

from negplug import inject
from negplug.contract.batch import ContrastiveBatch
from negplug.contract.negatives import Columns, Negatives
from negplug.contract.rows import Rows

GENERATION = hosts.solo_generation()
if GENERATION is None:
    pytest.skip("solo-learn is not installed in this environment", allow_module_level=True)

from negplug_solo.relational import Relational  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


def relational_loop(q, k, negatives, tau_q, tau_k):
    found = []
    for i, columns in enumerate(negatives.choice.columns):
        kept = negatives.mask[i]
        rows, weight = negatives.rows.embeddings[columns[kept]], negatives.log_weight[i][kept].exp()
        teacher = weight * torch.exp(rows @ k[i] / tau_k)
        student = torch.exp(rows @ q[i] / tau_q)
        target = (teacher / teacher.sum()).detach()
        found.append(-(target * torch.log(student / (weight * student).sum())).sum())
    return torch.stack(found)


@pytest.mark.parametrize("tau_k", [0.5, 0.04, 0.002])
def test_relations_to_chosen_weighted_negatives(tau_k):
    q, k = naive.embeddings(2, 6)
    pool = normalize(naive.embeddings(1, 9, seed=3)[0].detach())
    generator = torch.Generator().manual_seed(0)
    negatives = Negatives(
        Rows.unknown(pool),
        Columns(
            torch.randint(9, (6, 4), generator=generator),
            torch.tensor([[True, True, i % 2 == 0, True] for i in range(6)]),
        ),
        log_weight=torch.randn(6, 4, dtype=torch.float64, generator=generator),
    )
    batch = ContrastiveBatch.from_pairs(q, k.detach())
    ours = Relational(tau_k)(batch, (negatives,), 0.2)
    theirs = relational_loop(normalize(q), normalize(k), negatives, 0.2, tau_k)
    torch.testing.assert_close(ours, theirs)
    ours, theirs = (naive.gradients(loss.sum(), [q]) for loss in (ours, theirs))
    assert naive.relative(ours, theirs) < 1e-9


@pytest.mark.parametrize("left", [0, 1])
def test_an_anchor_with_fewer_than_two_negatives_learns_nothing(left):
    q, k = naive.embeddings(2, 4)
    offered = Negatives(
        Rows.unknown(normalize(k.detach())),
        Columns(torch.tensor([[0, 1]] * 4), torch.tensor([[left == 1, False]] * 4)),
    )
    loss = Relational(0.04)(ContrastiveBatch.from_pairs(q, k.detach()), (offered,), 0.1)
    torch.testing.assert_close(loss, torch.zeros_like(loss))
    torch.testing.assert_close(naive.gradients(loss.sum(), [q]), torch.zeros(64).double())


@pytest.mark.parametrize("shared", [False, True])
def test_a_single_negative_is_refused(shared):
    model = model_of("ReSSL")
    with (
        inject(model, f"uniform(num_negatives=1, shared={shared})"),
        pytest.raises(ValueError, match="nothing would be learned; give it two negatives or more"),
    ):
        step(model, batch_for(0))


def test_draws_from_the_anchors_softmax_are_refused():
    q, k = naive.embeddings(2, 4)
    offered = Negatives(Rows.unknown(k), estimator="posterior")
    with pytest.raises(ValueError, match=r"ReSSL compares two softmax distributions .*'posterior'"):
        Relational(0.04)(ContrastiveBatch.from_pairs(q, k), (offered,), 0.1)
