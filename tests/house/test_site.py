"""The site says what is there: files, tests, names and messages that its pages speak of exist."""

import importlib.util
import inspect
import json
import re
import sys
from pathlib import Path

import pytest
import torch

import negplug
from negplug.contract import variables
from negplug.plugins.manager import plugins

CHECKOUT = Path(__file__).parents[2]
DOCS = CHECKOUT / "docs"

PAGES = sorted(DOCS.rglob("*.md"))


def script(name):
    """Import a script of the site."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", DOCS / "scripts" / f"{name}.py")
    # Dataclasses look their module up.
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def built_in(kind):
    return [
        provided.spec.name
        for provided in plugins().provided(kind)
        if provided.plugin.distribution == "negplug"
    ]


@pytest.mark.parametrize(
    "page", [*PAGES, CHECKOUT / "README.md"], ids=lambda path: path.relative_to(CHECKOUT).as_posix()
)
def test_the_files_and_tests_that_a_page_names_exist(page):
    where = r"(?:negplug\w*|tests|benchmarks|docs|examples|integrations|requirements)"
    for path, test in re.findall(rf"`({where}/[\w./-]+)(?:::(\w+))?`", page.read_text()):
        if "/LOSS/" in path:
            continue  # what is logged
        file = CHECKOUT / path
        assert file.exists(), path
        assert not test or f"def {test}(" in file.read_text(), f"{path}::{test}"


def test_the_diagram_names_files_that_exist():
    way = script("way")
    assert way.FIGURE.read_text() == way.drawing()
    for _, files in way.STEPS:
        for line in files:
            first, *others = line.split(", ")
            assert (CHECKOUT / first).exists(), first
            folder = (CHECKOUT / first).parent
            for other in others:
                assert other == "…" or (folder / other).exists(), other


def test_a_notebook_is_what_its_page_says():
    notebooks = script("notebooks")
    pages = notebooks.pages()
    assert len(pages) == 4
    for page in pages:
        text = page.read_text(encoding="utf-8")
        own = page.with_suffix(".ipynb")
        written = own.read_text(encoding="utf-8")
        assert written == notebooks.notebook(text), "run docs/scripts/notebooks.py"
        assert f"/blob/main/docs/tutorials/{own.name})" in text  # the link that opens it
        cells = json.loads(written)["cells"]
        blocks = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"][1:]
        source = re.findall(r"(?ms)^```python\n(.*?)^```", notebooks.whole(text))
        assert [block + "\n" for block in blocks] == source
        for link in re.findall(r"\]\((https://github.com/[^)#]+)", written):
            assert (CHECKOUT / link.partition("/blob/main/")[2]).exists(), link


@pytest.mark.parametrize(("kind", "folder"), [("sampler", "samplers"), ("objective", "objectives")])
def test_each_has_a_page_of_the_same_form_and_a_small_picture(kind, folder):
    names = built_in(kind)
    assert {path.stem for path in (DOCS / folder).glob("*.md")} == {*names, "index"}
    index = (DOCS / folder / "index.md").read_text()
    for name in names:
        text = (DOCS / folder / f"{name}.md").read_text()
        headings = re.findall(r"(?m)^## (.*)", text)
        assert headings == [
            "Equation",
            "When it helps",
            "When it does not",
            "Use it",
            "Arguments and source",
        ]
        assert f"]({name}.md)" in index
        picture = DOCS / "figures" / folder / f"{name}.svg"
        assert picture.name in text
        assert 1_000 < picture.stat().st_size < 60_000


def test_a_picture_is_of_what_its_page_says(monkeypatch):
    gallery = script("gallery")
    assert set(gallery.DRAWN) == set(built_in("sampler"))
    for name, drawn in gallery.DRAWN.items():
        assert f"`{drawn}`" in (DOCS / "samplers" / f"{name}.md").read_text()
    monkeypatch.setenv("NEGPLUG_BACKEND", "torch")  # numba would compile first
    monkeypatch.setattr(gallery, "WARM", 2)
    monkeypatch.setattr(gallery, "COUNTED", 6)
    _, labels = gallery.data()
    own = {index for index, label in enumerate(labels.tolist()) if label == labels[gallery.ANCHOR]}
    given = {name: gallery.counted(name).given for name in ("in_batch", "filtered", "queue")}
    assert {index for index, _ in given["in_batch"]} & own
    assert not {index for index, _ in given["filtered"]} & own
    assert {ring for _, ring in given["queue"]} == {1, 2, 3, 4}  # a batch each


def test_the_pushes_of_the_objectives_pictures(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "scripts")
    pulls = script("pulls")
    assert {*pulls.DRAWN, "relic", "sogclr", "isogclr"} == set(built_in("objective"))
    loss_fn = negplug.ContrastiveLoss(temperature=pulls.TEMPERATURE)
    found = pulls.pushes(loss_fn, pulls.SIMILARITIES)
    scores = (torch.cat([pulls.SIMILARITIES, torch.tensor([pulls.POSITIVE])]) / 0.3).softmax(0)
    torch.testing.assert_close(found, scores[:-1] / pulls.TEMPERATURE)


def test_every_way_in_is_on_a_samplers_page():
    for name in built_in("sampler"):
        text = (DOCS / "samplers" / f"{name}.md").read_text()
        for way in ("negplug run --sampler", "NegativeControl(", "negplug.ContrastiveLoss("):
            assert way in text, (name, way)


def test_the_reference_has_every_public_name():
    reference = "".join(
        (DOCS / "reference" / f"{p}.md").read_text() for p in ("python", "plugins", "hooks")
    )
    for name in negplug.__all__:
        if name != "hookimpl":
            assert re.search(rf"(?m)^::: negplug\.[\w.]+\.{name}$", reference), name
    for home in re.findall(r"(?m)^::: (\S+)", reference):
        module, _, name = home.rpartition(".")
        assert importlib.util.find_spec(module), home
        assert name in inspect.getsource(importlib.import_module(module)), home


def test_every_variable_is_on_its_page():
    text = (DOCS / "reference" / "environment.md").read_text()
    named = set(re.findall(r"^\| `NEGPLUG_(\w+)`", text, flags=re.MULTILINE))
    assert named == set(variables.NAMES)


def test_each_cure_is_of_a_message_that_is_said():
    said = [message.text for message in script("messages").messages(CHECKOUT)]
    assert len(said) > 250
    cured = re.findall(r"(?m)^### `(.*)`$", (DOCS / "reference" / "errors.md").read_text())
    assert len(cured) > 15
    for text in cured:
        assert any(text in message for message in said), text


def test_messages_are_read_off_the_source(tmp_path):
    package = tmp_path / "negplug"
    package.mkdir()
    (package / "a.py").write_text(
        "def f(x):\n"
        "    if x:\n        raise ValueError(f'{x} is too much; ' + 'lower it')\n"
        "    warnings.warn('this is deprecated by now', stacklevel=2)\n"
        "    raise broken('a part is missing here')\n"
    )
    found = [(m.line, m.kind, m.text) for m in script("messages").messages(tmp_path)]
    assert sorted(found) == [
        (3, "ValueError", "… is too much; lower it"),
        (4, "warning", "this is deprecated by now"),
        (5, "error", "a part is missing here"),
    ]


def test_the_readme_is_what_one_reads_before_deciding():
    text = (CHECKOUT / "README.md").read_text()
    assert len(text.splitlines()) < 120
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (CHECKOUT / target).exists(), target
    for kind in ("sampler", "objective"):
        for name in built_in(kind):
            assert f"`{name}`" in text, name
