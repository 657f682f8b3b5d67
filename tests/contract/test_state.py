"""``add_state``: what is declared is saved, restored and moved, or refused in one sentence."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from resumable import same_state
from stated import Memory, Model, filled, held
from torch import nn

from negplug import ContrastiveLoss


def test_what_is_declared_has_its_default_shape_and_type():
    memory = Memory()
    assert memory.rows.shape == (3, 0)
    assert memory.score.shape == memory.names.shape == (0,)
    assert memory.known.shape == (0, 0)
    assert memory.rows.is_floating_point()
    assert memory.score.is_floating_point()
    assert (memory.names.dtype, memory.known.dtype) == (torch.int64, torch.bool)
    assert memory.next == 0
    assert type(memory.next) is int
    full = Memory()
    full.add_state("other", -1, (2, 3))
    assert torch.equal(full.other, torch.full((2, 3), -1))


def test_a_state_is_a_copy_and_comes_back_to_the_last_bit():
    memory, other = filled(), Memory()
    state = held(memory)
    assert state.keys() == {"format", "settings", "values"}
    assert state["format"] == 2
    assert state["settings"] == {"size": 3, "world_size": 1}
    assert state["values"].keys() == {"rows", "score", "names", "known", "next"}
    memory.rows.zero_()
    assert state["values"]["rows"].sum() == 66
    other.load_state_dict({"_extra_state": state})
    assert same_state(held(other), state)
    other.rows.zero_()  # and what was loaded is no part of the state either
    assert state["values"]["rows"].sum() == 66


def test_no_state_is_a_parameter_or_a_buffer():
    memory = filled()
    assert not list(memory.parameters())
    assert not list(memory.buffers())
    assert memory.state_dict().keys() == {"_extra_state"}


def test_only_a_state_of_one_rank_makes_it_per_rank():
    memory = Memory()
    assert not memory.per_rank
    memory.add_state("mine", 0, ranks="own")
    assert memory.per_rank
    memory.add_state("everybodys", 0)
    assert memory.per_rank
    assert not Memory.per_rank


OLD = {"settings": {"size": 3}, "rows": torch.zeros(3, 4), "next": 2}


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ({**OLD, "format": 1}, "format 1"),
        ({}, "format None"),
        ({**OLD, "format": 3}, "format 3"),
        ([1], "format list"),
        (None, "format NoneType"),
    ],
)
def test_another_format_is_refused_by_its_name(state, found):
    memory = filled()
    before = held(memory)
    message = (
        f"memory(): the saved state is of {found}, this negplug reads format 2; resume "
        f"with the version that saved it, or start the samplers afresh"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        memory.set_extra_state(state)
    assert same_state(held(memory), before)


@pytest.mark.parametrize("expression", ["queue(size=16)", "memory_bank()", "emc2()"])
def test_a_samplers_state_of_another_format_is_refused_whole(expression):
    loss_fn = ContrastiveLoss(expression, seed=4)
    views = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss_fn(*views, indexes=torch.arange(4)).backward()
    before = loss_fn.state_dict()
    state = copy.deepcopy(before)
    old = state["sampler._extra_state"] | {"format": 1}
    state["sampler._extra_state"] = old
    with pytest.raises(ValueError, match="saved state is of format 1, this negplug reads format 2"):
        loss_fn.load_state_dict(state)
    assert same_state(loss_fn.state_dict(), before)


REFUSED = [
    ("next", True, "is bool, not an integer"),
    ("next", 1.0, "is float, not an integer"),
    ("next", torch.tensor(1), "is Tensor, not an integer"),
    ("next", -1, "is -1, below 0"),
    ("rows", [[0.0]], "is list, not a dense tensor"),
    ("rows", None, "is NoneType, not a dense tensor"),
    ("rows", torch.zeros(3, 4).to_sparse(), "is Tensor, not a dense tensor"),
    ("rows", torch.zeros(4, 4), "has shape (4, 4), not (3, None)"),
    ("rows", torch.zeros(3), "has shape (3,), not (3, None)"),
    ("rows", torch.zeros(3, 4, 1), "has shape (3, 4, 1), not (3, None)"),
    ("names", torch.zeros(2, 1).long(), "has shape (2, 1), not (None,)"),
    ("rows", torch.zeros(3, 4).long(), "has type torch.int64, not a floating-point type"),
    ("rows", torch.zeros(3, 4) > 0, "has type torch.bool, not a floating-point type"),
    ("rows", torch.zeros(3, 4).cfloat(), "has type torch.complex64, not a floating-point type"),
    ("names", torch.zeros(2), "has type torch.float32, not torch.int64"),
    ("names", torch.zeros(2).int(), "has type torch.int32, not torch.int64"),
    ("known", torch.zeros(1, 2).long(), "has type torch.int64, not torch.bool"),
    ("rows", torch.full((3, 4), torch.nan), "holds NaN"),
    ("score", torch.tensor([0.0, torch.nan]), "holds NaN"),
    ("rows", torch.full((3, 4), torch.inf), "holds infinite values"),
]


@pytest.mark.parametrize(("name", "value", "message"), REFUSED)
def test_a_value_that_does_not_fit_its_declaration_is_refused_whole(name, value, message):
    memory = filled()
    before = held(memory)
    state = held(Memory())
    state["values"][name] = value
    message = f"memory(): the saved {name} {message}; the file is damaged"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        memory.set_extra_state(state)
    assert same_state(held(memory), before)


def test_an_empty_value_of_an_unknown_width_and_a_logarithm_of_zero_fit():
    memory = filled()
    memory.set_extra_state(held(Memory()))
    assert memory.rows.shape == (3, 0)
    memory.set_extra_state(held(filled()))
    assert memory.score.tolist() == [-torch.inf, 0.5]


@pytest.mark.parametrize("values", [None, [], {}, {"rows": torch.zeros(3, 4)}])
def test_values_that_are_missing_or_too_many_are_refused_whole(values):
    memory = filled()
    before = held(memory)
    state = held(Memory())
    wrong = [values, {**state["values"], "more": 1}]
    for found in wrong:
        with pytest.raises(ValueError, match=r"does not hold \['known', 'names', .* is damaged"):
            memory.set_extra_state({**state, "values": found})
        assert same_state(held(memory), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "is another sampler's, with NoneType; resume with the same expression"),
        ({"world_size": 1}, r"is another sampler's, with \['world_size'\]"),
        ({"size": 5, "world_size": 1}, r"was saved with size=5, this run has size=3; resume with"),
        ({"size": 3, "world_size": 0}, r"was saved with world_size=0; the file is damaged"),
        ({"size": 3, "world_size": 10**12}, r"was saved with world_size=10+; the file is damaged"),
        ({"size": 3, "world_size": True}, r"was saved with world_size=True; the file is damaged"),
        ({"size": 3, "world_size": "2"}, r"was saved with world_size='2'; the file is damaged"),
    ],
)
def test_other_settings_are_refused_whole(settings, message):
    memory = filled()
    before = held(memory)
    with pytest.raises(ValueError, match=message):
        memory.set_extra_state({**held(Memory()), "settings": settings})
    assert same_state(held(memory), before)


@pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.double, nn.Module.bfloat16])
def test_a_cast_of_the_model_leaves_the_memory_its_types_and_values(cast):
    model = Model()
    before = held(model.memory)
    cast(model)
    assert model.layer.weight.dtype != torch.float32
    assert same_state(held(model.memory), before)


def test_a_move_keeps_the_types_and_takes_every_tensor_along():
    model = Model()
    before = held(model.memory)["values"]
    model.to("meta", torch.float16)  # a device that every machine has
    for name, value in held(model.memory)["values"].items():
        if name != "next":
            assert value.device.type == "meta"
            assert (value.dtype, value.shape) == (before[name].dtype, before[name].shape)
    assert model.memory.next == 2


def test_what_is_loaded_goes_to_the_modules_device():
    memory = Memory().to("meta")
    memory.set_extra_state(held(filled()))
    assert memory.rows.device.type == memory.names.device.type == "meta"
    assert memory.rows.dtype == torch.float64
    assert memory.next == 2
