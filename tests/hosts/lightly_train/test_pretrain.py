"""lightly-train's SimCLR, whose criterion is Lightly's: ``pretrain`` as users call it, treated."""

from __future__ import annotations

import importlib.util
import itertools
import json

import armed
import naive
import numpy
import pytest
import torch
from PIL import Image

if importlib.util.find_spec("lightly_train") is None:
    pytest.skip("lightly-train is not installed", allow_module_level=True)

import lightly_train
import timm

SIZE = {"image_size": (32, 32)}
# The host's augmentations follow no seed: without them, two runs can be compared.
STILL = SIZE | dict.fromkeys(
    ("random_resize", "random_flip", "color_jitter", "random_gray_scale", "gaussian_blur")
)


class Rows:
    """A hook that tells the views of a batch apart, and stops the run in a step."""

    noise = torch.randn(16, 1, 1, 1, generator=torch.Generator().manual_seed(1))

    def __init__(self, last: int | None) -> None:
        self.left = last

    def __call__(self, module, args, output):
        if self.left == 0:
            raise RuntimeError("the power failed")
        if self.left is not None:
            self.left -= 1
        return output + self.noise[: len(output)].to(output)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for index in range(24):
        pixels = numpy.random.default_rng(index).integers(0, 255, (40, 40, 3), dtype=numpy.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def pretrain(images, tmp_path, monkeypatch):
    """Calls the host's ``pretrain``; returns the weights after it and what it logged."""
    monkeypatch.setenv("LIGHTLY_TRAIN_EVENTS_DISABLED", "true")
    monkeypatch.delenv("NEGPLUG_SAMPLER", raising=False)
    numbers = itertools.count()

    def start(sampler=None, steps=None, **settings):
        if sampler is not None:
            monkeypatch.setenv("NEGPLUG_SAMPLER", sampler)
        torch.set_default_dtype(torch.float32)  # Lightning leaves that of its last run
        torch.manual_seed(0)
        model = timm.create_model("test_resnet")
        model.conv1.register_forward_hook(Rows(steps))
        settings = {
            "out": tmp_path / f"out{next(numbers)}",
            "method": "simclr",
            "method_args": {"hidden_dim": 16, "output_dim": 8},
            "epochs": 1,
            **settings,
        }
        lightly_train.pretrain(
            data=images,
            model=model,
            batch_size=8,
            num_workers=0,
            accelerator="cpu",
            devices=1,
            transform_args=STILL,
            loggers={"tensorboard": None},
            **settings,
        )
        lines = (settings["out"] / "metrics.jsonl").read_text().splitlines()
        logged = {name: value for line in lines for name, value in json.loads(line).items()}
        return torch.cat([p.detach().flatten() for p in model.parameters()]), logged

    return start


def test_in_batch_equals_the_host_and_a_sampler_treats(pretrain):
    own, logged = pretrain(precision="64-true")
    same, treated = pretrain("in_batch()", precision="64-true")
    assert naive.relative(same, own) < 1e-9
    assert treated["train_loss"] == pytest.approx(logged["train_loss"], rel=1e-9)
    assert treated["negplug/criterion/num_negatives"] == 14
    few, treated = pretrain("uniform(num_negatives=2)", precision="64-true")
    assert treated["negplug/criterion/num_negatives"] == 2
    assert treated["train_loss"] < logged["train_loss"] - 0.5
    assert naive.relative(few, own) > 1e-4


@pytest.mark.parametrize("sampler", ["queue(size=32)", "memory_bank()"])
def test_an_interrupted_run_goes_on_with_what_its_sampler_remembers(pretrain, tmp_path, sampler):
    again = {"epochs": 2, "loader_args": {"shuffle": False}}
    whole, _ = pretrain(sampler, **again)
    with pytest.raises(RuntimeError, match="the power failed"):
        pretrain(steps=4, out=tmp_path / "resumed", **again)
    resumed, _ = pretrain(out=tmp_path / "resumed", resume_interrupted=True, **again)
    assert torch.equal(resumed, whole)


def test_a_queue_needs_a_size(pretrain):
    with pytest.raises(ValueError, match=r"queue.*size"):
        pretrain("queue()")


COMMAND = ("pretrain", "data={images}", "out=out", "model=timm/test_resnet", "epochs=1")
COMMAND += ("batch_size=8", "num_workers=0", "accelerator=cpu", "devices=1")
COMMAND += ("transform_args.image_size=[32,32]", "loggers.tensorboard=null")


@pytest.mark.parametrize("method", ["simclr", "dino"])
def test_the_command_line_of_the_host(images, tmp_path, method):
    script = tmp_path / "lightly-train"  # as its installation writes it
    script.write_text("from lightly_train._cli import _cli_entrypoint\n_cli_entrypoint()\n")
    command = [part.format(images=images) for part in COMMAND] + [f"method={method}"]
    run = ("-m", "negplug", "run", "--sampler", "memory_bank()", script.name, *command)
    done = armed.run(tmp_path, *run, LIGHTLY_TRAIN_EVENTS_DISABLED="true")
    if method == "simclr":
        assert done.returncode == 0, done.stderr[-3000:]
        assert "negplug treats criterion (lightly" in done.stderr
    else:  # it has no negatives, and trains as it is
        assert done.returncode == 1
        assert "DINO; adapters: lightly" in done.stderr
