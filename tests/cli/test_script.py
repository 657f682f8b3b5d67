"""A script inside of a command is what it is under Python: its names, its paths, `__main__`."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from distributions import python

# Less than `negplug run`, which loads torch.
EXECUTE = """
import os, sys
from negplug.cli.script import execute, look_first_in
module, script, *args = sys.argv[1:]
if module == "-m":
    look_first_in(os.getcwd())
execute(script, args, module == "-m")
"""

SHOW = """
import json, os, sys
import beside
print(json.dumps({
    "name": __name__, "file": os.path.abspath(__file__), "package": __package__,
    "spec": __spec__ and __spec__.name, "main": sys.modules["__main__"].__dict__ is globals(),
    "argv": sys.argv, "path": [os.path.abspath(folder) for folder in sys.path],
}))
"""

FORMS = {
    "file": ("", "folder/show.py"),
    "folder": ("", "folder"),
    "archive": ("", "folder.pyz"),
    "module": ("-m", "show"),
    "package": ("-m", "packed"),
}


def written(root: Path) -> None:
    """Write what SHOW is run as, in every form."""
    for name in ("folder/show.py", "folder/__main__.py", "packed/__main__.py", "show.py"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(SHOW)
        (root / name).with_name("beside.py").touch()
    (root / "beside.py").touch()
    (root / "packed" / "__init__.py").touch()
    with zipfile.ZipFile(root / "folder.pyz", "w") as archive:
        for name in ("__main__.py", "beside.py"):
            archive.write(root / "folder" / name, name)


@pytest.mark.parametrize("safe", [(), ("-P",)], ids=["", "safe path"])
@pytest.mark.parametrize("form", FORMS)
def test_a_script_finds_what_it_finds_under_python(
    tmp_path: Path, form: str, safe: tuple[str, ...]
) -> None:
    if safe and sys.version_info < (3, 11):
        pytest.skip("this Python has no safe path")
    written(tmp_path)
    module, script = FORMS[form]
    beside = tmp_path / "folder" if form == "file" else tmp_path
    # What is first on the path is not to be overwritten where Python puts no folder before it.
    sites = (tmp_path / "first", beside) if safe else ()
    plain = python(*safe, *filter(None, [module]), script, "x", sites=sites, cwd=tmp_path)
    done = python(*safe, "-c", EXECUTE, module, script, "x", sites=sites, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (plain.returncode, plain.stderr) == (0, "")
    assert json.loads(done.stdout) == json.loads(plain.stdout)


PICKLING = """
import atexit, dataclasses, multiprocessing, pickle

@dataclasses.dataclass
class Trained:
    loss: float

def train(results):
    results.put(Trained(0.5))

def keep():
    print(pickle.loads(pickle.dumps(Trained(1.0))), flush=True)

if __name__ == "__main__":
    atexit.register(keep)  # behind the script's last line
    spawning = multiprocessing.get_context("spawn")
    results = spawning.Queue()
    child = spawning.Process(target=train, args=(results,))
    child.start()
    print(results.get(timeout=120), flush=True)
    child.join()
"""


@pytest.mark.parametrize(("module", "script"), [("", "train.py"), ("-m", "train")])
@pytest.mark.parametrize("ending", ["", "    raise SystemExit"])
def test_what_a_script_pickles_is_found_in_it(
    tmp_path: Path, module: str, script: str, ending: str
) -> None:
    (tmp_path / "train.py").write_text(PICKLING + ending)
    # As torch does, which a command imports ahead of the script.
    ahead = f"import multiprocessing\n{EXECUTE}"
    done = python("-c", ahead, module, script, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout == "Trained(loss=0.5)\nTrained(loss=1.0)\n"


@pytest.mark.parametrize(
    ("script", "says"),
    [("missing", "there is no module missing to run"), ("xml", "no module xml.__main__ to run")],
)
def test_a_module_that_cannot_be_run_is_named(tmp_path: Path, script: str, says: str) -> None:
    done: subprocess.CompletedProcess[str] = python("-c", EXECUTE, "-m", script, cwd=tmp_path)
    assert done.returncode == 1
    assert says in done.stderr
    assert "negplug" not in done.stderr  # no frame of ours
