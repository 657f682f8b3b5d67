"""The distribution: what is in the wheel, what an import costs, and who may import whom."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

import pytest
from distributions import CHECKOUT, build_wheel, python

import negplug

PACKAGES = {"negplug", "negplug_adapters", "negplug_lightly", "negplug_solo"}

ADAPTERS = {"negplug_adapters", "negplug_lightly", "negplug_solo"}

HOSTS = {
    *("lightly", "solo", "lightning", "pytorch_lightning", "lightning_fabric"),
    *("pytorch_metric_learning", "sentence_transformers", "stable_pretraining"),
    *("lightly_train", "torchgeo"),
}

# Slow to import, and of no use before a command or a Trainer asks for them.
HEAVY = {
    *HOSTS,
    *("typer", "rich", "click", "optuna", "matplotlib", "sklearn", "scipy", "pandas"),
    *("torchvision", "torchmetrics", "hatchling", "pytest"),
}

LOADED = "import json, sys; print(json.dumps(sorted(sys.modules)))"


# --- the wheel ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> dict[str, str]:
    """Build the wheel of this checkout; return its files' texts by path."""
    path = build_wheel(CHECKOUT, tmp_path_factory.mktemp("wheel"))
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def dist_info(wheel: dict[str, str], name: str) -> str:
    (text,) = [
        text
        for path, text in wheel.items()
        if PurePosixPath(path).match(f"negplug-*.dist-info/{name}")
    ]
    return text


def test_the_wheel_holds_four_packages_and_nothing_else(wheel):
    top = {path.partition("/")[0] for path in wheel}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES
    assert len(top) == 5
    assert {p for p in wheel if p.endswith("py.typed")} == {f"{p}/py.typed" for p in PACKAGES}


def test_the_wheel_holds_every_module_of_the_checkout(wheel):
    modules = {
        path.relative_to(root).as_posix()
        for root in (CHECKOUT, CHECKOUT / "integrations")
        for package in PACKAGES
        for path in (root / package).rglob("*.py")
    }
    assert {"negplug/__init__.py", "negplug_solo/plugin.py"} < modules
    assert {path for path in wheel if path.endswith(".py")} == modules


def test_the_wheels_metadata(wheel):
    metadata = HeaderParser().parsestr(dist_info(wheel, "METADATA"))
    assert (metadata["Name"], metadata["Version"]) == ("negplug", negplug.__version__)
    required = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    names = {re.split(r"[^\w-]", line)[0] for line in required}
    assert names == {"torch", "numpy", "pluggy", "typer"}
    assert metadata["License-Expression"] == "Apache-2.0"
    assert dist_info(wheel, "licenses/LICENSE")


def test_the_wheels_entry_points(wheel):
    parser = ConfigParser(delimiters="=")
    parser.optionxform = str  # keep the case
    parser.read_string(dist_info(wheel, "entry_points.txt"))
    assert {section: dict(parser[section]) for section in parser.sections()} == {
        "console_scripts": {"negplug": "negplug.cli:main"},
        "negplug": {
            "lightly": "negplug_lightly.plugin",
            "pytorch-metric-learning": "negplug_adapters.pytorch_metric_learning",
            "sentence-transformers": "negplug_adapters.sentence_transformers",
            "solo-learn": "negplug_solo.plugin",
            "stable-pretraining": "negplug_adapters.stable_pretraining",
        },
        "lightning.pytorch.callbacks_factory": {
            "negplug": "negplug.hosts.trainer.autoload:lightning"
        },
        "pytorch_lightning.callbacks_factory": {
            "negplug": "negplug.hosts.trainer.autoload:pytorch_lightning"
        },
        "torch.backends": {"negplug": "negplug.hosts.arming:arm"},
    }


