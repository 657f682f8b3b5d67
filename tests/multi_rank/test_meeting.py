"""A rank that calls no treated loss: the others say so, and wait neither long nor for ever."""

from __future__ import annotations

import importlib
import logging
import os
import time
from pathlib import Path

import ranks
import torch
import torch.distributed as dist
from unequal_ranks import said, train

from negplug import ContrastiveLoss
from negplug.kernels import meeting
from negplug.kernels.distributed import everyones
from negplug.loss import terms


class Heard(logging.Handler):
    """What is logged of the ranks that others wait for."""

    def __init__(self):
        super().__init__()
        self.lines = []
        logging.getLogger("negplug").addHandler(self)

    def emit(self, record):
        self.lines += [line for line in [record.getMessage()] if "waits for rank" in line]


def absent(rank, world, sampler, gave_up):
    """Rank 1 trains without negplug, and with it when it is too late."""
    os.environ[meeting.VARIABLE] = "1"
    logged = Heard()
    while rank and not gave_up.exists():
        time.sleep(0.05)
    heard = said(train, ContrastiveLoss(sampler, seed=3), rank, 0)
    gave_up.touch()
    return heard, logged.lines


def late(rank, world):
    """Rank 1 is slow, and then the first call fails on it."""
    os.environ[meeting.VARIABLE] = "x"
    heard = [said(train, ContrastiveLoss("gather()", seed=3), rank, 0)]
    os.environ[meeting.VARIABLE] = "120"
    loss_fn = ContrastiveLoss("gather()", seed=3)
    time.sleep(rank)
    bad = {"z0": torch.full((4, 6), torch.nan, dtype=torch.float64)} if rank else {}
    heard.append(said(train, loss_fn, rank, 0, **bad))
    os.environ[meeting.VARIABLE] = "x"  # they have met, and it is read no more
    time.sleep(1.5 * rank)  # a later step may take its time
    return [*heard, said(train, loss_fn, rank, 1)]


def diagnosed_alone(rank, world, folder):
    """Rank 1 has no diagnostics, and then others; what each says, and of its treated loss."""
    os.environ[meeting.VARIABLE] = "1"
    found = []
    if not rank:
        os.environ["NEGPLUG_DIAGNOSTICS"] = "representation"
        found.append(said(terms.insist_on_same_diagnostics))
        (folder / "gave up").touch()
    while not (folder / "gave up").exists():
        time.sleep(0.05)
    if rank:
        os.environ["NEGPLUG_DIAGNOSTICS"] = "gradient_snr"
        found.append(said(terms.insist_on_same_diagnostics))
    os.environ.pop("NEGPLUG_DIAGNOSTICS")
    os.environ[meeting.VARIABLE] = "60"
    return [*found, said(train, ContrastiveLoss("gather()", seed=3), rank, 0)]


def diagnosed_otherwise(rank, world):
    """Both ranks have diagnostics, of which one differs in a value."""
    os.environ["NEGPLUG_DIAGNOSTICS"] = ("representation", "gradient_snr")[rank]
    return [said(terms.insist_on_same_diagnostics)]


def test_diagnostics_of_one_rank_alone_or_of_another_value(tmp_path):
    first, second = ranks.run(diagnosed_alone, 2, tmp_path)
    assert first[0][0] == second[0][0] == "RanksError"
    assert "rank 1 has begun no fit with NEGPLUG_DIAGNOSTICS within 1 s of this" in first[0][1]
    assert "rank 0 waited 1 s for rank 1 to begin a fit with NEGPLUG_DIAGNOSTICS" in second[0][1]
    assert first[1] is second[1] is None  # who has met for a loss is another matter
    for heard in ranks.run(diagnosed_otherwise, 2):
        assert heard[0][0] == "RanksError"
        assert "rank 0 has representation, rank 1 has gradient_snr" in heard[0][1]


