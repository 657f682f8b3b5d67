"""How launches of a pool's programs are cut: tiles fit a processor, parts fill a device.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import triton

from negplug.kernels.sizes import cdiv, power_of_2

# Programs for each of a device's processors, so that none waits for the last ones.
_PROGRAMS = 2

# The most numbers of a row that a block holds; wider rows are taken block after block.
_WIDEST = 256


SINGLE, HALF, SPLIT = "float32", "float16", "two float16"
"""What rows are made of."""


class Tile(NamedTuple):
    """What a program works on at a time.

    Attributes:
        rows: Of a block.
        columns: Of a tile.
        warps: That share the work.
        stages: Tiles of columns that are on their way or at work.
    """

    rows: int
    columns: int
    warps: int
    stages: int

    def memory(self, width: int, blocks: int, kind: str) -> int:
        """Return how many bytes of shared memory it takes at most.

        They are a block of rows, the tiles of columns, one more of them for its transpose or its
        copies, and the probabilities. Products of float32 may copy the block too (on NVIDIA's
        Hopper, and everywhere in Triton 3.2). tests/kernels/test_triton.py compares with what
        programs take.

        Args:
            width: Numbers of a block's rows.
            blocks: Blocks that a row is made of; of several, all are on their way.
            kind: What rows are made of.
        """
        held = self.rows * (self.stages if blocks > 1 else 1) + self.columns * (self.stages + 1)
        held += self.rows if kind == SINGLE else 0
        return (2 if kind == HALF else 4) * (held * width + self.rows * self.columns) + 2048


# The most wanted first; the last is taken where none fits. At d = 128 and N = 32,768 the first of
# each was the quickest on an H200, in prototypes of these programs: of float16 0.53 ms forward and
# 0.96 ms backward, of two float16 1.5 ms and 2.4 ms.
_TILES = {
    ("sums", HALF): (Tile(128, 64, 4, 3), Tile(64, 64, 4, 3), Tile(64, 64, 4, 2)),
    ("gradient", HALF): (Tile(64, 64, 4, 3), Tile(64, 64, 4, 2)),
    ("sums", SPLIT): (Tile(64, 64, 4, 2),),
    ("gradient", SPLIT): (Tile(64, 64, 4, 2),),
    ("sums", SINGLE): (Tile(64, 64, 4, 2),),
    ("gradient", SINGLE): (Tile(64, 64, 4, 2),),
}
_SMALL = (Tile(32, 32, 4, 2), Tile(16, 16, 4, 2))


class Processors(NamedTuple):
    """The processors of a device.

    Attributes:
        number: How many there are.
        memory: Shared memory of each, in bytes.
    """

    number: int
    memory: int

    @classmethod
    def of(cls, device: torch.device) -> Processors:
        """Return those of a device."""
        if device.type == "cpu":
            return cls(1, 2**18)  # under Triton's interpreter
        return _found(torch.cuda.current_device() if device.index is None else device.index)

    def tile(self, launch: str, width: int, kind: str) -> Tile:
        """Return the tile of a launch, ``"sums"`` or ``"gradient"``, for rows of so many numbers.

        Args:
            launch: Which one.
            width: Numbers of a row.
            kind: What rows are made of.
        """
        block, blocks = blocks_of(width)
        tiles = (*_TILES[launch, kind], *_SMALL)
        return next((t for t in tiles if t.memory(block, blocks, kind) <= self.memory), tiles[-1])


def blocks_of(width: int) -> tuple[int, int]:
    """Return how many numbers a block of a row has, a power of two, and how many blocks it is."""
    block = min(max(power_of_2(width), 16), _WIDEST)
    return block, cdiv(width, block)


def precision_of(device: torch.device) -> str:
    """Return how float32 is multiplied: TF32 needs NVIDIA's Ampere or later."""
    if device.type != "cuda" or torch.version.hip is not None:
        return "ieee"
    return "tf32x3" if torch.cuda.get_device_capability(device)[0] >= 8 else "ieee"


@functools.cache
def _found(index: int) -> Processors:
    found = triton.runtime.driver.active.utils.get_device_properties(index)
    return Processors(found["multiprocessor_count"], found["max_shared_mem"])


class Shape(NamedTuple):
    """How a launch is cut.

    Attributes:
        tile: What a program works on at a time.
        width: Numbers of a block of a row, a power of two.
        blocks: Blocks of a row.
        parts: Parts of the columns.
        chunk: Columns of a part, a multiple of those of a tile.
        grid: Programs: row blocks, parts, and blocks of what they write.
    """

    tile: Tile
    width: int
    blocks: int
    parts: int
    chunk: int
    grid: tuple[int, int, int]

    @classmethod
    def of(cls, launch: str, rows: torch.Tensor, columns: int, written: bool, kind: str) -> Shape:
        """Return the cut of a launch.

        Args:
            launch: ``"sums"`` or ``"gradient"``.
            rows: ``[N, d]``.
            columns: Their number.
            written: Whether rows are written, and not only a number for each.
            kind: What rows are made of.
        """
        count, width = rows.shape
        processors = Processors.of(rows.device)
        tile = processors.tile(launch, width, kind)
        block, blocks = blocks_of(width)
        outputs = blocks if written else 1
        many = cdiv(count, tile.rows)
        tiles = max(cdiv(columns, tile.columns), 1)
        wanted = max(_PROGRAMS * processors.number // max(many * outputs, 1), 1)
        chunk = cdiv(tiles, min(wanted, tiles)) * tile.columns
        parts = max(cdiv(columns, chunk), 1)
        return cls(tile, block, blocks, parts, chunk, (many, parts, outputs))
