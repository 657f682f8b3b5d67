"""What the ``solo`` on the path computes, written to a file: run once on each of two.

Usage: python solo_probe.py OUT [WEIGHTS]

Losses and gradients of every loss function, alone and on two ranks, and of three training steps of
every method in float64. The methods start from the weights of an earlier run if given, since two
packages do not draw theirs in the same order.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from typing import Any

import hosts
import ranks
import torch
from torch.nn.functional import normalize

SIZE, WIDTH, QUEUE = 6, 16, 24

METHODS = {
    "SimCLR": {"small_crops": 2},
    "SupCon": {"small_crops": 2},
    "MoCoV2Plus": {"queue_size": QUEUE},
    "MoCoV3": {},
    "NNCLR": {"queue_size": QUEUE},
    "All4One": {"queue_size": QUEUE},
    "ReSSL": {"queue_size": QUEUE},
}
"""Method: its settings."""


def rows(seed: int, count: int = SIZE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, WIDTH, dtype=torch.float64, generator=generator)


def arguments(rank: int) -> dict[str, list[Any]]:
    """Return positional arguments for every loss function, by its module."""
    one, two = rows(10 * rank), rows(10 * rank + 1)
    past = normalize(rows(5, QUEUE))
    ids = torch.arange(SIZE).repeat(2) % 4
    units = [normalize(one), normalize(two)]
    return {
        "simclr": [torch.cat([one, two]), ids, 0.2],
        "mocov2plus": [*units, past.T, 0.3],
        "mocov3": [one, two, 0.3],
        "nnclr": [one, two, 0.3],
        "ressl": [*units, past, 0.2, 0.05],
    }


def of_functions(rank: int = 0, world: int = 1) -> dict[str, Any]:
    """Return every function's value, gradients and signature."""
    found = {}
    for name, given in arguments(rank).items():
        function = getattr(importlib.import_module(f"solo.losses.{name}"), f"{name}_loss_func")
        inputs = [a for a in given if torch.is_tensor(a) and a.is_floating_point()]
        inputs = [a.requires_grad_() for a in inputs]
        value = function(*given)
        gradients = torch.autograd.grad(value, inputs, allow_unused=True)
        parameters = inspect.signature(function).parameters.values()
        signature = [(p.name, None if p.default is p.empty else p.default) for p in parameters]
        found[name] = {"value": value.detach(), "gradients": gradients, "signature": signature}
    return found


def of_method(name: str, weights: dict[str, Any] | None) -> dict[str, Any]:
    """Return the initial weights, and what three steps gave."""
    torch.manual_seed(0)
    model = hosts.solo_method(name, **METHODS[name]).double()
    if weights is not None:
        model.load_state_dict(weights, strict=False)
    initial = {key: value.clone() for key, value in model.state_dict().items() if value is not None}
    logged: set[str] = set()
    model.log = lambda name, *args, **kwargs: logged.add(name)
    model.log_dict = lambda values, *args, **kwargs: logged.update(values)
    losses, gradients = [], []
    for number in range(3):
        generator = torch.Generator().manual_seed(number)
        shape = (SIZE, 3, hosts.IMAGE, hosts.IMAGE)
        crops = [
            torch.randn(*shape, dtype=torch.float64, generator=generator)
            for _ in range(model.num_crops)
        ]
        torch.manual_seed(number)  # All4One has dropout
        batch = [torch.arange(SIZE) + 10 * number, crops, torch.arange(SIZE) % 4]
        loss = model.training_step(batch, 0)
        trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        losses.append(loss.detach())
        gradients.append(dict(zip(trained, found, strict=True)))
    groups = {
        group.get("name", ""): (sum(p.numel() for p in group["params"]), group.get("lr"))
        for group in map(dict, model.learnable_params)
        if group.get("name")
    }
    queue = {key: value for key, value in model.named_buffers() if key.startswith("queue")}
    steps = {"losses": losses, "gradients": gradients, "queue": queue}
    return {"weights": initial, "steps": steps, "logged": sorted(logged), "groups": groups}


def main(out: str, start: str | None = None) -> None:
    torch.set_num_threads(1)
    weights = None if start is None else torch.load(start, weights_only=False)["methods"]
    found = {
        "file": importlib.import_module("solo").__file__,
        "functions": of_functions(),
        "on ranks": ranks.run(of_functions, 2),
        "methods": {
            name: of_method(name, None if weights is None else weights[name]["weights"])
            for name in METHODS
        },
    }
    torch.save(found, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
