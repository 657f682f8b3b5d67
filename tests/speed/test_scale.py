"""The model on paper of many GPUs, and the page that shows it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import scripts

SCALE = scripts.BENCHMARKS / "scale"


@pytest.fixture
def model(monkeypatch):
    imported = scripts.on_the_path(SCALE, monkeypatch)
    next(imported)
    import model

    yield model
    next(imported, None)


def test_the_page_has_the_scripts_table_and_constants(model):
    text = model.PAGE.read_text(encoding="utf-8")
    assumed = model.Assumed()
    assert model.page(text, assumed) == text, "run python benchmarks/scale/model.py --write"
    for said in (
        *(f"{rate:.0f} TFLOP/s" for rate in model.RATES.values()),
        f"{assumed.inside:.0f} GB/s",
        f"{assumed.between:.0f} GB/s",
        f"{assumed.latency:.0f} µs",
    ):
        assert said in text


def test_without_links_both_take_the_time_of_the_products(model):
    free = replace(model.Assumed(), inside=1e9, between=1e9, latency=0.0)
    products = 8 * 2 * 4096 * 2 * 32_768 * 128 / (1e12 * free.rate)
    for cost in (model.gathered, model.around):
        found = cost(8, 32_768, free)
        assert found.seconds == pytest.approx(products, rel=1e-4)
        assert found.waits == pytest.approx(0.0, abs=1e-4)


def test_what_the_page_concludes_follows(model):
    assumed = model.Assumed()

    def ratio(gpus, each):
        costs = (cost(gpus, each * gpus, assumed) for cost in (model.around, model.gathered))
        ring, gathered = (cost.seconds for cost in costs)
        return ring / gathered

    assert all(ratio(gpus, 1_500) > 1 > ratio(gpus, 2_500) for gpus in (8, 64, 1024))
    assert ratio(1024, 32) == pytest.approx(20, rel=0.05)
    for gpus, samples in ((8, 4_000), (64, 10_000), (1024, 10_000)):
        assert model.around(gpus, samples * gpus, assumed).waits < 0.03
        assert model.around(gpus, samples * gpus // 2, assumed).waits > 0.3
