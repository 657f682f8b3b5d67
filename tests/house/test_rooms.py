"""The rooms of the house: imports run one way, and no two modules import each other."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "negplug"

# A room may import from itself and from the rooms before it.
ROOMS = (
    "kernels",
    "contract",
    "objectives",
    "samplers",
    "composers",
    "plugins",
    "diagnostics",
    "loss",
    "hosts",
    "testing",
    "cli",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(module: str) -> set[str]:
    """Return the modules of negplug that a module names in imports, those for types included."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                found.add(inside if inside in MODULES else node.module)
    return {name for name in found if name in MODULES}


def room_of(module: str) -> str:
    return module.split(".")[1]


def in_rooms() -> list[str]:
    return [name for name in MODULES if name.count(".") and name != "negplug.__main__"]


def test_the_top_floor_holds_the_rooms_and_three_files():
    files = {path.name for path in PACKAGE.iterdir() if path.is_file()}
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"}
    assert files == {"__init__.py", "__main__.py", "py.typed"}
    assert folders == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_from_rooms_before_it(room):
    members = [name for name in in_rooms() if room_of(name) == room]
    assert members
    allowed = ROOMS[: ROOMS.index(room) + 1]
    for module in members:
        for name in imports_of(module):
            assert name != "negplug", f"{module} imports the package's own front door"
            assert room_of(name) in allowed, f"{module} imports {name}, a later room"


def test_only_the_trainers_folder_knows_the_trainer():
    for module in in_rooms():
        if room_of(module) == "hosts" and not module.startswith("negplug.hosts.trainer"):
            for name in imports_of(module):
                assert not name.startswith("negplug.hosts.trainer"), module


def test_no_circle():
    graph = {module: imports_of(module) for module in in_rooms()}
    # Raises CycleError, which names the circle.
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph)


def test_the_command_line_is_there_without_torch():
    # Help and lists do not pay for it, and the site has its page without it.
    code = "import sys, negplug.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run((sys.executable, "-c", code), check=False).returncode == 0
