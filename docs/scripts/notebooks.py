"""The tutorials as notebooks: ``python docs/scripts/notebooks.py`` writes them beside their pages.

The pages of ``docs/tutorials/`` are the source: they are read in reviews, run by the tests and
shown on the site. A block of Python becomes a cell of code, all between a cell of text. The recipe
is shown on one page; the others have a mark in its place, which :func:`whole` fills.
``tests/house/test_site.py`` finds a notebook that is not what its page says.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path

TUTORIALS = Path(__file__).parents[1] / "tutorials"

REPOSITORY = "https://github.com/negplug/negplug"

# What a fresh machine lacks; nothing where it is there.
INSTALL = f'%pip install -q "negplug[lightly,sweep,diagnostics] @ git+{REPOSITORY}"'

_BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)

RECIPE = "<!-- recipe.py -->\n"


def whole(page: str) -> str:
    """Return a page with the block that writes ``recipe.py`` in the place of its mark."""
    if RECIPE not in page:
        return page
    block = _BLOCK.search((TUTORIALS / "treat.md").read_text(encoding="utf-8"))
    assert block is not None
    return page.replace(RECIPE, block[0])


def notebook(page: str) -> str:
    """Return a page as the text of a notebook."""
    # Where the notebook is open already, the link to it is left out.
    page = re.sub(r"(?m)^This page is a notebook too: .*\n\n?", "", whole(page))
    page = re.sub(r"\]\((?!https:)([^)]+)\)", _address, page)
    cells = [_cell("code", INSTALL)]
    for number, part in enumerate(_BLOCK.split(page)):
        if part.strip():
            cells.append(_cell("code" if number % 2 else "markdown", part.strip()))
    cells[:2] = cells[1::-1]  # the title comes first
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    content = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 4}
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def pages() -> list[Path]:
    """Return the pages that are notebooks too."""
    return sorted(path for path in TUTORIALS.glob("*.md") if path.stem != "index")


def _address(link: re.Match[str]) -> str:
    """Return a link to a page of the site as one to its file in the repository."""
    return f"]({REPOSITORY}/blob/main/{posixpath.normpath(f'docs/tutorials/{link[1]}')})"


def _cell(kind: str, text: str) -> dict[str, object]:
    code = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, **code, "source": text.splitlines(keepends=True)}


if __name__ == "__main__":
    for path in pages():
        path.with_suffix(".ipynb").write_text(notebook(path.read_text("utf-8")), "utf-8")
