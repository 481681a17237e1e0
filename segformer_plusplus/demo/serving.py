"""Serves the page on this machine, and keeps the browser from asking any other one."""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
import time
from typing import Any

import gradio as gr
from mmengine.logging import print_log
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import SegformerPlusPlusError
from .script import SCRIPT
from .style import CSS

MAX_UPLOAD = '64mb'
FONT, FONT_MONO = ('system-ui', 'sans-serif'), ('ui-monospace', 'monospace')
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; base-uri 'self'"
"""Gradio's scripts name fonts and scripts elsewhere; what a browser may load is here alone."""


class OnlyFromHere:
    """Answers an ASGI application's callers from here only, and sends ``POLICY`` with it.

    A page of another site can make its own name lead to this machine, and then ask what only this
    machine may see; the browser tells that name in the header Host. Names that are asked for, the
    port aside (a tunnel may have another one): those of this machine, ``host``, and, where others
    may come in, any address in numbers, which no name can lead to.

    What is malformed is answered with one sentence and a status below 500.

    Args:
        app: the application.
        host: address that is listened on.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._open = not is_local(host)
        self._names = {'localhost', '127.0.0.1', '::1', host.lower()}
        if self._open:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False

        async def send_with_policy(message: Message) -> None:
            nonlocal answered
            if message['type'] == 'http.response.start':
                answered = True
                MutableHeaders(scope=message)['Content-Security-Policy'] = POLICY
                if message['status'] >= 500:  # Gradio's word for an error that it was asked for
                    message['status'] = 400
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            try:
                await self._app(scope, receive, send_with_policy)
                return
            except Exception as error:  # noqa: BLE001 - of Gradio, at what it cannot read
                refusal = 'the request cannot be understood'
                said = f'{scope["path"][:80]!r}: {refusal} ({type(error).__name__})'
                print_log(said, logger='current', level=logging.WARNING)
                if answered:
                    return
        if scope['type'] == 'websocket':
            await send({'type': 'websocket.close', 'code': 1008})
            return
        await PlainTextResponse(f'{refusal}\n', 400)(scope, receive, send_with_policy)

    def _refusal(self, scope: Scope) -> str | None:
        if scope['type'] not in ('http', 'websocket'):
            return None
        if '://' in scope['path']:
            return 'this page gives nothing of other machines'
        asked = Headers(scope=scope).get('host', '')
        name = re.sub(r':\d+$', '', asked).lower()
        if name in self._names or (name[1:-1] in self._names and name[0] == '['):
            return None
        if self._open and is_number(name.strip('[]')):
            return None
        return (
            f'this page is not {asked[:80]!r}; open it under the address that it was started with'
        )


def is_number(host: str) -> bool:
    """Says whether a host is an address in numbers, and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_local(host: str) -> bool:
    """Says whether only this machine reaches what listens on ``host``."""
    try:
        return ipaddress.ip_address(host.strip('[]')).is_loopback
    except ValueError:
        return host == 'localhost'


def serve(page: gr.Blocks, host: str, port: int | None, open_browser: bool) -> str:
    """Serves the page from threads of its own and returns its address.

    Args:
        page: of ``page.build_page``.
        host: address to listen on.
        port: None for the first free one from 7860.
        open_browser: also open it there.

    Raises:
        SegformerPlusPlusError: the address or the port cannot be used.
    """
    host = host.removeprefix('[').removesuffix(']')
    _check_host(host)
    numbers = f'[{host}]' if ':' in host else host
    try:
        launched: Any = page.launch(
            server_name=numbers, server_port=port, inbrowser=open_browser,
            prevent_thread_lock=True, quiet=True, css=CSS, head=f'<script>{SCRIPT}</script>',
            theme=_theme(), max_file_size=MAX_UPLOAD,
            app_kwargs=dict(middleware=[Middleware(OnlyFromHere, host=host)]),
            share=False, run_history=False, enable_monitoring=False, mcp_server=False,
            ssr_mode=False, pwa=False, num_workers=0, footer_links=[],
        )  # fmt: skip
    except OSError as error:
        where = f'{host}, any port from 7860' if port is None else f'{host}, port {port}'
        raise SegformerPlusPlusError(
            f'cannot listen on {where}: {error}; give another --port or --host'
        ) from error
    return str(launched[1])


def _theme() -> gr.themes.Base:
    """Returns Gradio's theme with fonts of the machine, and with colours that can be read."""
    return gr.themes.Default(primary_hue='indigo', font=FONT, font_mono=FONT_MONO).set(
        color_accent='*primary_600',
        button_primary_background_fill='*primary_600',
        button_primary_background_fill_hover='*primary_700',
        body_text_color_subdued='*neutral_600',
        body_text_color_subdued_dark='*neutral_300',
        block_info_text_color='*neutral_600',
        block_title_text_color='*neutral_700',
    )


def _check_host(host: str) -> None:
    try:
        family, *_, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.bind(place)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, 'strerror', None) or 'it is no name'
        raise SegformerPlusPlusError(
            f'--host {host}: {reason}; give an address of this machine, as 127.0.0.1 or ::1'
        ) from error


def wait(page: gr.Blocks) -> None:
    """Waits until the page has been closed; Ctrl-C closes it."""
    try:
        while page.is_running:
            time.sleep(0.1)
    except KeyboardInterrupt:
        page.close(verbose=False)
