"""Chains in one Triton program: the loop's draws."""

from __future__ import annotations

import os

import pytest
import torch
from walks import CASES, SIZES, assert_equal, inputs, naive_walk

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from negplug.kernels.chain import walk


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_program_equals_the_loop_draw_for_draw(case):
    for seed, (chains, steps) in enumerate(SIZES):
        arguments = inputs(chains, steps, seed, **case)
        before = [argument.clone() for argument in arguments]
        assert_equal(walk(*arguments), naive_walk(*arguments))
        assert all(map(torch.equal, arguments, before))


def test_a_noise_without_bound_accepts_only_what_is_a_proposal():
    scores, noise, initial, burn_in = inputs(6, 20, 0)
    noise[:, ::3] = torch.inf
    found = walk(scores, noise, initial, burn_in)
    assert_equal(found, naive_walk(scores, noise, initial, burn_in))
