"""The loss of each anchor in closed form: value and gradient against the reference."""

from __future__ import annotations

import pytest
import torch
from anchor_losses import FORMS, compared, question
from device import DEVICE
from kernel_tables import needs_numba
from torch.utils.checkpoint import checkpoint

from negplug.kernels.anchor_loss import ANCHOR_LOSS, Sizes, anchor_losses
from negplug.kernels.anchor_loss.closed import closed_losses


@pytest.mark.parametrize(("form", "apart"), FORMS)
@pytest.mark.parametrize("temperature", [1e-3, 0.02, 0.5, 10.0])
@pytest.mark.parametrize("positives", [1, 4])
@pytest.mark.parametrize("keys", ["own", "own keys", "frozen"])
def test_forms_and_temperatures(form, apart, temperature, positives, keys):
    compared(closed_losses, question(40, 24, positives, keys), temperature, form, apart)


@pytest.mark.parametrize(("form", "apart"), FORMS)
@pytest.mark.parametrize("positives", [1, 3])
def test_gradients_of_float64_are_those_of_finite_differences(form, apart, positives):
    (anchors, _), columns, negative = question(7, 5, positives, "own")
    rows = anchors.detach().double().requires_grad_()
    keys = (rows.detach() + 0.1).requires_grad_()
    finite = negative.masked_fill(negative == -torch.inf, 1.0).double().requires_grad_()

    def losses(*terms):
        return closed_losses(*terms[:2], columns, terms[2], 0.3, form, apart)

    assert torch.autograd.gradcheck(losses, (rows, keys, finite))


@pytest.mark.parametrize("apart", [False, True])
def test_all_forms_agree_for_one_positive(apart):
    (anchors, keys), columns, negative = question(12, 8, 1, "own keys")
    padded = torch.nn.functional.pad(columns, (1, 1), value=-1)
    one = anchor_losses(anchors, keys, columns, negative, 0.1, "sum", apart)
    for form in ("sum", "each", "mean"):
        ours = anchor_losses(anchors, keys, padded, negative, 0.1, form, apart)
        torch.testing.assert_close(ours, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["sum", "each", "mean"])
def test_a_loss_far_below_one_keeps_its_digits(form):
    rows = torch.eye(2, device=DEVICE)
    columns = torch.tensor([[0], [1]], device=DEVICE)
    negative = torch.tensor([-20.0, -80.0], device=DEVICE)
    losses = anchor_losses(rows, rows, columns, negative, 1.0, form)
    torch.testing.assert_close(losses, torch.exp(negative - 1.0), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("form", "apart"), FORMS)
@pytest.mark.parametrize("positives", [1, 3])
def test_tensors_that_are_stored_or_computed_again_give_the_same_gradient(form, apart, positives):
    (anchors, keys), columns, negative = question(20, 16, positives, "own keys")
    terms = (anchors, keys, columns, negative, 0.1, form, apart)
    wanted = torch.autograd.grad(closed_losses(*terms).sum(), [anchors, keys])
    again = checkpoint(closed_losses, *terms, use_reentrant=False)
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone):
        stored = closed_losses(*terms)
    for losses in (again, stored):
        found = torch.autograd.grad(losses.sum(), [anchors, keys])
        assert all(map(torch.equal, found, wanted))


@needs_numba
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("temperature", [1e-3, 0.02, 0.5, 10.0])
@pytest.mark.parametrize("keys", ["own", "own keys", "frozen"])
def test_loops_for_one_positive(apart, temperature, keys):
    from negplug.kernels.anchor_loss.compiled import compiled_losses

    for number, width in ((1, 3), (40, 24)):
        (rows, pool), columns, negative = asked = question(number, width, 1, keys)
        compared(compiled_losses, asked, temperature, "each", apart)
        leaves = [rows] if keys == "own" else [rows, pool][: 1 + pool.requires_grad]
        terms = rows.t().contiguous().t(), pool, columns, negative, temperature, "each", apart
        ours = torch.autograd.grad(compiled_losses(*terms).sum(), leaves)
        theirs = torch.autograd.grad(closed_losses(*terms).sum(), leaves)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other)


@needs_numba
def test_loops_keep_what_is_not_a_number_and_refuse_what_is_no_key():
    from negplug.kernels.anchor_loss.compiled import compiled_losses

    rows = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    keys, columns = rows.clone(), torch.tensor([[2], [1], [-1], [0]])
    keys[2, 0] = torch.nan
    for apart in (False, True):
        found = compiled_losses(rows, keys, columns, torch.zeros(4), 0.1, "each", apart)
        assert found.isnan().tolist() == [True, False, False, False]
        columns[3] = 4
        with pytest.raises(IndexError, match="positives must lie below 4"):
            compiled_losses(rows, keys, columns, torch.zeros(4), 0.1, "each", apart)
        columns[3] = 0


def test_loops_are_chosen_for_few_anchors_of_one_positive_and_the_closed_form_for_others(
    monkeypatch,
):
    monkeypatch.delenv("NEGPLUG_BACKEND", raising=False)
    cpu = torch.device("cpu")
    for many in (Sizes(16, 8, 2), Sizes(2**13, 128, 1)):
        assert ANCHOR_LOSS.kernel(cpu, many) is closed_losses
    assert ANCHOR_LOSS.backend(torch.device("meta"), Sizes(16, 8, 1)) == "torch"
    monkeypatch.setenv("NEGPLUG_BACKEND", "torch")
    assert ANCHOR_LOSS.kernel(cpu, Sizes(16, 8, 1)) is closed_losses


@needs_numba
def test_loops_are_chosen_for_few(monkeypatch):
    monkeypatch.delenv("NEGPLUG_BACKEND", raising=False)
    assert ANCHOR_LOSS.backend(torch.device("cpu"), Sizes(16, 8, 1)) == "numba"
