"""Serves the page on this machine, and keeps the browser from asking any other one."""

from __future__ import annotations

import ipaddress
import time
from typing import Any

import gradio as gr
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import SegformerPlusPlusError
from .page import CSS

MAX_UPLOAD = '64mb'
FONT, FONT_MONO = ('system-ui', 'sans-serif'), ('ui-monospace', 'monospace')
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; base-uri 'self'"
"""Gradio's scripts name fonts and scripts elsewhere; what a browser may load is here alone."""


class OnlyFromHere:
    """Sends :data:`POLICY` with every answer of an ASGI application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message['type'] == 'http.response.start':
                MutableHeaders(scope=message)['Content-Security-Policy'] = POLICY
            await send(message)

        await self._app(scope, receive, send_with_policy)


def is_local(host: str) -> bool:
    """Says whether only this machine reaches what listens on ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost'


def serve(page: gr.Blocks, host: str, port: int | None, open_browser: bool) -> str:
    """Serves the page from threads of its own and returns its address.

    Args:
        page: of :func:`~.page.build_page`.
        host: address to listen on.
        port: None for the first free one from 7860.
        open_browser: also open it there.

    Raises:
        SegformerPlusPlusError: the address or the port cannot be used.
    """
    try:
        launched: Any = page.launch(
            server_name=host, server_port=port, inbrowser=open_browser,
            prevent_thread_lock=True, quiet=True, css=CSS,
            theme=gr.themes.Default(font=FONT, font_mono=FONT_MONO), max_file_size=MAX_UPLOAD,
            app_kwargs=dict(middleware=[Middleware(OnlyFromHere)]),
            share=False, run_history=False, enable_monitoring=False, mcp_server=False,
            ssr_mode=False, pwa=False, num_workers=0, footer_links=[],
        )  # fmt: skip
    except OSError as error:
        where = f'{host}, any port from 7860' if port is None else f'{host}, port {port}'
        raise SegformerPlusPlusError(
            f'cannot listen on {where}: {error}; give another --port or --host'
        ) from error
    return str(launched[1])


def wait(page: gr.Blocks) -> None:
    """Waits until the page has been closed; Ctrl-C closes it."""
    try:
        while page.is_running:
            time.sleep(0.1)
    except KeyboardInterrupt:
        page.close(verbose=False)
