"""Tests fork ranks, and a forked process cannot use OpenMP's threads of its parent.

One thread from the start means that there are none; otherwise a rank hangs at its first
convolution. It also lets in-process runs repeat those of other processes to the last bit.
"""

import torch

torch.set_num_threads(1)
