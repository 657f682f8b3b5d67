"""A recipe to stop and resume: order and augmentations follow from epoch and index alone.

As a script it starts training processes to be killed, one per expression:

    python resumable.py FOLDER EPOCHS EXPRESSION… [--resume CHECKPOINT] [--stall EPOCH]

Process n works in ``FOLDER/n``. It saves ``epoch=N.ckpt`` after each epoch and, at the end,
``final.pt``: weights and the callback's state. With ``--stall`` it writes its number to ``stalled``
in the middle of that epoch, between a forward and a backward pass, and goes no further.
``--resume`` names a checkpoint in each of these folders.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import time
from pathlib import Path

import hosts
import torch
from torch.utils.data import DataLoader, Sampler

SIZE = 24
BATCH = 8
MEMORIES = ["queue(size=40)", "memory_bank()"]
"""A ring that is crossed in the middle of a batch of 16 keys, and state per index."""

SAMPLERS = [
    "in_batch()",
    "gather()",
    "uniform(num_negatives=4)",
    "uniform(num_negatives=4, shared=True, correction=True)",
    "uniform(num_negatives=9, source=uniform(num_negatives=12))",
    *MEMORIES,
    "queue(size=40, gather=False)",
    "queue(size=40, num_negatives=5)",
    "memory_bank(momentum=0.9, size=24)",
    "memory_bank(num_negatives=5)",
    "hard(num_negatives=4, skip=3, source=queue(size=40))",
    "filtered(source=memory_bank(), similarity=0.9)",
    "false_negatives(top=3, threshold=0.5, source=queue(size=40))",
    "stratified(num_negatives=6, by='labels', source=queue(size=40))",
    "hierarchical(uniform(num_negatives=4), queue(size=40, num_negatives=5), memory_bank())",
    "hierarchical(queue(size=40), hard(num_negatives=2, source=queue(size=40)))",
    "schedule(uniform(num_negatives=4), queue(size=40), hard(2), from_steps=(0, 5, 8))",
    "synthetic(num_mixed=4, num_hardest=8, source=queue(size=40))",
    "synthetic(num_mixed_with_anchor=3, num_hardest=8, num_noisy=2, sigma=0.1)",
    "gumbel_max(num_negatives=3, source=queue(size=40))",
    "emc2()",
    "isir(out_of_batch='drop', source=queue(size=40))",
]


class Views(hosts.Pairs):
    """Other augmentations in each epoch, the same whenever that epoch is run."""

    def set_epoch(self, epoch):
        generator = torch.Generator().manual_seed(epoch)
        self.noise = 0.3 * torch.randn(self.noise.shape, generator=generator)


class Shuffled(Sampler):
    """Another order in each epoch; Lightning tells it which epoch begins."""

    def __init__(self, samples):
        self.samples = samples
        self.set_epoch(0)

    def set_epoch(self, epoch):
        self.epoch = epoch
        self.samples.set_epoch(epoch)

    def __iter__(self):
        generator = torch.Generator().manual_seed(1000 + self.epoch)
        return iter(torch.randperm(len(self.samples), generator=generator).tolist())

    def __len__(self):
        return len(self.samples)


def fit(expression, epochs, seed=0, resume=None, callbacks=(), **kwargs):
    """Train the recipe of the installed host; return its weights, the callback, the Trainer."""
    hosts.lightning().seed_everything(seed)
    samples = Views(SIZE)
    loader = DataLoader(samples, batch_size=BATCH, sampler=Shuffled(samples), drop_last=True)
    module, control = hosts.recipe(), hosts.negative_control()(expression)
    trainer = hosts.trainer(max_epochs=epochs, callbacks=[control, *callbacks], **kwargs)
    with _whole_checkpoints():
        trainer.fit(module, loader, ckpt_path=None if resume is None else str(resume))
    return hosts.parameters(module), control, trainer


def same_state(a, b):
    """Whether two states of tensors and built-in types are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same_state, a, b))
    return a == b


@contextlib.contextmanager
def _whole_checkpoints():
    """Lets hosts' checkpoints be read whole, which torch no longer does by default."""
    before = torch.load
    torch.load = lambda *args, **kwargs: before(*args, **(kwargs | {"weights_only": False}))
    try:
        yield
    finally:
        torch.load = before


def _stall(folder, epoch):
    class Stall(hosts.lightning().Callback):
        def on_before_backward(self, trainer, *_):
            if trainer.current_epoch == epoch and trainer.global_step % (SIZE // BATCH) == 1:
                (folder / "number").write_text(str(os.getpid()))
                (folder / "number").rename(folder / "stalled")
                while True:
                    time.sleep(60)

    return Stall()


def _train(folder, expression, given):
    saver = hosts.lightning().callbacks.ModelCheckpoint(
        folder, filename="{epoch}", save_top_k=-1, every_n_epochs=1
    )
    callbacks = [saver] if given.stall is None else [saver, _stall(folder, given.stall)]
    resume = None if given.resume is None else folder / given.resume
    weights, control, _ = fit(
        expression, given.epochs, given.seed, resume, callbacks, enable_checkpointing=True
    )
    torch.save({"weights": weights, "state": control.state_dict()}, folder / "final.pt")


def _main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("epochs", type=int)
    parser.add_argument("expressions", nargs="+")
    parser.add_argument("--resume")
    parser.add_argument("--stall", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    hosts.recipe()  # imports the host, which takes longer than training: once for all
    context = multiprocessing.get_context("fork")
    processes = []
    for number, expression in enumerate(given.expressions):
        folder = given.folder / str(number)
        folder.mkdir(exist_ok=True)
        processes.append(context.Process(target=_train, args=(folder, expression, given)))
        processes[-1].start()
    for process in processes:
        process.join()
    print("exit codes", *(process.exitcode for process in processes))


if __name__ == "__main__":
    _main()
