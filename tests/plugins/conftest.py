"""The example distributions, really installed, and what processes of their own see of them.

`examples` holds `negplug-nearest`, a sampler to copy; `tests/plugins_examples` two more:
`negplug-toyhost`, an adapter, an objective and a composer, and `negplug-broken`, one module for
each fault.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from distributions import CHECKOUT, install, python
from example_plugins import succeeded

FOLDERS = {
    "nearest": "examples",
    "toyhost": "tests/plugins_examples",
    "broken": "tests/plugins_examples",
}


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the site folders of the three distributions."""
    return {
        name: install(CHECKOUT / folder / f"negplug_{name}", tmp_path_factory.mktemp(name))
        for name, folder in FOLDERS.items()
    }


@pytest.fixture(scope="session")
def sites(installed: dict[str, Path]) -> tuple[Path, ...]:
    return tuple(installed.values())


@pytest.fixture(scope="session")
def listing(sites, tmp_path_factory) -> subprocess.CompletedProcess[str]:
    """Run `negplug plugins --json` with all three installed."""
    here = tmp_path_factory.mktemp("listing")
    return succeeded(python("-m", "negplug", "plugins", "--json", sites=sites, cwd=here))


@pytest.fixture(scope="session")
def plugins_json(listing) -> dict[str, Any]:
    return json.loads(listing.stdout)


@pytest.fixture(scope="session")
def samplers_json(sites, tmp_path_factory) -> list[dict[str, str]]:
    """Return what `negplug samplers --json` prints with all three installed."""
    here = tmp_path_factory.mktemp("listing")
    done = succeeded(python("-m", "negplug", "samplers", "--json", sites=sites, cwd=here))
    return json.loads(done.stdout)


PROBE = """
import json, traceback, warnings
import torch
import negplug
from negplug_toyhost.host import PairLoss

def error_of(action):
    try:
        action()
    except Exception as error:
        return {
            "types": [kind.__name__ for kind in type(error).__mro__],
            "message": str(error),
            "cause": type(error.__cause__).__name__,
            "traceback": "".join(traceback.format_exception(error)),
        }

def train(sampler):
    z = torch.randn(2, 4, 8, requires_grad=True)
    loss_fn = negplug.ContrastiveLoss(sampler)
    loss_fn(*z).backward()
    loss_fn.end_step()
    loss_fn.state_dict()

facts = {}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        negplug.make_sampler("in_batch()")
        negplug.make_sampler("nearest(num_negatives=2)")
facts["warnings"] = [(warning.category.__name__, str(warning.message)) for warning in caught]

facts["make"] = {
    text: error_of(lambda: negplug.make_sampler(text))
    for text in (
        "nearst(num_negatives=2)", "xyz()", "uniform(num_negatives=2)", "half()", "unbuildable()",
        "nothing()", "crashing()", "nearest(num_negatives=2, similarity=3)",
    )
}
facts["train"] = {
    text: error_of(lambda: train(text))
    for text in ("stumbling()", "stumbling(late=True)", "empty()")
}

torch.manual_seed(0)
rows = torch.nn.functional.normalize(torch.randn(9, 3, dtype=torch.float64), dim=1)
ids = torch.tensor([5, 5, 2, -1, -1, 7, 2, 5, 7])
batch = negplug.ContrastiveBatch.from_ids(rows[:6], ids[:6], rows, ids)
sampler = negplug.make_sampler("nearest(num_negatives=8, similarity=-0.25)")
(chosen,) = sampler(batch)
facts["nearest"] = {
    "rows": rows.tolist(), "ids": ids.tolist(), "similarity": -0.25,
    "columns": chosen.choice.columns.tolist(), "mask": chosen.mask.tolist(),
    "expression": sampler.expression, "provider": str(sampler.provider),
}

host = PairLoss()
model = torch.nn.ModuleDict({"criterion": host})
queries, keys = torch.randn(2, 6, 4, dtype=torch.float64)
losses = {"before": host(queries, keys)}
for text in ("infonce()", "focal(gamma=0)", "focal(gamma=2.0)"):
    with negplug.inject(model, "in_batch()", text):
        losses[text] = host(queries, keys)
with negplug.inject(model, "nearest(num_negatives=2, similarity=1.0)"):
    losses["hardest two"] = host(queries, keys)
losses["after"] = host(queries, keys)
facts["toyhost"] = {name: float(loss) for name, loss in losses.items()}
facts["restored"] = "forward" not in vars(host)
normal = torch.nn.functional.normalize
facts["logits"] = (normal(queries, dim=1) @ normal(keys, dim=1).T / host.temperature).tolist()
samples, random = torch.tensor([3, 0, 7, 1, 6, 2, 5, 4]), negplug.Draws().random(0, rows.device)
apart = negplug.make_composer("apart()")
order = apart.order(negplug.Epoch(samples, (4, 4), random, None))
facts["composed"] = samples[order].tolist()
print(json.dumps(facts))
"""


@pytest.fixture(scope="session")
def facts(sites, tmp_path_factory) -> dict[str, Any]:
    """Return what one process with all three installed observes."""
    here = tmp_path_factory.mktemp("probe")
    return json.loads(succeeded(python("-c", PROBE, sites=sites, cwd=here)).stdout)
