"""`report.html`: the report's twin, which needs nothing beside it and loads nothing."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("optuna")
pytest.importorskip("matplotlib")

from negplug.cli.sweep.figures import Picture, draw_pictures
from negplug.cli.sweep.html import write_html
from negplug.cli.sweep.report import write_report
from negplug.cli.sweep.study import Result, Run
from negplug.cli.sweep.summary import Summary

UNIFORM = "uniform(num_negatives=4)"
COUNT = "negplug/criterion/num_negatives"

# Names and logs are what scripts make of them.
HOSTILE = (
    '<img src="https://example.org/a.png">',
    "![shown](https://example.org/b.png)",
    "<script>alert(1)</script>",
    "<details> & </details>",
)


class Page(HTMLParser):
    """A page taken apart; fails at what is not closed."""

    VOID = ("meta", "img", "br", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.rows: list[list[str]] = []
        self.styles = self.preformatted = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.styles += data
        if "pre" in self.open:
            self.preformatted += data
        if self.rows and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def sources(self) -> list[str]:
        return [value or "" for name, value in self.attributes if name == "src"]


def report(
    folder: Path, metric: str = "acc", error: str = ""
) -> tuple[Page, Summary, list[Picture]]:
    """Write both forms of a report of runs that are made up here."""
    results = []
    for sampler, number in (("baseline", 8), (UNIFORM, 4)):
        for lr in ("0.1", "0.3"):
            for seed in range(2):
                metrics = {metric: seed / 7, COUNT: float(number)}
                results.append(Result(Run(sampler, seed, (("lr", lr),)), 1.5, metrics))
    failures = {Run(UNIFORM, 7): error} if error else {}
    summary = Summary(results, [], metric)
    pictures = draw_pictures(summary, folder)
    write_report(summary, failures, "negplug sweep script.py", pictures, folder / "report.md")
    write_html(folder / "report.md", pictures, folder / "report.html")
    return Page((folder / "report.html").read_text(encoding="utf-8")), summary, pictures


def test_it_has_the_tables_and_the_very_pictures(tmp_path: Path) -> None:
    page, summary, pictures = report(tmp_path)
    assert page.rows[:3] == [summary.header(), *summary.rows()]
    assert page.rows[3:] == [summary.header(), *summary.all_rows()]
    assert page.tags.count("details") == page.tags.count("summary") == 1
    prefix = "data:image/png;base64,"
    held = [base64.b64decode(source.removeprefix(prefix)) for source in page.sources()]
    assert held == [(tmp_path / picture.file).read_bytes() for picture in pictures]
    assert len(held) == 2
    assert "negplug sweep script.py" in page.preformatted


def test_it_is_readable_in_light_and_dark_and_on_a_narrow_screen(tmp_path: Path) -> None:
    page, _, _ = report(tmp_path)
    assert "prefers-color-scheme: dark" in page.styles
    assert "color-scheme: light dark" in page.styles
    assert ("name", "viewport") in page.attributes
    # Wide tables scroll by themselves.
    assert page.attributes.count(("class", "scroll")) == page.tags.count("table") == 2


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_loaded_whatever_a_metric_is_called(tmp_path: Path, name: str) -> None:
    page, summary, _ = report(tmp_path, name, error=f"{name}\n```\n{name}")
    assert all(source.startswith("data:image/png;base64,") for source in page.sources())
    assert len(page.sources()) == 2
    loading = ("href", "srcset", "data", "action", "onerror")
    assert not [each for each in page.attributes if each[0] in loading]
    assert {value for name, value in page.attributes if name == "style"} == {"text-align:right"}
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert page.tags.count("details") == 1
    assert "url(" not in page.styles
    assert "@import" not in page.styles
    if name.startswith("<"):
        assert page.rows[0] == summary.header()  # shown as text
    assert page.preformatted.count(name) == 2
