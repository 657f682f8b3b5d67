"""Objectives by loops over anchors and their negatives."""

from __future__ import annotations

import math
from functools import partial

import naive
import torch

SAMPLERS = [
    "in_batch()",
    "uniform(num_negatives=8)",
    "uniform(num_negatives=8, correction=True)",
    "uniform(num_negatives=8, shared=True, correction=True)",
]


def decoupled_loop(unit, positives, negatives, temperature, sigma=None):
    """Yeh et al., equation 6, for each anchor; the weights as 2 − e^{s/σ} / mean e^{s/σ}."""
    pairs = [(i, p) for i, own in enumerate(positives) for p in own]
    fixed = unit.detach()
    affinity = {(i, p): torch.exp(fixed[i] @ fixed[p] / (sigma or 1.0)) for i, p in pairs}
    average = sum(affinity.values()) / max(len(pairs), 1)
    losses = []
    for i, (own, others) in enumerate(zip(positives, negatives, strict=True)):
        if not own or not others:
            losses.append(0.0 * unit[i].sum())
            continue
        push = sum(w * torch.exp(unit[i] @ k / temperature) for k, w in others)
        weights = [2 - affinity[i, p] / average if sigma else 1.0 for p in own]
        pull = sum(w * (unit[i] @ unit[p]) for w, p in zip(weights, own, strict=True))
        losses.append(torch.log(push) - pull / len(own) / temperature)
    return torch.stack(losses)


def debiased_loop(unit, positives, negatives, temperature, tau_plus=0.1, beta=0.0, held=None):
    """Chuang et al., equations 7 and 8, with the weights of HCL; `held` collects who is held."""
    losses = []
    for i, (own, others) in enumerate(zip(positives, negatives, strict=True)):
        if not own or not others:
            losses.append(0.0 * unit[i].sum())
            continue
        number = sum(w for _, w in others)
        logits = [unit[i] @ k / temperature for k, _ in others]
        hardness = [w * torch.exp(beta * s) for s, (_, w) in zip(logits, others, strict=True)]
        mean_hardness = sum(hardness) / number
        total = sum(h * torch.exp(s) for h, s in zip(hardness, logits, strict=True)) / mean_hardness
        pulls = [torch.exp(unit[i] @ unit[p] / temperature) for p in own]
        estimate = (total - tau_plus * number * sum(pulls) / len(pulls)) / (1 - tau_plus)
        least = number * torch.exp(torch.as_tensor(-1 / temperature, dtype=unit.dtype))
        if held is not None:
            held.append("below 0" if estimate < 0 else "held" if estimate < least else "free")
        denominator = torch.maximum(estimate, least)
        losses.append(-sum(torch.log(p / (p + denominator)) for p in pulls) / len(pulls))
    return torch.stack(losses)


def relic_loop(unit, positives, negatives, temperature, alpha=1.0):
    """Mitrovic et al., equation 3; the second distribution is a constant."""
    losses = []
    for i, (own, others) in enumerate(zip(positives, negatives, strict=True)):
        if not own or not others:
            losses.append(0.0 * unit[i].sum())
            continue
        each = []
        for p in own:
            candidates = [(unit[p], 1.0), *others]
            s = torch.stack([unit[i] @ k / temperature + math.log(w) for k, w in candidates])
            t = torch.stack([unit[p] @ k / temperature + math.log(w) for k, w in candidates])
            first, second = s.log_softmax(0), t.detach().log_softmax(0)
            each.append(-first[0] + alpha * (first.exp() * (first - second)).sum())
        losses.append(sum(each) / len(each))
    return torch.stack(losses)


def sigmoid_loop(unit, positives, negatives, temperature, bias=-10.0):
    """Zhai et al., section 3.2: every pair classified on its own."""
    losses = []
    for i, (own, others) in enumerate(zip(positives, negatives, strict=True)):
        loss = 0.0 * unit[i].sum()
        if own and others:
            for p in own:
                loss = loss - torch.log(torch.sigmoid(unit[i] @ unit[p] / temperature + bias))
            for k, w in others:
                loss = loss - w * torch.log(torch.sigmoid(-unit[i] @ k / temperature - bias))
        losses.append(loss)
    return torch.stack(losses)


def ifm_loop(unit, positives, negatives, temperature, epsilon=0.1, alpha=1.0):
    """Robinson et al., section 4: similarities are moved, positives summed inside the log."""
    losses = []
    for i, (own, others) in enumerate(zip(positives, negatives, strict=True)):
        loss = 0.0 * unit[i].sum()
        if own and others:
            for share, moved in ((1.0, 0.0), (alpha, epsilon)):
                pull = sum(torch.exp((unit[i] @ unit[p] - moved) / temperature) for p in own)
                push = sum(w * torch.exp((unit[i] @ k + moved) / temperature) for k, w in others)
                loss = loss - share / 2 * torch.log(pull / (pull + push))
        losses.append(loss)
    return torch.stack(losses)


def rince_loop(unit, positives, negatives, temperature, q=0.5, lam=0.025):
    """Chuang et al., equation 4."""
    losses = []
    for i, (own, others) in enumerate(zip(positives, negatives, strict=True)):
        loss = 0.0 * unit[i].sum()
        if own and others:
            push = sum(w * torch.exp(unit[i] @ k / temperature) for k, w in others)
            for p in own:
                pull = torch.exp(unit[i] @ unit[p] / temperature)
                loss = loss + (-(pull**q) + (lam * (pull + push)) ** q) / q / len(own)
        losses.append(loss)
    return torch.stack(losses)


LOOPS = {
    "relic()": relic_loop,
    "relic(alpha=0)": partial(relic_loop, alpha=0.0),
    "relic(alpha=3.5)": partial(relic_loop, alpha=3.5),
    "decoupled()": decoupled_loop,
    "decoupled(sigma=0.5)": partial(decoupled_loop, sigma=0.5),
    "debiased()": debiased_loop,
    "debiased(tau_plus=0)": partial(debiased_loop, tau_plus=0.0),
    "debiased(tau_plus=0, beta=1)": partial(debiased_loop, tau_plus=0.0, beta=1.0),
    "debiased(tau_plus=0.05, beta=1)": partial(debiased_loop, tau_plus=0.05, beta=1.0),
    "sigmoid()": sigmoid_loop,
    "sigmoid(bias=1.5)": partial(sigmoid_loop, bias=1.5),
    "ifm()": ifm_loop,
    "ifm(epsilon=0.3, alpha=0.5)": partial(ifm_loop, epsilon=0.3, alpha=0.5),
    "rince()": rince_loop,
    "rince(q=1, lam=1)": partial(rince_loop, q=1.0, lam=1.0),
    "rince(q=0.1, lam=0.5)": partial(rince_loop, q=0.1, lam=0.5),
    "debiased(tau_plus=0.9, beta=0.5)": partial(debiased_loop, tau_plus=0.9, beta=0.5),
}


def unit_rows(z):
    rows = torch.cat(z)
    return rows / rows.norm(dim=1, keepdim=True)


def assert_equal(ours, reference, inputs):
    """Values and the gradients of an uneven sum, in float64."""
    torch.testing.assert_close(ours, reference, rtol=1e-11, atol=1e-12)
    uneven = torch.linspace(0.5, 1.5, len(ours), dtype=ours.dtype, device=ours.device)
    got = naive.gradients((uneven * ours).sum(), inputs)
    assert naive.relative(got, naive.gradients((uneven * reference).sum(), inputs)) < 1e-11
