"""``isir()`` without its state is the softmax over the batch."""

import pytest
import torch

from negplug import ContrastiveLoss


@pytest.mark.parametrize("temperature", [0.02, 0.01, 0.005, 1e-3])
def test_isir_without_its_state_is_the_softmax_over_the_batch_at_any_temperature(temperature):
    """A state outside that outweighs the batch by more than a float holds leaves it its shares."""
    loss_fn = ContrastiveLoss("isir(out_of_batch='drop')", temperature=temperature)
    generator = torch.Generator().manual_seed(0)
    table = torch.nn.functional.normalize(torch.randn(12, 40, generator=generator), dim=1)
    table[6:9] = table[:3] + 0.05  # near the anchors of the other batches
    wanted = ContrastiveLoss("in_batch()", "decoupled()", temperature=temperature)
    for batch in ([0, 1, 2, 6, 7, 8], [0, 1, 2, 3, 4, 5], [0, 1, 2, 9, 10, 11]):
        indexes = torch.tensor(batch)
        gradients = []
        for each in (loss_fn, wanted):
            z = [table[indexes].clone().requires_grad_() for _ in range(2)]
            each(*z, indexes=indexes).backward()
            gradients.append(torch.stack([view.grad for view in z]))
        scale = gradients[1].abs().max()
        assert torch.allclose(gradients[0], gradients[1], atol=float(1e-4 * scale))
