"""Settings: what a sampler is made of, in its state."""

from __future__ import annotations

import torch

from negplug import make_sampler
from negplug.samplers.filtered import Filtered
from negplug.samplers.hard import Hard
from negplug.samplers.hierarchical import Hierarchical
from negplug.samplers.memory_bank import MemoryBank
from negplug.samplers.queue import Queue
from negplug.samplers.stratified import Stratified
from negplug.samplers.uniform import Uniform


def test_samplers_made_in_python_say_what_they_are_made_of():
    made = [
        Uniform(4, source=Queue(16)),
        Uniform(8, source=Queue(16)),
        Uniform(4, source=Queue(24)),
        Uniform(4, correction=True, source=Queue(16)),
        Uniform(4, source=MemoryBank(0.4, 16)),
        Uniform(4, source=MemoryBank(0.5, 16)),
        Hard(4, Queue(16)),
        Filtered(Queue(16), similarity=0.5),
        Filtered(Queue(16), similarity=0.6),
        Uniform(4, source=Uniform(8, source=Queue(16))),
        Uniform(4, source=Uniform(9, source=Queue(16))),
        Stratified(4, same=0.25),
        Stratified(4, same=0.5),
        Stratified(4, by=torch.tensor([0, 1])),
        Stratified(4, by=torch.tensor([1, 0])),
        Hierarchical(Queue(8), Queue(9)),
        Hierarchical(Queue(8), Queue(10)),
    ]
    assert len({str(sampler) for sampler in made}) == len(made)
    assert str(made[0]) == str(Uniform(4, source=Queue(16)))
    assert str(make_sampler("uniform(4)")) == "uniform(4)"
