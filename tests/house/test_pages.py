"""The site's pages run as written, each on the hosts that it needs."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

mktestdocs = pytest.importorskip("mktestdocs", reason="dev dependency")

DOCS = Path(__file__).parents[2] / "docs"

# What a page imports beside negplug and torch.
NEEDS = {
    "start/lightly.md": ("lightly", "pytorch_lightning", "sklearn"),
    "start/plain-pytorch.md": ("sklearn",),
    "start/own-loss.md": (),
    "start/sampler-author.md": (),
    "diagnostics.md": (),
    "how/accumulate.md": (),
    "how/compose.md": (),
    "tutorials/treat.md": ("lightly", "pytorch_lightning", "sklearn"),
    "tutorials/temperature.md": ("lightly", "pytorch_lightning", "sklearn", "optuna"),
    "tutorials/sampler.md": (),
    "tutorials/diagnose.md": ("lightly", "pytorch_lightning", "sklearn", "matplotlib"),
    "start/solo-learn.md": ("solo.utils.pretrain_dataloader", "pytorch_lightning", "sklearn"),
}

# Its samplers are checked on ranks, which import them: tests/contract/test_own_sampler_page.py.
ELSEWHERE = {"your-own-sampler.md"}


def script(name: str) -> ModuleType:
    """Import a script of the site."""
    spec = importlib.util.spec_from_file_location(f"page_{name}", DOCS / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


def with_code() -> list[str]:
    """Return the pages that have a block of Python, by their place in docs."""
    pages = (path for path in sorted(DOCS.rglob("*.md")) if "```python\n" in path.read_text())
    names = [path.relative_to(DOCS).as_posix() for path in pages]
    return [name for name in names if name not in ELSEWHERE]


def needs(page: str) -> tuple[str, ...]:
    """Return what a page imports: those of samplers and objectives make a callback."""
    return NEEDS.get(page, ("pytorch_lightning",))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", with_code())
def test_the_blocks_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    missing = [name for name in needs(page) if not installed(name)]
    if missing:
        pytest.skip(f"needs {missing[0]}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as a notebook's folder is on its path
    monkeypatch.delitem(sys.modules, "recipe", raising=False)
    monkeypatch.setenv("NEGPLUG_BACKEND", "torch")  # numba compiles for longer than a page takes
    as_read = tmp_path / "page.md"
    as_read.write_text(script("notebooks").whole((DOCS / page).read_text()))
    mktestdocs.check_md_file(as_read, memory=True)
