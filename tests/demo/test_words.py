"""What the page says of a comparison: true to the numbers, and harmless."""

import dataclasses
import re

import numpy as np
import pytest

from segformer_plusplus.demo import Outcome, Result, words
from segformer_plusplus.demo.comparison import Entry

PICTURE = np.zeros((4, 6, 3), np.uint8)
RESULT = Result(
    'hq', Outcome(PICTURE, PICTURE, PICTURE, 'x & y', (Entry('<b>', (1, 2, 3), '5 %'),)), (), 1, 1
)


@pytest.mark.parametrize(
    'unmerged, merged, said, advice',
    [
        (2.0, 1.0, '<b>2.00 times as fast</b> as without merging', False),
        (1.06, 1.0, '<b>1.06 times as fast</b>', False),
        (1.02, 1.0, 'as fast as without merging, as far as', True),
        (1.0, 1.02, 'as fast as without merging, as far as', True),
        (1.0, 1.5, '<b>slower</b> than without merging here, by 50%', True),
    ],
)
def test_fast_and_slow(comparer, unmerged, merged, said, advice):
    result = dataclasses.replace(RESULT, seconds=merged, seconds_unmerged=unmerged)
    found = words.summary(result, '["a"]', comparer)
    assert said in found and '6 x 4 pixels' in found and 'x &amp; y' in found
    assert ('pays on larger images' in found) == advice
    assert 'data-of="[&quot;a&quot;]"' in found


def test_nothing_is_merged(comparer):
    found = words.summary(dataclasses.replace(RESULT, preset='none'), '', comparer)
    assert 'nothing is merged' in found and 'fast' not in found


def test_times_and_legend(comparer):
    result = dataclasses.replace(RESULT, seconds=0.5, seconds_unmerged=2)
    found = words.details(result, comparer)
    assert re.findall(r'<td>([^<]+)</td>', found) == ['2.00 s', '500 ms']
    assert 'width: 100%' in found and 'width: 25%' in found
    assert '&lt;b&gt;' in found and 'rgb(1, 2, 3)' in found and '5 %' in found
    assert '<td>' not in words.details(dataclasses.replace(result, preset='none'), comparer)[:50]


def test_an_error_is_another_each_time():
    first, second = words.error('<x>'), words.error('<x>')
    assert first != second and '&lt;x&gt;' in first and 'role="alert"' in first
    assert words.note([]) == ''
