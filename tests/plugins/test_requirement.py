"""The hook specification has a version, which listings show and a plugin can ask for."""

from __future__ import annotations

import json
from importlib.metadata import version
from types import SimpleNamespace

import pytest
from distributions import python
from example_plugins import BROKEN, succeeded

from negplug import HOOKSPEC_VERSION
from negplug.plugins import requirement
from negplug.plugins.requirement import check_requirement

WRITTEN = "{}.{}".format(*HOOKSPEC_VERSION)
HAS = f"and negplug {version('negplug')} has {WRITTEN}; install a newer"


def test_listings_show_the_version(plugins_json, tmp_path):
    assert plugins_json["hook_specification"] == WRITTEN
    alone = {"NEGPLUG_DISABLE_AUTOLOAD": "1"}
    done = succeeded(python("-m", "negplug", "plugins", cwd=tmp_path, **alone))
    assert f"hook specification {WRITTEN}" in done.stdout
    done = succeeded(python("-m", "negplug", "doctor", "--json", cwd=tmp_path, **alone))
    assert json.loads(done.stdout)["hook_specification"] == WRITTEN


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("needs-newer", f"needs hook specification 1.99, {HAS} negplug"),
        ("needs-older", f"needs hook specification 0.3, {HAS} plugin"),
        ("needs-nonsense", "REQUIRES_HOOKSPEC must be two integers, such as (1, 0), got '1.0'"),
    ],
)
def test_a_plugin_for_another_version_is_left_out_with_one_sentence(facts, name, sentence):
    """The first implements a hook that is unknown here, which is not what is told of it."""
    (message,) = [text for _, text in facts["warnings"] if f"plugin {name} {BROKEN}" in text]
    assert message.endswith(f": {sentence}")


@pytest.mark.parametrize("needed", [(2, 0), (2, 5), (2, 7)])
def test_an_earlier_minor_version_is_contained(monkeypatch, needed):
    monkeypatch.setattr(requirement, "HOOKSPEC_VERSION", (2, 7))
    check_requirement(SimpleNamespace(REQUIRES_HOOKSPEC=needed))
    check_requirement(SimpleNamespace())


@pytest.mark.parametrize("needed", [(2, 8), (3, 0), (1, 7), (1, 9)])
def test_a_later_minor_version_and_another_major_one_are_not(monkeypatch, needed):
    monkeypatch.setattr(requirement, "HOOKSPEC_VERSION", (2, 7))
    newer = "plugin" if needed[0] == 1 else "negplug"
    with pytest.raises(RuntimeError, match=f"install a newer {newer}$"):
        check_requirement(SimpleNamespace(REQUIRES_HOOKSPEC=needed))


@pytest.mark.parametrize("needed", [None, 1, (1,), (1, 0, 0), (1, True), [1, 0], (1.0, 0)])
def test_what_is_no_version_is_refused(needed):
    with pytest.raises(TypeError, match=r"must be two integers, such as \(1, 0\), got "):
        check_requirement(SimpleNamespace(REQUIRES_HOOKSPEC=needed))
