"""Variables of the environment: flags in any usual spelling, and those without effect named."""

from __future__ import annotations

import pytest

from negplug.contract import variables
from negplug.contract.variables import check_effect, flag
from negplug.plugins.manager import Plugins


@pytest.mark.parametrize("value", ["1", "true", "True", "YES", " on "])
def test_yes(value):
    assert flag("NEGPLUG_STRICT", {"NEGPLUG_STRICT": value})


@pytest.mark.parametrize("environ", [{}, *({"FLAG": v} for v in ("", "0", "false", "No", "OFF"))])
def test_no(environ):
    assert not flag("FLAG", environ)


@pytest.mark.parametrize("name", ["NEGPLUG_STRICT", "NEGPLUG_DISABLE_AUTOLOAD"])
@pytest.mark.parametrize("value", ["2", "maybe", "y" * 10_000])
def test_neither_yes_nor_no_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}='.*' is neither yes nor no; write 1") as caught:
        Plugins({name: value})
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", ["true", "yes"])
def test_a_flag_in_words_has_its_effect(value, sites, monkeypatch):
    for site in sites:
        monkeypatch.syspath_prepend(site)
    found = Plugins({"NEGPLUG_DISABLE_AUTOLOAD": value}).plugins
    assert {info.status for info in found if info.distribution != "negplug"} == {"disabled"}


@pytest.mark.parametrize(
    "environ",
    [
        {"NEGPLUG_OBJECTIVE": "decoupled()"},
        {"NEGPLUG_TEMPERATURE": "0.2", "NEGPLUG_SAMPLER": ""},
        {"NEGPLUG_TEMPERATURE": "x" * 10_000},
        {"NEGPLUG_ACCUMULATE": "8"},
        {"NEGPLUG_COMPOSE": "clustered()"},
    ],
)
def test_a_part_of_a_treatment_without_a_sampler_is_refused(environ):
    with pytest.raises(ValueError, match="has no effect without NEGPLUG_SAMPLER; set") as caught:
        check_effect(environ)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("NEGPLUG_SAMPLR", "did you mean NEGPLUG_SAMPLER?"),
        ("NEGPLUG_STRCT", "did you mean NEGPLUG_STRICT?"),
        ("NEGPLUG_TEMPRATURE", "did you mean NEGPLUG_TEMPERATURE?"),
        ("NEGPLUG_DISABLE_PLUGINS", "did you mean NEGPLUG_DISABLED_PLUGINS?"),
        ("negplug_sampler", "did you mean NEGPLUG_SAMPLER?"),
        ("NEGPLUG_TEMP", "did you mean NEGPLUG_TEMPERATURE?"),
        ("NEGPLUG_TAU", "behind NEGPLUG_ there may be SAMPLER, OBJECTIVE, "),
    ],
)
def test_an_unknown_name_is_named_once(given, said, caplog, monkeypatch):
    monkeypatch.setattr(variables, "_said", set())
    for _ in range(2):
        check_effect({given: "in_batch()"})
    (message,) = caplog.messages
    assert message.startswith(f"negplug: {given} is no variable of negplug and has no effect; ")
    assert said in message


def test_what_has_an_effect_and_what_is_not_ours_is_not_named(caplog):
    check_effect({"NEGPLUG_SAMPLER": "in_batch()", "NEGPLUG_OBJECTIVE": "infonce()"})
    check_effect({"NEGPLUG_OBJECTIVE": "", "NEGPLUG_STRICT": "1", "SAMPLER": "x"})
    check_effect({"NEGPLUG_TEST_DEVICE": "cuda", "NEGPLUG_COVERAGE": "1"})
    check_effect({"NEGPLUG_CALL_RECORD": "/x", "NEGPLUG_LIFELINE": "3"})
    assert not caplog.messages
