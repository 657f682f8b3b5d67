"""The first call of a plain loop's loss: recomputed by checkpointing, by its method, resumed."""

from __future__ import annotations

import sys

import naive
import pytest
import torch
from device import DEVICE
from torch import nn
from torch.utils.checkpoint import checkpoint

from negplug.hosts import resumed
from negplug.hosts.untreated import UntreatedLossError

lightly_loss = pytest.importorskip("lightly.loss")
NTXentLoss = lightly_loss.NTXentLoss


def network():
    torch.manual_seed(0)
    return nn.Linear(16, 8).double().to(DEVICE)


def trained(run, losses=1):
    """Losses and gradients of two steps, in which ``run`` calls a criterion each time."""
    net, criterion, found = network(), NTXentLoss(), []
    x = naive.embeddings(1, 8)[0].detach()
    for _ in range(2):
        net.zero_grad()

        def embedded(x, net=net):
            return net(x), net(x + 0.1)

        each = [run(criterion, embedded, (n * x).requires_grad_()) for n in range(1, losses + 1)]
        loss = sum(each)
        loss.backward()
        found += [loss.detach(), net.weight.grad.clone()]
    return found


def plain(criterion, embedded, x):
    return criterion(*embedded(x))


def of_the_loss(criterion, embedded, x, reentrant):
    return checkpoint(criterion, *embedded(x), use_reentrant=reentrant)


def of_all(criterion, embedded, x, reentrant):
    return checkpoint(lambda x: criterion(*embedded(x)), x, use_reentrant=reentrant)


def by_name(criterion, embedded, x, reentrant):
    return checkpoint(lambda a, b: criterion(out1=b, out0=a), *embedded(x), use_reentrant=reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("losses", [1, 2])
@pytest.mark.parametrize("sampler", ["uniform(num_negatives=3)", "queue(size=32)"])
def test_a_first_call_that_is_checkpointed(watch, caplog, reentrant, losses, sampler):
    watch(sampler)
    wanted = trained(plain, losses)
    for run in (of_the_loss, of_all, by_name):
        watch(sampler)
        found = trained(lambda *a, run=run: run(*a, reentrant), losses)
        torch.testing.assert_close(found, wanted)
    assert not [text for text in caplog.messages if "untreated" in text]


def test_a_loss_that_is_called_by_its_method_is_refused(watch):
    # In a process that compiles nothing; another test may have.
    compiler = sys.modules.get("torch._dynamo.utils")
    if compiler is not None:
        compiler.counters.clear()
    watch("in_batch()")
    z, criterion = [v * 1.0 for v in naive.embeddings(2, 8)], NTXentLoss()
    refused = r"NTXentLoss is called by its method forward\(\) at test_first_call\.py:\d+, where"
    with pytest.raises(UntreatedLossError, match=refused):
        criterion.forward(*z)

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = NTXentLoss()

        def forward(self, a, b):
            return self.inner.forward(a, b)

    with pytest.raises(UntreatedLossError, match=refused):
        Around()(*z)
    criterion(*z)
    criterion.forward(*z)  # treated from its first call on, whichever way it is called
    watch("in_batch()", ignore=["NTXentLoss"])
    NTXentLoss().forward(*z)


@pytest.mark.parametrize(
    ("sampler", "begins"),
    [
        ("queue(size=32)", "queue(size=32)"),
        ("schedule(uniform(num_negatives=2), in_batch(), from_steps=(0, 5))", "schedule("),
        ("in_batch()", None),
    ],
)
@pytest.mark.parametrize("loads", ["a run's state", "its own, as Accelerator.prepare()", None])
def test_a_script_that_resumes_is_told_once_what_begins_empty(
    watch, caplog, monkeypatch, sampler, begins, loads
):
    monkeypatch.setattr(resumed, "_loaded", False)
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    resumes = loads == "a run's state"
    if resumes:
        net(naive.embeddings(1, 8)[0].detach()).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    if loads:
        optimizer.load_state_dict(optimizer.state_dict())
    watch(sampler)
    criteria = NTXentLoss(), NTXentLoss(0.2)
    for _ in range(2):
        views = [net(z) for z in naive.embeddings(2, 8)]
        sum(criterion(*views) for criterion in criteria).backward()
        optimizer.step()
    told = [text for text in caplog.messages if "has loaded an optimizer's state" in text]
    assert len(told) == (resumes and begins is not None)
    assert all(f"but {begins}" in text and "handle.load_state_dict()" in text for text in told)


@pytest.mark.parametrize("sampler", ["queue(size=32)", "in_batch()"])
@pytest.mark.parametrize("net", ["the same", "another"])
def test_what_begins_anew_with_a_criterion_of_each_epoch_is_said_once(watch, caplog, sampler, net):
    watch(sampler)
    models = [network()] * 3 if net == "the same" else [network() for _ in range(3)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    for model, optimizer in zip(models, optimizers, strict=True):
        criterion = NTXentLoss()
        for _ in range(2):
            optimizer.zero_grad()
            criterion(*(model(z) for z in naive.embeddings(2, 8))).backward()
            optimizer.step()
    said = [text for text in caplog.messages if "made anew while the same model trains on" in text]
    assert len(said) == (net == "the same" and sampler != "in_batch()")
    assert all("and queue(size=32) begins anew with it; make the cri" in text for text in said)
