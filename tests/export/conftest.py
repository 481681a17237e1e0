"""Small models for the tests of the export."""

import pytest
from export_models import build_segmentor


@pytest.fixture(scope='session')
def build():
    """A tiny segmentor, as a function of its strategies."""
    return build_segmentor
