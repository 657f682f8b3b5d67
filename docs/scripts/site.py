"""Hooks of the site's build: equations, and the pages that are made from the source.

``mkdocs.yml`` names this file. Pages that only repeat the source are written while the site is
built, so that they cannot fall behind it: the command line, and what lies outside of ``docs/`` (the
changelog, the measured tables). So is the list of every message, which is a part of a page.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from messages import PLACE, messages_list
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]

# Page of the site: file of the repository.
COPIED = {
    "changelog.md": "CHANGELOG.md",
    "results/speed.md": "benchmarks/results/speed.md",
    "studies/emc2.md": "benchmarks/studies/emc2/README.md",
    "studies/less_is_more.md": "benchmarks/studies/less_is_more/README.md",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Set equations: fences that are marked ``math``, as repository hosts show them too."""
    fence = {"name": "math", "class": "equation", "format": equation}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    return config


def equation(source: str, *_: Any, **__: Any) -> str:
    """Return a line of LaTeX each as MathML, which browsers set without a script."""
    lines = [line for line in source.splitlines() if line.strip()]
    return "".join(
        f'<div class="equation">{convert(line, display="block")}</div>' for line in lines
    )


def on_page_markdown(markdown: str, **_: Any) -> str:
    """List every message where a page asks for it."""
    return markdown.replace(PLACE, messages_list(ROOT)) if PLACE in markdown else markdown


def on_page_content(html: str, **_: Any) -> str:
    """Leave out what is reStructuredText's in docstrings: roles of names, colons before code."""
    html = re.sub(r":(?:class|func|meth|mod|data|attr):(?=<code>)", "", html)
    return html.replace("::</p>", ":</p>")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the source."""
    made = {"reference/cli.md": command_line()}
    for page, path in COPIED.items():
        # The studies lie a folder deeper than on the site.
        made[page] = (ROOT / path).read_text(encoding="utf-8").replace("](../../", "](../")
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    results = ROOT / "benchmarks" / "results"
    for path in sorted([*results.glob("*.png"), *results.glob("*.csv")]):
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def command_line() -> str:
    """Return the page of the command line, in typer's words."""
    command = (sys.executable, "-m", "typer", "negplug.cli", "utils", "docs", "--name", "negplug")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    text = re.sub(r"^# `negplug`\n", "# Command line\n", done.stdout.lstrip())
    return re.sub(r"(?m)^\$ ", "", text)
