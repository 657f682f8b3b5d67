"""What a file says of its negatives: read without its code, and summed up as naive counts do."""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import zipfile
from collections import Counter

import pytest
import torch

import negplug
from negplug.diagnostics.saved.file import Unread, read_checkpoint
from negplug.diagnostics.saved.states import treatments_in


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setenv("NEGPLUG_BACKEND", "torch")  # numba would compile first


class Own:
    """A class that only the writer of a file has."""

    def __init__(self, value):
        self.value = value


class Calling:
    """Asks whoever unpickles it to call something."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def written(path, value):
    torch.save(value, path)
    return path


def trained(sampler, steps=5, samples=12, **settings):
    """Return a loss that has seen some steps of eight samples."""
    loss_fn = negplug.ContrastiveLoss(sampler, seed=3, **settings)
    draws = torch.Generator().manual_seed(0)
    for _ in range(steps):
        z0, z1 = torch.randn(2, 8, 4, generator=draws)
        indexes = torch.randperm(samples, generator=draws)[:8]
        loss_fn(z0.requires_grad_(), z1, indexes=indexes, labels=indexes % 3).backward()
    return loss_fn


@pytest.mark.parametrize(
    "beside", [pathlib.PurePosixPath("a/b"), argparse.Namespace(lr=[1]), Own({"a": torch.ones(1)})]
)
def test_what_only_the_writer_has_is_left_unread(tmp_path, beside):
    path = written(tmp_path / "a.ckpt", {"rows": torch.arange(3), "beside": {"x": beside}})
    found = read_checkpoint(path)
    assert found["rows"].tolist() == [0, 1, 2]
    assert isinstance(found["beside"]["x"], Unread)
    assert type(found["beside"]["x"]).__name__ == type(beside).__name__


@pytest.mark.parametrize("function", [exec, eval, pathlib.Path.touch])
def test_nothing_in_a_file_is_called(tmp_path, function):
    made = tmp_path / "made"
    text = f"open({str(made)!r}, 'w')"
    given = made if function is pathlib.Path.touch else text
    path = written(tmp_path / "a.ckpt", {"beside": Calling(function, given)})
    with contextlib.suppress(ValueError):
        read_checkpoint(path)
    assert not made.exists()


def test_what_torch_blocks_and_what_is_no_checkpoint_are_refused(tmp_path):
    path = written(tmp_path / "a.ckpt", {"beside": Calling(__import__("os").system, "true")})
    with pytest.raises(ValueError, match=r"of torch\.save: .*posix is blocked"):
        read_checkpoint(path)
    (tmp_path / "b.ckpt").write_text("no archive")
    damaged = tmp_path / "c.ckpt"
    damaged.write_bytes(written(tmp_path / "d.ckpt", {}).read_bytes()[:-40])
    for name in ("b", "c"):
        with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
            read_checkpoint(tmp_path / f"{name}.ckpt")
    with pytest.raises(ValueError, match="is a folder"):
        read_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "none.ckpt")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"LongStorage", b"LongSto7age"),
        (b"K\x04", b"\x8a\x09"),  # a number that is longer than the file has it
        (b"}q", b"aq"),
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path, before, after):
    torch.save({"rows": torch.arange(4), "more": {"step": 4}}, tmp_path / "good.ckpt")
    path = tmp_path / "damaged.ckpt"
    with zipfile.ZipFile(tmp_path / "good.ckpt") as good, zipfile.ZipFile(path, "w") as damaged:
        for name in good.namelist():
            data = good.read(name)
            if name.endswith("data.pkl"):
                assert before in data
                data = data.replace(before, after)
            damaged.writestr(name, data)
    with pytest.raises(ValueError, match=r"damaged.ckpt cannot be read as a checkpoint"):
        read_checkpoint(path)


def test_a_memory_is_as_full_as_a_naive_count_says(tmp_path):
    loss_fn = trained("hierarchical(in_batch(), queue(size=96))")
    path = written(tmp_path / "a.ckpt", {"model": {}, "loss": loss_fn.state_dict()})
    (treatment,) = treatments_in(read_checkpoint(path))
    (loss,) = treatment.losses
    assert (loss.name, loss.step, loss.seed, loss.rank) == ("loss", 5, 3, None)
    (part,) = loss.parts
    assert part.name == "sampler.tiers.1"
    assert part.settings == {"size": 96, "gather": True, "world_size": 1}
    queue = loss_fn.sampler.tiers[1]
    rows = part.values["rows"]
    assert (rows["written"], rows["room"], rows["shape"][1]) == (5 * 16, 96, 4)
    times = Counter(queue.names[1, : queue.count].tolist())
    indexes = part.values["indexes"]
    assert (indexes["known"], indexes["distinct"]) == (80, len(times))
    most = sorted(times.items(), key=lambda entry: (-entry[1], entry[0]))[:5]
    assert [tuple(pair) for pair in indexes["most_repeated"]] == most
    assert part.values["labels"]["distinct"] == 3


def test_chains_averages_and_a_temperature_that_learns(tmp_path):
    tau = negplug.LearnedTemperature(0.2)
    chains = trained("emc2()", samples=20)
    averages = trained("in_batch()", objective="sogclr()", temperature=tau)
    state = {"a": chains.state_dict(), "b": {"c": averages.state_dict()}}
    (treatment,) = treatments_in(read_checkpoint(written(tmp_path / "a.ckpt", state)))
    assert (treatment.key, treatment.world_size) == ("", 1)
    first, second = treatment.losses
    assert (first.name, second.name) == ("a", "b.c")
    values = {part.name: part.values for part in first.parts}["sampler.chains"]["state"]
    own = chains.sampler.chains.state
    times = Counter(own[own >= 0].tolist())
    assert (values["known"], values["distinct"]) == (sum(times.values()), len(times))
    assert values["most_repeated"][0][1] == max(times.values())
    assert second.learned_temperature == pytest.approx(float(tau().detach()))
    values = {part.name: part.values for part in second.parts}["objective.averages"]["log_u"]
    table = averages.objective.averages.log_u
    finite = table[table.isfinite()]
    assert values["finite"] == len(finite)
    assert values["mean"] == pytest.approx(float(finite.mean()))


def test_a_loss_inside_a_model_and_further_calls(tmp_path):
    model = torch.nn.ModuleDict({"net": torch.nn.Linear(2, 2)})
    model["loss"] = negplug.ContrastiveLoss("queue(size=64)")
    z0, z1 = torch.randn(2, 6, 3, requires_grad=True)
    model["loss"](z0, z1).backward()
    state = model.state_dict()
    # As of a host's loss that is called twice a step.
    state["loss.further.0.sampler._extra_state"] = state["loss.sampler._extra_state"]
    path = written(tmp_path / "a.ckpt", {"state_dict": state})
    (treatment,) = treatments_in(read_checkpoint(path))
    (loss,) = treatment.losses
    assert loss.name == "state_dict.loss"
    assert [part.name for part in loss.parts] == ["sampler", "sampler of call 2"]
    assert [part.values["rows"]["written"] for part in loss.parts] == [12, 12]


@pytest.mark.parametrize("value", [[], {}, {"callbacks": None}, {"callbacks": {"negplug": 3}}, 7])
def test_a_file_without_a_treated_loss_says_nothing(tmp_path, value):
    assert treatments_in(read_checkpoint(written(tmp_path / "a.ckpt", value))) == []
