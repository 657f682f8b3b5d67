"""docs/your-own-sampler.md runs as written."""

import importlib
import re
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (CHECKOUT / page).read_text(), flags=re.DOTALL)


@pytest.fixture
def module_of(tmp_path, monkeypatch):
    """Make a module of source text; ranks can import it too."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(source):
        (tmp_path / "of_a_page.py").write_text(source)
        return importlib.import_module("of_a_page")

    yield make
    sys.modules.pop("of_a_page", None)


def test_every_block_of_the_page_runs_in_order(module_of):
    found = blocks("docs/your-own-sampler.md")
    assert len(found) == 6
    page = module_of("\n".join(found))
    page.test_the_samplers_of_this_page()
    page.test_a_violation_is_named()


@pytest.mark.parametrize(("kind", "most"), [("Whole pools", 5), ("Remembering", 10)])
def test_an_author_meets_as_few_concepts_as_the_page_promises(kind, most):
    sections = (CHECKOUT / "docs/your-own-sampler.md").read_text().split("\n## ")
    names = set()
    for section in sections:
        if section.startswith(("Whole pools", kind)):
            for block in re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL):
                for line in re.findall(r"from negplug import (.*)", block):
                    names |= {name.strip() for name in line.split(",")}
    # The hook's marker is a decorator that is copied, the batch an argument; count the batch.
    assert len(names - {"hookimpl"} | {"batch"}) <= most
