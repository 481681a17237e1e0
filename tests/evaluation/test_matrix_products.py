"""The rates of plain matrix products."""

import itertools

import pytest

from segformer_plusplus.evaluation.benchmark import complexity as matrix_products


def test_rates(monkeypatch):
    clock = itertools.count(step=0.5)  # every product takes half a second
    monkeypatch.setattr(matrix_products.time, 'perf_counter', lambda: next(clock))
    rates = matrix_products.matrix_product_rates()
    assert list(rates) == ['mm', 'conv1x1']
    assert rates['mm'] == pytest.approx(2 * 2 * 2048**3 / 1e9)
    assert rates['conv1x1'] == pytest.approx(2 * 2 * 1024**2 * 64**2 / 1e9)
