"""One version everywhere: of the distribution, its citation, its changelog and its hooks."""

from __future__ import annotations

import re
from importlib.metadata import version

from distributions import CHECKOUT

from negplug import HOOKSPEC_VERSION

DATED = re.compile(r"^## (\d+\.\d+\.\d+) \((\d{4}-\d{2}-\d{2})\)$", re.MULTILINE)


def text(name: str) -> str:
    return (CHECKOUT / name).read_text(encoding="utf-8")


def test_the_last_release_of_the_changelog_is_this_version():
    released = DATED.findall(text("CHANGELOG.md"))
    assert released == sorted(released, key=lambda each: each[1], reverse=True)
    number, date = released[0]
    assert f'\nversion = "{number}"\n' in text("pyproject.toml")
    assert version("negplug") == number
    citation = text("CITATION.cff").splitlines()
    assert f"version: {number}" in citation
    assert f"date-released: {date}" in citation


def test_the_changelog_has_the_hook_specification_of_this_version():
    headings = re.findall(r"^### Hook specification (\S+)$", text("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "{}.{}".format(*HOOKSPEC_VERSION)


def test_the_repository_has_one_address():
    """Also in what the repository's host shows to those who report something."""
    files = ("pyproject.toml", "CITATION.cff", ".github/ISSUE_TEMPLATE/config.yml")
    found = [re.findall(r"https://github\.com/[\w-]+/negplug\b", text(name)) for name in files]
    assert all(found)
    assert len(set().union(*found)) == 1
