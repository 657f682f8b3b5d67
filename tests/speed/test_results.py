"""What the speed scripts measured: rows are kept, and every device has its page."""

import csv
from pathlib import Path

import pytest
import scripts
import torch

SPEED = scripts.BENCHMARKS / "speed"


@pytest.fixture(autouse=True)
def _scripts_on_the_path(monkeypatch):
    yield from scripts.on_the_path(SPEED, monkeypatch)


def row(competitor, median, **more):
    """Return a row of ``overhead`` as a CPU's, or as a card's if ``more`` names one."""
    where = {"device": "cuda" if "gpu" in more else "cpu"}
    where |= {"gpu": more.pop("gpu")} if "gpu" in more else {}
    where |= dict.fromkeys(("cpu_model", "torch", "hosts"), "some")
    where |= {"threads": 1, "huge_pages": "0", "date": "2026-01-01"}
    setting = {"question": "overhead", "competitor": competitor, "batch_size": 8}
    return {**setting, **where, "median_ms": median, **more}


def rows_of(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_older_rows_are_empty_where_there_is_a_new_column(tmp_path):
    from harness import append

    append([row("old", 1.0)], tmp_path)
    path = append([row("new", 2.0, ratio_to_lightly=3.0)], tmp_path)
    old, new = rows_of(path)
    assert (old["median_ms"], old["ratio_to_lightly"]) == ("1.0", "")
    assert (new["median_ms"], new["ratio_to_lightly"]) == ("2.0", "3.0")


def test_a_file_with_an_unknown_column_stays_as_it_is(tmp_path):
    from harness import append

    path = append([row("old", 1.0, forgotten=5)], tmp_path)
    before = path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"\['forgotten'\]: move it away"):
        append([row("new", 2.0)], tmp_path)
    assert path.read_text(encoding="utf-8") == before


def test_a_card_has_a_page_of_its_own_and_its_targets_on_the_first(tmp_path):
    from harness import append
    from report import write

    append([row("in_batch()", 1.0, ratio_to_lightly=1.5)], tmp_path)
    card = {"gpu": "Card X1", "host_waits": 2}
    append([row("in_batch()", 0.25, ratio_to_lightly=8.0, **card)], tmp_path / "card-x1")
    first = write(tmp_path).read_text(encoding="utf-8")
    second = (tmp_path / "card-x1" / "speed.md").read_text(encoding="utf-8")
    waits = "| host waits of a steady step, worst of samplers | ≤ 0 | 2 | **missed** |"
    for page in (first, second):
        assert waits in page
    assert "| `in_batch()` on one core against Lightly, B = 8 | ≥ 1× | 1.5× | met |" in first
    assert "[All tables](card-x1/speed.md)" in first
    assert "Card X1 beside 1 threads of some" in second
    assert "Card X1 beside" not in first
    assert "0.25" in second
    assert "0.25" not in first


def test_no_time_is_less_than_the_floor_of_its_work():
    from ceilings import Ceilings, contrastive

    given = Ceilings({"float32": 1e12}, 1e10)
    many, few = contrastive(512, 64, None), contrastive(512, 64, 2)
    # 1,024² pairs take six products of 64 each, and 1,024 rows of 64 are moved three times.
    assert given.floor_ms(many, "float32") == pytest.approx(1e3 * 6 * 64 * 1024**2 / 1e12)
    assert given.floor_ms(few, "float32") == pytest.approx(1e3 * 3 * 4 * 64 * 1024 / 1e10)


def test_writes_count_what_computes_and_no_views():
    from overhead import Writes

    x = torch.ones(4, 4)
    with Writes() as counted:
        x.T.reshape(2, 8)[0].detach()
        torch.empty(3)
    assert counted.count == 1  # the reshaped transpose is a copy
    with Writes() as counted:
        x.view(16)[3:].add_(1)
    assert counted.count == 1


def test_a_device_that_is_not_there_is_refused():
    import devices
    import typer

    for name in ("tpu", "meta") if torch.cuda.is_available() else ("cuda", "meta"):
        with pytest.raises(typer.BadParameter):
            devices._known(name)
    assert devices.results_of(Path("results"), devices.CPU) == Path("results")