def test_the_wheel_is_the_package_wherever_it_is_unpacked(wheel, tmp_path):
    """The built files work without the checkout: the adapters are found and can be loaded."""
    site = tmp_path / "site"
    for path, text in wheel.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    script = (
        "import negplug, negplug_lightly, negplug_solo\n"
        "from negplug.plugins.manager import plugins\n"
        "print([entry.spec.name for entry in plugins().provided('adapter')])\n"
        "print([m.__file__ for m in (negplug, negplug_lightly, negplug_solo)])\n"
    )
    done = python("-c", script, sites=(site,), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    adapters, files = map(ast.literal_eval, done.stdout.splitlines())
    assert sorted(adapters) == [
        *("lightly", "pytorch-metric-learning", "sentence-transformers", "solo-learn"),
        "stable-pretraining",
    ]
    assert all(Path(file).is_relative_to(site) for file in files)


# --- what an import costs -----------------------------------------------------------------------


def modules_after(script: str, cwd: Path, **environment: str) -> set[str]:
    """Return what a fresh process has loaded beyond a bare start, after `script`."""
    loaded = []
    for text in (LOADED, f"{script}\n{LOADED}"):
        done = python("-c", text, cwd=cwd, **environment)
        assert done.returncode == 0, done.stderr
        loaded.append(set(json.loads(done.stdout.splitlines()[-1])))
    bare, after = loaded
    return after - bare


def top_level(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def test_a_sampler_needs_torch_and_pluggy_and_nothing_heavier(tmp_path):
    script = "import negplug; print(negplug.make_sampler('uniform(num_negatives=3)'))"
    loaded = top_level(modules_after(script, tmp_path))
    assert {"torch", "pluggy", "negplug"} <= loaded
    # The adapters register without their hosts.
    assert loaded >= ADAPTERS
    assert not loaded & HEAVY


def test_import_negplug_alone_loads_nothing(tmp_path):
    loaded = modules_after("import negplug; negplug.__version__; dir(negplug)", tmp_path)
    assert {name for name in loaded if name.startswith("negplug")} == {"negplug"}
    assert not top_level(loaded) & {"torch", "numpy", "pluggy", *HEAVY}


def test_every_public_name_is_there():
    for name in negplug.__all__:
        # Markers such as hookimpl have no name of their own.
        assert getattr(getattr(negplug, name), "__name__", name) == name
        assert name in dir(negplug)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = negplug.nothing


# --- the door of every Trainer ------------------------------------------------------------------

FACTORIES = """
import importlib.metadata
groups = ("lightning.pytorch.callbacks_factory", "pytorch_lightning.callbacks_factory")
for group in groups:
    (entry,) = importlib.metadata.entry_points(group=group, name="negplug")
    assert entry.load()() == [], group
"""


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NEGPLUG_SAMPLER": "", "NEGPLUG_METRICS": ""},
        {"NEGPLUG_BACKEND": "no such thing(", "NEGPLUG_OBJECTIVE": ""},
        {"NEGPLUG_STRICT": "1", "NEGPLUG_DISABLED_PLUGINS": "\n,;", "NEGPLUG_LIFELINE": "x"},
    ],
    ids=["unset", "empty", "garbage", "plugins"],
)
def test_without_a_sampler_the_factories_return_nothing_and_load_nothing(environment, tmp_path):
    loaded = modules_after(FACTORIES, tmp_path, **environment)
    own = {name for name in loaded if name.startswith("negplug")}
    assert own == {
        "negplug",
        "negplug.contract",
        "negplug.contract.variables",
        "negplug.hosts",
        "negplug.hosts.environment",
        "negplug.hosts.trainer",
        "negplug.hosts.trainer.autoload",
    }
    assert not top_level(loaded) & {"torch", "numpy", "pluggy", *HEAVY}


# --- who may import whom ------------------------------------------------------------------------


def imported(source: str) -> set[str]:
    """Return the modules that a file names in imports, at any depth and by `import_module`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).rpartition(".")[2]
            first = node.args[0]
            if called in ("import_module", "__import__", "importorskip") and isinstance(
                first, ast.Constant
            ):
                names.add(first.value)
    return names


def test_imports_are_recognised():
    source = (
        "import a.b\n"
        "def f():\n    from c.d import e\n    importlib.import_module('g.h')\n"
        "try:\n    __import__('i')\nexcept ImportError:\n    from . import j\n"
    )
    assert imported(source) == {"a.b", "c.d", "g.h", "i"}


def files(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((CHECKOUT / folder).rglob("*.py"))]
    assert found
    return found


@pytest.mark.parametrize("path", files("negplug"), ids=lambda p: p.relative_to(CHECKOUT).as_posix())
def test_the_core_imports_neither_host_nor_adapter(path):
    assert not top_level(imported(path.read_text())) & {*HOSTS, *ADAPTERS}


def test_what_the_core_imports_is_installed_with_it():
    """Or with one of its extras; torch's wheels, for one, do not bring numpy along."""
    project = (CHECKOUT / "pyproject.toml").read_text().partition("[dependency-groups]")[0]
    names = re.findall(r'^ +"([\w-]+)>=', project, re.MULTILINE)
    listed = {name.replace("-", "_") for name in names}
    assert {"torch", "optuna"} < listed
    # typer brings rich, optuna sqlalchemy, torch triton where there is one.
    listed |= {"rich", "sqlalchemy", "triton"}
    others = {"scikit_learn": "sklearn", "markdown_it_py": "markdown_it"}
    there = {others.get(name, name) for name in listed} | set(sys.stdlib_module_names)
    found = {name for path in files("negplug") for name in top_level(imported(path.read_text()))}
    assert found - there - {"negplug"} == set()


@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
def test_an_adapter_imports_no_other_host(adapter):
    own = {"negplug_lightly": "lightly", "negplug_solo": "solo"}.get(adapter)
    other = HOSTS - {own, "lightning", "pytorch_lightning", "lightning_fabric"}
    for path in files(f"integrations/{adapter}"):
        names = top_level(imported(path.read_text()))
        assert not names & {*other, *ADAPTERS - {adapter}}, path


def test_integrations_is_a_folder_and_no_package():
    assert not list((CHECKOUT / "integrations").glob("*.py"))
    for path in files("negplug", "integrations", "tests", "benchmarks"):
        assert "integrations" not in top_level(imported(path.read_text())), path


def test_no_file_names_a_package_registry():
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    # In pieces, so that this file does not name them.
    hosts = [
        ".".join(pieces).encode()
        for pieces in (
            ("pypi", "org"),
            ("pypi", "python", "org"),
            ("pythonhosted", "org"),
            ("anaconda", "org"),
            ("download", "pytorch", "org"),
        )
    ]
    paths = [CHECKOUT / name for name in done.stdout.split("\0") if name]
    assert CHECKOUT / "pyproject.toml" in paths
    for path in paths:
        if path.is_file():
            text = path.read_bytes().lower()
            assert not [host for host in hosts if host in text], path
