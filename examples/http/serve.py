"""Answers pictures with label maps over HTTP: serve.py MODEL [CHECKPOINT]; see README.md beside it.

It needs more than the package: pip install 'fastapi>=0.115.2,<1' 'uvicorn>=0.14'.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from queue import Queue
from threading import Thread
from time import perf_counter
from types import FrameType
from typing import Annotated, Any

import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from PIL import Image
from starlette.requests import ClientDisconnect

from segformer_plusplus.cli.options import Flat, Positive, command
from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.inference import Segmenter
from segformer_plusplus.inference.writing import colour_mask
from segformer_plusplus.loading.images import FORMATS, open_image, reading

Image.init()
TYPES = {Image.MIME[name] for name in FORMATS if name in Image.MIME}
UNREAD = {'Connection': 'close'}  # a body that nobody reads ends its connection
SENT = 'sent'  # the name of every picture in messages
GONE = 499  # nginx's number for a caller that went away; it is counted, nobody gets it


@dataclass(frozen=True)
class Limits:
    """What is taken.

    Attributes:
        queue: requests at a time, from their first line to their answer.
        max_bytes: of a picture's file.
        max_pixels: of a picture.
        seconds: for a body to arrive.
    """

    queue: Positive = 16
    max_bytes: Positive = 2**24
    max_pixels: Positive = 2**23
    seconds: Positive = 30


@dataclass
class Job:
    """A picture and what becomes of it."""

    picture: bytes
    mask: Future[bytes]


class Service:
    """Predicts the pictures of all callers in one thread, in batches of those that wait."""

    def __init__(self, segmenter: Segmenter, limits: Limits) -> None:
        self.stopping = False
        self.places = 0  # that are taken
        self.answers: Counter[int] = Counter()
        self.seconds: deque[float] = deque(maxlen=1000)
        self._batches = 0
        self._limits = limits
        self._segmenter = segmenter
        self._waiting: Queue[Job] = Queue()
        Thread(target=self._work, daemon=True).start()

    async def mask(self, request: Request) -> bytes:
        """Returns the mask of a request's picture as a PNG.

        Raises:
            HTTPException: says why there is none.
        """
        with self._place():
            kind = request.headers.get('content-type', '').partition(';')[0].strip().lower()
            if kind not in TYPES:
                known = ', '.join(sorted(TYPES))
                raise HTTPException(415, f'{kind[:80]!r} is not taken; allowed are {known}', UNREAD)
            try:
                picture = await asyncio.wait_for(self._receive(request), self._limits.seconds)
            except asyncio.TimeoutError:
                why = f'the picture took longer than {self._limits.seconds} s to arrive'
                raise HTTPException(408, why, UNREAD) from None
            except ClientDisconnect:
                raise HTTPException(GONE, 'gone') from None
            await asyncio.to_thread(self._check, picture)
            return await self._predict(picture, request)

    def report(self) -> dict[str, Any]:
        """Says how it goes; milliseconds are those of the last thousand masks, body included."""
        share = np.percentile(self.seconds, [50, 99]) * 1e3 if self.seconds else (None, None)
        median, slow = (each and round(float(each), 1) for each in share)
        return dict(
            status='stopping' if self.stopping else 'ok', classes=self._segmenter.classes,
            waiting=self.places, queue=self._limits.queue, batches=self._batches,
            answers={str(status): count for status, count in sorted(self.answers.items())},
            p50_ms=median, p99_ms=slow,
        )  # fmt: skip

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self.stopping or self.places >= self._limits.queue:
            why = 'is stopping' if self.stopping else f'has {self.places} requests already'
            headers = {'Retry-After': '1', **UNREAD}
            raise HTTPException(503, f'the service {why}; try again', headers)
        self.places += 1
        try:
            yield
        finally:
            self.places -= 1

    async def _receive(self, request: Request) -> bytes:
        most = self._limits.max_bytes
        too_large = HTTPException(413, f'the picture has more than {most} bytes', UNREAD)
        if int(request.headers.get('content-length', 0)) > most:
            raise too_large
        picture = bytearray()
        async for chunk in request.stream():
            picture += chunk
            if len(picture) > most:
                raise too_large
        return bytes(picture)

    def _check(self, picture: bytes) -> None:
        try:
            with reading('image', SENT), open_image(BytesIO(picture)) as opened:
                width, height = opened.size
        except SegformerPlusPlusError as error:
            raise HTTPException(422, str(error)) from error
        if width * height > self._limits.max_pixels:
            why = f'the picture has {width}x{height} pixels; at most {self._limits.max_pixels} are'
            raise HTTPException(413, f'{why} taken: make it smaller')

    async def _predict(self, picture: bytes, request: Request) -> bytes:
        job = Job(picture, Future())
        self._waiting.put(job)
        answer = asyncio.wrap_future(job.mask)
        gone: asyncio.Future[Any] = asyncio.ensure_future(_gone(request))
        await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if answer.done():
            return answer.result()
        answer.cancel()  # unless it is being predicted, the worker passes over it
        job.picture = b''  # until then it is not in the memory
        raise HTTPException(GONE, 'gone')

    def _work(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while len(batch) < self._segmenter.batch_size and not self._waiting.empty():
                batch.append(self._waiting.get())
            batch = [job for job in batch if job.mask.set_running_or_notify_cancel()]
            self._batches += bool(batch)
            try:
                self._answer(batch)
            except Exception as error:  # of a model that cannot predict anything
                for job in batch:
                    if not job.mask.done():
                        job.mask.set_exception(HTTPException(500, str(error)))

    def _answer(self, batch: list[Job]) -> None:
        predictions = self._segmenter.stream([job.picture for job in batch])
        for job, prediction in zip(batch, predictions, strict=True):
            if prediction.sample is None:
                why = str(prediction.error).replace(prediction.picture.name, SENT)
                job.mask.set_exception(HTTPException(422, why))
            else:
                labels = prediction.sample.pred_sem_seg.data[0].numpy()
                job.mask.set_result(png(colour_mask(labels, self._segmenter.palette)))


async def _gone(request: Request) -> None:
    while (await request.receive())['type'] != 'http.disconnect':
        pass


def png(image: Image.Image) -> bytes:
    """Returns the bytes of an image's file."""
    stream = BytesIO()
    image.save(stream, 'PNG')
    return stream.getvalue()


