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

# The most numbers of a row that a block holds; rows that are wider are taken in blocks of less,
# for which registers suffice.
_WIDEST, _BLOCK_OF_WIDER = 256, 128


SINGLE, HALF, SPLIT = "float32", "float16", "two float16"
"""What rows are made of."""


class Tile(NamedTuple):
    """What a program works on at a time.

    Attributes:
        rows: Of a block.
        columns: Of a tile.
        warps: That share the work.
        stages: Tiles of columns that are on their way or at work.
        widest: Numbers of a block's rows up to which registers suffice.
    """

    rows: int
    columns: int
    warps: int
    stages: int
    widest: int = _WIDEST

    def memory(self, width: int, blocks: int, kind: str, beside: int, groups: bool) -> int:
        """Return how many bytes of shared memory it takes at most.

        They are a block of rows, the tiles of columns, and the probabilities; of rows of several
        blocks, all blocks are on their way, and the one that is written comes beside them. Products
        of float32 may copy all of it. tests/kernels/test_triton.py compares with what programs
        take.

        Args:
            width: Numbers of a block's rows.
            blocks: Blocks that a row is made of.
            kind: What rows are made of.
            beside: Bytes that are read for each pair of a row and a column: weights, masks.
            groups: As of :class:`Processors`.
        """
        several = blocks > 1
        held = self.rows * (self.stages if several else 1)
        held += self.columns * (self.stages - (not groups) + several)
        if kind == SINGLE:
            held += self.rows + 2 * self.columns
        pairs = self.rows * self.columns
        numbers = held * width + pairs
        return (2 if kind == HALF else 4) * numbers + self.stages * beside * pairs + 2048


# The most wanted first; the last is taken where none fits. At d = 128 and N = 32,768 the first of
# each was the quickest on an H200, in prototypes of these programs: of float16 0.53 ms forward and
# 0.96 ms backward, of two float16 1.5 ms and 2.4 ms. Others are the largest that spill no register
# when they are compiled, by kind and by whether warps multiply in groups.
_TILES = {
    (HALF, True): (Tile(64, 64, 4, 3),),
    (HALF, False): (Tile(64, 64, 4, 3, widest=128), Tile(64, 64, 8, 2), Tile(32, 64, 8, 2)),
    (SPLIT, True): (Tile(64, 64, 4, 2, widest=128), Tile(64, 32, 4, 2)),
    (SPLIT, False): (Tile(32, 64, 8, 2), Tile(32, 32, 8, 2)),
    (SINGLE, True): (Tile(64, 64, 4, 2, widest=128),),
    (SINGLE, False): (Tile(64, 64, 4, 2, widest=128),),
}
# Sums of numbers leave registers for more rows than sums of rows.
_TILE_OF_NUMBERS = {HALF: Tile(128, 64, 4, 3)}
_SMALL = (Tile(32, 32, 4, 2, widest=128), Tile(16, 16, 4, 2))


class Processors(NamedTuple):
    """The processors of a device.

    Attributes:
        number: How many there are.
        memory: Shared memory of each, in bytes.
        groups: Whether four warps multiply together, from shared memory: on NVIDIA's Hopper and on
            its Blackwell for data centres.
    """

    number: int
    memory: int
    groups: bool = True

    @classmethod
    def of(cls, device: torch.device) -> Processors:
        """Return those of a device."""
        if device.type == "cpu":
            return cls(1, 2**18)  # under Triton's interpreter
        return _found(torch.cuda.current_device() if device.index is None else device.index)

    def tile(self, width: int, kind: str, written: bool, beside: int) -> Tile:
        """Return the tile of a launch for rows of so many numbers.

        Args:
            width: Numbers of a row.
            kind: What rows are made of.
            written: Whether sums of rows are written, and not only of numbers.
            beside: Bytes that are read for each pair.
        """
        block, blocks = blocks_of(width)
        tiles = (*_TILES[kind, self.groups], *_SMALL)
        if not written and kind in _TILE_OF_NUMBERS:
            tiles = (_TILE_OF_NUMBERS[kind], *tiles)
        fitting = (
            tile
            for tile in tiles
            if block <= tile.widest
            and tile.memory(block, blocks, kind, beside, self.groups) <= self.memory
        )
        return next(fitting, tiles[-1])


def blocks_of(width: int) -> tuple[int, int]:
    """Return how many numbers a block of a row has, a power of two, and how many blocks it is."""
    block = max(power_of_2(width), 16)
    if block > _WIDEST:
        block = _BLOCK_OF_WIDER
    return block, cdiv(width, block)


def has_quick_halves(device: torch.device) -> bool:
    """Return whether products of float16 are quick here: on NVIDIA's cards."""
    return device.type == "cpu" or torch.version.hip is None


def precision_of(device: torch.device) -> str:
    """Return how float32 is multiplied: NVIDIA's cards make three products of TF32."""
    return "tf32x3" if device.type == "cuda" and torch.version.hip is None else "ieee"


@functools.cache
def _found(index: int) -> Processors:
    found = triton.runtime.driver.active.utils.get_device_properties(index)
    # Of consumers' Blackwell the number is 12.
    groups = torch.version.hip is None and torch.cuda.get_device_capability(index)[0] in (9, 10)
    return Processors(found["multiprocessor_count"], found["max_shared_mem"], groups)


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
    def of(cls, rows: torch.Tensor, columns: int, written: bool, kind: str, beside: int) -> Shape:
        """Return the cut of a launch.

        Args:
            rows: ``[N, d]``.
            columns: Their number.
            written: Whether rows are written, and not only a number for each.
            kind: What rows are made of.
            beside: Bytes that are read for each pair.
        """
        count, width = rows.shape
        processors = Processors.of(rows.device)
        tile = processors.tile(width, kind, written, beside)
        block, blocks = blocks_of(width)
        outputs = blocks if written else 1
        many = cdiv(count, tile.rows)
        tiles = max(cdiv(columns, tile.columns), 1)
        wanted = max(_PROGRAMS * processors.number // max(many * outputs, 1), 1)
        chunk = cdiv(tiles, min(wanted, tiles)) * tile.columns
        parts = max(cdiv(columns, chunk), 1)
        return cls(tile, block, blocks, parts, chunk, (many, parts, outputs))
