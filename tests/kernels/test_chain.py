"""Chains: all kernels against the loop over proposals, stationarity, forks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scipy import stats
from systems import IS_LINUX, forks
from walks import CASES, SIZES, assert_equal, inputs, naive_walk

import negplug
from negplug.kernels import chain
from negplug.kernels.chain import scan
from negplug.kernels.chain.reference import loop_walk
from negplug.kernels.chain.scan import scan_walk

pytest.importorskip("numba")
from negplug.kernels.chain import compiled
from negplug.kernels.chain.compiled import compiled_walk

BACKENDS = {"scan": scan_walk, "compiled": compiled_walk, "reference": loop_walk}


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_equal_the_loop_draw_for_draw(backend, case):
    for seed, (chains, steps) in enumerate(SIZES):
        arguments = inputs(chains, steps, seed, **case)
        before = [argument.clone() for argument in arguments]
        walk = BACKENDS[backend](*arguments)
        assert_equal(walk, naive_walk(*arguments))
        assert all(map(torch.equal, arguments, before))
        counted = ((arguments[0] > -torch.inf).sum(1) - arguments[3]).clamp(min=0)
        assert torch.equal(walk.counts.sum(1) + walk.stayed, counted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_noise_without_bound_accepts_only_what_is_a_proposal(backend):
    # −log u of a uniform float32 is infinite once in 2²⁴ draws.
    scores, noise, initial, burn_in = inputs(6, 20, 0)
    noise[:, ::3] = torch.inf
    walk = BACKENDS[backend](scores, noise, initial, burn_in)
    assert_equal(walk, naive_walk(scores, noise, initial, burn_in))


def test_large_inputs_in_parts_and_threads(monkeypatch):
    scores, noise, initial, burn_in = arguments = inputs(301, 150, 1)
    wanted = naive_walk(*arguments)
    monkeypatch.setattr(scan, "_ENTRIES", {"cpu": 4000})
    assert_equal(scan_walk(*arguments), wanted)
    transposed = (scores.T.contiguous().T, noise.T.contiguous().T, initial, burn_in)
    assert_equal(scan_walk(*transposed), wanted)
    assert_equal(compiled_walk(*transposed), wanted)


@pytest.mark.usefixtures("two_threads")
def test_blocks_of_chains_in_threads(monkeypatch):
    monkeypatch.setattr(compiled, "_FEW", 0)
    arguments = inputs(1100, 9, 2)
    assert_equal(compiled_walk(*arguments), naive_walk(*arguments))


def test_draws_follow_the_softmax():
    # Chi-square at 1e-3 on draws 40 independent proposals apart, for each backend: the states
    # after 40 proposals each of 20,000 chains. At these scores the chain is mixed by then.
    scores = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    columns = torch.randint(5, (20_000, 40), generator=generator)
    noise = torch.empty(columns.shape, dtype=torch.float64).exponential_(generator=generator)
    initial = scores.new_full((len(columns),), -torch.inf)
    burn_in = torch.full((len(columns),), 39)
    for backend in BACKENDS.values():
        walk = backend(scores[columns], noise, initial, burn_in)
        assert torch.equal(walk.counts.argmax(1), walk.last)
        assert torch.equal(walk.counts.sum(1), torch.ones_like(walk.last))
        states = columns.gather(1, walk.last[:, None])[:, 0]
        expected = scores.softmax(0) * len(columns)
        assert stats.chisquare(states.bincount().numpy(), expected.numpy()).pvalue > 1e-3


IN_A_FORK = """
import os
import torch
from negplug.kernels.chain import walk
from negplug.kernels.chain.compiled import _FEW

torch.set_num_threads(2)
chains = _FEW // 256
scores = torch.randn(chains, 256, generator=torch.Generator().manual_seed(0))
arguments = (scores, torch.ones_like(scores), torch.zeros(chains), torch.zeros(chains).long())
wanted = walk(*arguments).counts.numpy() if {used} else None
child = os.fork()
if not child:
    # Of torch no more than this: OpenMP's threads are its own too, and a fork hangs in them.
    found = walk(*arguments).counts.numpy()
    os._exit(0 if wanted is None or (found == wanted).all() else 3)
assert os.waitpid(child, 0)[1] == 0
walk(*arguments)
print("walked", end="")
"""


@forks
@pytest.mark.parametrize("used", [True, False])
def test_a_forked_process_walks(used, tmp_path):
    # numba's threads, once started, abort a process that forks off.
    found = python(IN_A_FORK.format(used=used), tmp_path, OMP_NUM_THREADS="2")
    assert found.stdout == "walked", found.stderr


@pytest.mark.skipif(not IS_LINUX, reason="the user's cache is elsewhere")
def test_an_install_that_cannot_be_written_to_compiles_all_the_same(tmp_path):
    package = Path(negplug.__file__).parent
    shutil.copytree(package, tmp_path / "negplug", ignore=shutil.ignore_patterns("__pycache__"))
    # A file in the way of the folder stops root too; so does the user's cache on a device.
    (tmp_path / "negplug/kernels/chain/__pycache__").touch()
    code = (
        "from negplug.kernels.chain import compiled; print(compiled._walk_in_turn.stats.cache_path)"
    )
    found = python(code, tmp_path, XDG_CACHE_HOME="/dev/null")
    assert found.stdout == "None\n", found.stderr


def python(code, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "NEGPLUG_BACKEND": "numba", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("name", ["numba", "torch", "reference"])
def test_walk_is_deterministic_and_leaves_gradients_alone(monkeypatch, name):
    monkeypatch.setenv("NEGPLUG_BACKEND", name)
    scores, noise, initial, burn_in = inputs(8, 30, 3)
    weights = torch.ones(8, 30, requires_grad=True)
    state = torch.get_rng_state()
    walk = chain.walk(scores.clone().requires_grad_(), noise, initial, burn_in)
    assert_equal(walk, naive_walk(scores, noise, initial, burn_in))
    assert torch.equal(torch.get_rng_state(), state)
    # Counts take part in a loss: autograd saves them.
    (weights * walk.counts).sum().backward()
    assert torch.equal(weights.grad, walk.counts.float())


@pytest.mark.parametrize(
    ("argument", "change", "error", "message"),
    [
        (0, lambda scores: scores.half(), TypeError, "scores must be float32 or float64"),
        (0, lambda scores: scores[:, :0], ValueError, r"scores must be \[N, R\]"),
        (1, lambda noise: noise.double(), TypeError, "noise must be torch.float32"),
        (1, lambda noise: noise[:, 1:], ValueError, r"noise must be \[4, 6\], got \[4, 5\]"),
        (2, lambda initial: initial[:1], ValueError, r"initial must be \[4\]"),
        (3, lambda burn_in: burn_in.int(), TypeError, "burn_in must be torch.int64"),
    ],
)
def test_arguments_are_checked(argument, change, error, message):
    arguments = list(inputs(4, 6, 0))
    arguments[argument] = change(arguments[argument])
    with pytest.raises(error, match=message):
        chain.walk(*arguments)