class Server(uvicorn.Server):
    """Ends once everything that was accepted is answered; a second signal ends it sooner."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._service.stopping:
            super().handle_exit(sig, frame)
        self._service.stopping = True

    async def on_tick(self, counter: int) -> bool:
        done = self._service.stopping and not self._service.places
        return await super().on_tick(counter) or done


def make_app(service: Service, model: str) -> FastAPI:
    """Makes the two addresses of a service."""
    app = FastAPI(openapi_url=None)  # its pages load scripts from elsewhere

    @app.post('/masks')
    async def masks(request: Request) -> Response:
        start = perf_counter()
        try:
            mask = await service.mask(request)
        except HTTPException as error:
            service.answers[error.status_code] += 1
            raise
        service.answers[200] += 1
        service.seconds.append(perf_counter() - start)
        return Response(mask, media_type='image/png')

    @app.get('/health')
    async def health(response: Response) -> dict[str, Any]:
        response.status_code = 503 if service.stopping else 200
        return dict(model=model, **service.report())

    return app


@command
def main(
    config: str,
    checkpoint: str | None = None,
    /,
    *,
    host: str = '127.0.0.1',
    port: int = 8000,
    token_merging: str | None = None,
    device: str | None = None,
    batch_size: Positive = 1,
    limits: Annotated[Limits, Flat] = Limits(),
) -> None:
    """Answer POST /masks (a picture) with its label map, and GET /health with counts and times.

    Args:
        config: what Segmenter takes: a name, a config file.
        checkpoint: weights, unless the model brings its own.
        host: another address than this machine's own lets others in, without asking who they are.
        token_merging: preset in place of the model's.
        device: where to run (default: cuda if there is one).
        batch_size: pictures of one size in one forward pass, where several wait.
    """
    options: dict[str, Any] = dict(token_merging=token_merging, device=device)
    segmenter = Segmenter(config, checkpoint, batch_size=batch_size, **options)
    segmenter.reader.content(png(Image.new('RGB', (64, 64))), 'black')
    service = Service(segmenter, limits)
    app = make_app(service, Path(config).name)
    # in the end, callers that do not read their answers are not waited for any longer
    settings = uvicorn.Config(app, host, port, timeout_graceful_shutdown=limits.seconds)
    Server(settings, service).run()


if __name__ == '__main__':
    sys.exit(main(prog='python examples/http/serve.py'))
