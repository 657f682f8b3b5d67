"""A memory with a state of each kind, and a model that holds one."""

from __future__ import annotations

import torch
from torch import nn

from negplug.contract.state import Stateful


class Memory(Stateful):
    """A state of each kind."""

    def __init__(self, size=3):
        super().__init__()
        self.size = size
        self.add_state("rows", 0.0, (size, None))
        self.add_state("score", -torch.inf, (None,))
        self.add_state("names", -1, (None,))
        self.add_state("known", False, (None, None))
        self.add_state("next", 0)

    def settings(self):
        return {"size": self.size}

    def __str__(self):
        return "memory()"


def filled():
    memory = Memory()
    memory.rows = torch.arange(12, dtype=torch.float64).view(3, 4)
    memory.score = torch.tensor([-torch.inf, 0.5])
    memory.names = torch.tensor([4, -1])
    memory.known = torch.tensor([[True, False]])
    memory.next = 2
    return memory


def held(memory):
    return memory.get_extra_state()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.memory = filled()
