"""How many cases Hypothesis tries: few and always the same ones, or many and new ones.

``pytest tests/fuzz`` takes a minute and tries the same cases every time, so that a change is never
refused for something it did not touch. ``make fuzz``, which is ``HYPOTHESIS_PROFILE=thorough pytest
tests/fuzz``, tries ten times as many, other ones each time.
"""

import os

from hypothesis import HealthCheck, settings

COMMON = dict(
    deadline=None,  # the first case imports and compiles
    database=None,
    # what a case may draw from a fixture here does not change from case to case
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

settings.register_profile('quick', max_examples=100, derandomize=True, **COMMON)
settings.register_profile('thorough', max_examples=1000, print_blob=True, **COMMON)
settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'quick'))
