"""The device that tests compute on: the CPU, or what NEGPLUG_TEST_DEVICE names.

Random numbers are drawn on the CPU and moved, so that they are the same everywhere. Tests of ranks
are skipped elsewhere, and so are those of compiled loops.
"""

from __future__ import annotations

import os

import torch

DEVICE = torch.device(os.environ.get("NEGPLUG_TEST_DEVICE", "cpu"))
