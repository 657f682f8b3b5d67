"""``RandomNumbers``: the same whatever computes them, of the right distribution, no generator's."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from kernel_tables import needs_numba
from scipy import stats

import negplug
from negplug import distinct_places, make_sampler
from negplug.kernels.random.numbers import RandomNumbers

CPU = torch.device("cpu")
BOUNDS = torch.tensor([3, 40, 7, 500, 0, 39, 41])
DRAWS = {
    "uniform": lambda it: it.uniform(300, 7),
    "exponential": lambda it: it.exponential((300, 7), torch.float32),
    "normal": lambda it: it.normal((301, 7), torch.float32),
    "integers": lambda it: it.integers(1000, 2100),
    "permutation": lambda it: it.permutation(2100),
    "distinct": lambda it: torch.stack(distinct_places(BOUNDS, 10, it)),
}


@needs_numba
@pytest.mark.parametrize("name", DRAWS)
def test_numba_and_torch_draw_the_same_bits(name, monkeypatch):
    found = []
    for backend in ("numba", "torch"):
        monkeypatch.setenv("NEGPLUG_BACKEND", backend)
        random = RandomNumbers(11, CPU)
        found.append([DRAWS[name](random) for _ in range(2)])
    (first, second), again = found
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ["uniform", "exponential", "normal", "integers", "permutation"])
def test_the_shapes_of_draws_are_known_without_reading_the_device(name):
    meta, real = RandomNumbers(11, torch.device("meta")), RandomNumbers(11, CPU)
    drawn, wanted = DRAWS[name](meta), DRAWS[name](real)
    assert (drawn.shape, drawn.dtype) == (wanted.shape, wanted.dtype)
    assert drawn.device.type == "meta"


def test_draws_have_their_distributions():
    # Kolmogorov–Smirnov and χ² tests at 1e-6.
    random = RandomNumbers(2, CPU)
    normal = random.normal((40_001,), torch.float64).numpy()
    assert stats.kstest(normal, "norm").pvalue > 1e-6
    assert abs(stats.pearsonr(normal[:20_000], normal[20_001:]).statistic) < 5 / 20_000**0.5
    assert stats.kstest(random.uniform(40_000).numpy(), "uniform").pvalue > 1e-6
    integers = random.integers(7, 70_000)
    assert stats.chisquare(integers.bincount(minlength=7).numpy()).pvalue > 1e-6
    orders = [tuple(random.permutation(4).tolist()) for _ in range(12_000)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-6


EXPRESSIONS = [
    "uniform(num_negatives=5)",
    "uniform(num_negatives=25)",
    "uniform(num_negatives=5, shared=True)",
    "stratified(num_negatives=6)",
    "gumbel_max(num_negatives=3)",
    "synthetic(num_hardest=6, num_mixed=4, num_mixed_with_anchor=3, num_noisy=5, sigma=0.1)",
]


@needs_numba
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_sampler_draws_the_same_with_either_backend(expression, monkeypatch):
    views = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(16) % 3
    found = []
    for backend in ("numba", "torch"):
        monkeypatch.setenv("NEGPLUG_BACKEND", backend)
        batch = negplug.ContrastiveBatch.from_views(tuple(views), labels=labels)
        drawn = make_sampler(expression)(batch.within(draws=negplug.Draws(3), temperature=0.2))
        found.append(drawn)
    for one, other in zip(*found, strict=True):
        assert type(one.choice) is type(other.choice)
        for name, value in vars(one.choice).items():
            if name != "coefficients":  # products, rounded by each backend in its own order
                assert value is None or torch.equal(value, vars(other.choice)[name])
        torch.testing.assert_close(one.rows.embeddings, other.rows.embeddings)


FORBIDDEN = {
    *("Generator", "rand", "randn", "randint", "randperm", "rand_like", "randn_like"),
    *("randint_like", "multinomial", "bernoulli", "bernoulli_", "exponential_", "normal_"),
    *("uniform_", "random_", "cauchy_", "geometric_", "log_normal_", "default_rng"),
}


def test_no_sampler_or_loss_draws_from_a_generator():
    root = Path(negplug.__file__).parent
    rooms = ("kernels", "contract", "objectives", "samplers", "loss", "hosts")
    found = [
        f"{path.name}:{node.lineno} {node.attr}"
        for room in rooms
        for path in (root / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in FORBIDDEN
    ]
    assert not found, found
