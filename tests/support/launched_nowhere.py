"""Launches a program through Triton and through ours, on a GPU that is none, and compares.

Programs are compiled for an H100; a driver that stands in for its own notes what it is to launch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.backends.driver import GPUDriver
from triton.runtime import driver

from negplug.kernels import launching

launched = []


class Launcher:
    def __init__(self, source, metadata):
        self.known, self.metadata = source.signature, metadata

    def __call__(self, *arguments):
        # The grid, the stream, the function, two of its metadata, two hooks, and what is its own.
        rest = arguments[9:]
        if len(rest) != len(self.known):
            raise TypeError(f"takes {len(self.known)} arguments, {len(rest)} were given")
        numbers = [argument for argument in rest if isinstance(argument, (int, float))]
        launched.append((arguments[:3], self.metadata.hash, numbers))


class Utilities:
    def load_binary(self, name, kernel, shared, device):
        loaded = 1, 2, 32, 0
        return loaded if triton.__version__ < "3.4" else (*loaded, 1024)

    def get_device_properties(self, device):
        return {"max_shared_mem": 232448, "multiprocessor_count": 132}


class NoGPU(GPUDriver):
    def __init__(self):
        self.utils, self.launcher_cls = Utilities(), Launcher
        self.get_current_device = lambda: 0
        self.set_current_device = self.get_current_stream = lambda _: 0
        self.get_device_capability = lambda *_: (9, 0)

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self):
        return torch.device("cpu")

    def get_benchmarker(self):
        return None

    def map_python_to_cpp_type(self, kind):
        return kind

    @staticmethod
    def is_active():
        return True


@triton.jit
def program(X, Y, number, factor, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    place = tl.arange(0, BLOCK)
    x = tl.load(X + place, mask=place < number, other=0)
    tl.store(Y + place, x * factor + (1 if WIDE else 0), mask=place < number)


def main() -> None:
    driver.set_active(NoGPU())
    room = torch.zeros(65)
    tensors = {"aligned": room[:64], "not": room[1:], "others": room[:64].to(torch.int32)}
    seen = set()
    for name, x in tensors.items():
        for number in (1, 5, 16, 48, 2**40):
            for wide in (False, True):
                arguments, options = (x, room, number, 2.5), {"BLOCK": 64, "WIDE": wide}
                program[(3, 2)](*arguments, **options)
                for _ in range(2):  # as Triton finds it, and as it is found again
                    launching._launch(program, (3, 2), arguments, options, 0)
                theirs, *ours = launched[-3:]
                assert ours == [theirs, theirs], (name, number, wide, theirs, ours)
                assert theirs[0] == (3, 2, 1)
                seen.add(theirs[1])
    print(f"{len(launched)} launches of {len(seen)} programs: the same")


if __name__ == "__main__":
    main()