def saves(rank, world, folder):
    """Rank 0 is slow to save; then it saves alone, and rank 1 too late; then both save again."""
    os.environ[meeting.VARIABLE] = "0.4"
    found = []

    def save():
        each = everyones(rank, meeting.SAVED)
        assert each == [0, 1]

    if rank:
        (folder / "waits").touch()
    while not (folder / "waits").exists():
        time.sleep(0.05)
    time.sleep(0 if rank else 0.8)  # for longer than a rank 0 waits
    found.append(said(save))
    while rank and not (folder / "gave up").exists():
        time.sleep(0.05)
    found.append(said(save))
    (folder / "gave up").touch()
    os.environ[meeting.VARIABLE] = "60"
    return [*found, said(save)]


def test_a_checkpoint_that_one_rank_saves_alone(tmp_path: Path):
    first, second = ranks.run(saves, 2, tmp_path)
    assert first[0] is second[0] is first[2] is second[2] is None
    assert first[1][0] == second[1][0] == "RanksError"
    assert first[1][1].startswith("rank 1 has saved no checkpoint within 0.4 s of this rank")
    assert "gather=False" in first[1][1]
    assert second[1][1].startswith("rank 0 waited 0.4 s for rank 1 to save a checkpoint, and has")


def two_groups(rank, world, folder):
    """One process group after the other, on one store.

    They exchange nothing: gloo's second group may find where the first one could be reached.
    """
    importlib.import_module("torch.testing._internal.distributed.fake_pg")
    store, found = dist.FileStore(str(folder / "store"), world), []
    for number in range(2):
        dist.destroy_process_group()
        dist.init_process_group("fake", store=store, rank=rank, world_size=world)
        if rank:
            time.sleep(0.5)
            (folder / f"rank 1 meets, {number}").touch()
        meeting.meet()
        found.append((folder / f"rank 1 meets, {number}").exists())
    return found


def restarted(rank, world, folder):
    """The second attempt of a launcher, whose first one ended before rank 1 had met."""
    importlib.import_module("torch.testing._internal.distributed.fake_pg")
    store, found = dist.FileStore(str(folder / "store"), world), []
    for attempt in range(2):
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(attempt)
        os.environ[meeting.VARIABLE] = "60" if attempt else "0.1"
        dist.destroy_process_group()
        dist.init_process_group("fake", store=store, rank=rank, world_size=world)
        if attempt or not rank:
            found.append(said(meeting.meet))
            (folder / "gave up").touch()
        while not (folder / "gave up").exists():
            time.sleep(0.05)
    return found


def test_ranks_that_a_launcher_restarts_meet_anew(tmp_path: Path):
    first, second = ranks.run(restarted, 2, tmp_path)
    assert "rank 1 has called no loss" in first[0][1]
    assert first[1] is second[0] is None


def test_a_rank_that_never_comes_or_too_late(tmp_path: Path):
    for sampler in ("uniform(num_negatives=2)", "queue(size=16)"):
        found = ranks.run(absent, 2, sampler, tmp_path / sampler)
        ((kind, message), logged), ((kind_there, message_there), _) = found
        assert kind == kind_there == "RanksError"
        assert message.startswith("rank 1 has called no loss that negplug treats within 1 s")
        assert "NEGPLUG_SAMPLER" in message
        assert logged == ["negplug waits for rank 1 to call a loss that negplug treats"]
        assert message_there.startswith("rank 0 waited 1 s for rank 1 to call a loss")
        assert message_there.endswith("set NEGPLUG_RANKS_TIMEOUT to more seconds")


def test_a_rank_that_is_late():
    for heard in ranks.run(late, 2):
        assert heard[0] == (
            "ValueError",
            "NEGPLUG_RANKS_TIMEOUT must be a number of seconds above 0, got 'x'",
        )
        assert "NaN" in heard[1][1]
        assert heard[2] is None


def test_a_second_group_on_one_store_meets_anew(tmp_path: Path):
    assert ranks.run(two_groups, 2, tmp_path) == [[True, True]] * 2
