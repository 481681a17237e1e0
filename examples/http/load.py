"""Asks a running serve.py for masks, many callers at a time: load.py PICTURES... --clients 20.

It needs more than the package: pip install 'httpx>=0.24.1,<1'.
"""

from __future__ import annotations

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from mimetypes import guess_type
from pathlib import Path
from time import perf_counter

import httpx
import numpy as np

from segformer_plusplus.cli.options import Positive, command


@command
def main(
    pictures: list[Path],
    /,
    *,
    url: str = 'http://127.0.0.1:8000',
    clients: Positive = 20,
    each: Positive = 10,
) -> int:
    """Print masks per second, the median and the 99th percentile of the seconds, and what was lost.

    Exit code: 1 if any request got another answer than a mask, or none.

    Args:
        pictures: image files, which are sent in turn.
        url: of the service.
        clients: callers at a time, each of which waits for an answer before it asks again.
        each: pictures of one caller.
    """
    bodies = [(path.read_bytes(), guess_type(path)[0] or '') for path in pictures]

    def call(number: int) -> list[tuple[str, float]]:
        with httpx.Client(base_url=url, timeout=600) as client:
            return [ask(client, *body) for body in islice(cycle(bodies), number, number + each)]

    start = perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = [answer for some in pool.map(call, range(clients)) for answer in some]
    took = perf_counter() - start
    outcomes = Counter(outcome for outcome, _ in answers)
    seconds = [time for outcome, time in answers if outcome == '200']
    median, slow = np.percentile(seconds, [50, 99]) if seconds else (np.nan, np.nan)
    lost = len(answers) - len(seconds)
    print(
        f'{clients} clients, {len(answers)} requests, {took:.1f} s: {len(seconds) / took:.2f} '
        f'masks/s, p50 {median:.2f} s, p99 {slow:.2f} s, {lost} lost ({dict(outcomes)})'
    )
    return int(lost > 0)


def ask(client: httpx.Client, picture: bytes, kind: str) -> tuple[str, float]:
    """Returns the status of the answer, or why there is none, and the seconds until then."""
    start = perf_counter()
    try:
        answer = client.post('/masks', content=picture, headers={'Content-Type': kind})
        outcome = str(answer.status_code)
    except httpx.HTTPError as error:
        outcome = type(error).__name__
    return outcome, perf_counter() - start


if __name__ == '__main__':
    sys.exit(main(prog='python examples/http/load.py'))
