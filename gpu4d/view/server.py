"""Serve the page of a scan to the browser of this computer, and to no other computer.

The server listens on 127.0.0.1 alone. Its address has a random token, which the browser gets back as a cookie that scripts cannot read.
Every request needs the cookie. A request must name this server in its `Host` field, so that a page of another site cannot reach it through
a name that it has redirected here. Nothing is written, and no path of a request is looked up on the disk.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from gpu4d.errors import Gpu4dError
from gpu4d.view.answers import Answers, Outdated, packed
from gpu4d.view.front_end import page_of_server, script, style
from gpu4d.view.scan_view import ScanView

log = logging.getLogger("gpu4d")

LOOPBACK = "127.0.0.1"
LONGEST_REQUEST = 64 * 1024  # bytes; requests of the page have a few hundred
IDLE = 300  # seconds after which a connection without requests is closed
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class ViewServer(ThreadingHTTPServer):
    """Server of one scan's page on 127.0.0.1.

    Parameters
    ----------
    view : ScanView
    port : int
        0 takes a free one.

    Attributes
    ----------
    url : str
        Address with the token, for the browser.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, view: ScanView, port: int = 0):
        self.answers = Answers(view)
        self.token = secrets.token_urlsafe(32)
        super().__init__((LOOPBACK, port), _Handler)
        self.port = int(self.server_address[1])
        self.url = f"http://{LOOPBACK}:{self.port}/?token={self.token}"
        self.cookie = f"gpu4d-{self.port}"  # cookies do not know ports: two viewers must not share one

    def start(self) -> None:
        """Serve in a thread of its own, until `close`."""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, name="gpu4d-view-server", daemon=True).start()

    def close(self) -> None:
        """End a server that `start` began, and free its port."""
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a browser that closed its connection."""


class _Handler(BaseHTTPRequestHandler):
    """One connection of a browser."""

    server: ViewServer
    protocol_version = "HTTP/1.1"  # connections stay open: a drag makes many requests
    server_version, sys_version = "gpu4d", ""
    timeout = IDLE
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together

    FILES: ClassVar = {
        "/": ("text/html; charset=utf-8", page_of_server),
        "/view.js": ("text/javascript; charset=utf-8", script),
        "/view.css": ("text/css; charset=utf-8", style),
    }

    def do_GET(self) -> None:
        """Send the page, its script and its style, and what is known of the scan."""
        if not self._may_ask():
            return
        parts = urlsplit(self.path)
        given = parse_qs(parts.query).get("token")
        if parts.path == "/" and given:
            self._let_in(given[0])
        elif not self._knows_token():
            self._refuse(403, "open the address that `gpu4d view` printed, with its token")
        elif parts.path == "/about":
            self._send(200, json.dumps(self.server.answers.view.about()).encode(), "application/json")
        elif parts.path in self.FILES:
            kind, content = self.FILES[parts.path]
            self._send(200, content().encode(), kind)
        else:
            self._refuse(404, "there is no such page")

    def do_POST(self) -> None:
        """Answer a request of the page."""
        if not self._may_ask():
            return
        if not self._knows_token():
            self._refuse(403, "open the address that `gpu4d view` printed, with its token")
            return
        length = self.headers.get("Content-Length", "")
        if self.path != "/ask" or not length.isdecimal() or int(length) > LONGEST_REQUEST:
            self._refuse(404 if self.path != "/ask" else 413, "there is no such request")
            return
        try:
            said, values = self.server.answers.answer(json.loads(self.rfile.read(int(length))))
            self._send(200, packed(said, values), "application/octet-stream")
        except Outdated:
            self._send(204, b"", "")
        except (Gpu4dError, ValueError, RecursionError) as error:
            self._refuse(400, str(error))
        except Exception as error:  # the page shows it; the server goes on
            log.exception("an answer failed")
            self._refuse(500, f"unexpected {type(error).__name__}: {error}")

    def _may_ask(self) -> bool:
        """Refuse what another site sends: it names another host, or itself as the origin."""
        own = [f"{name}:{self.server.port}" for name in (LOOPBACK, "localhost")]
        origin = self.headers.get("Origin")
        if self.headers.get("Host") not in own or (origin is not None and origin not in [f"http://{host}" for host in own]):
            self._refuse(403, "this address belongs to the viewer of gpu4d on this computer alone")
            return False
        return True

    def _knows_token(self) -> bool:
        try:
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(self.server.cookie)
        except CookieError:
            return False
        return cookie is not None and secrets.compare_digest(cookie.value.encode(), self.server.token.encode())

    def _let_in(self, token: str) -> None:
        """Exchange the token of an address for a cookie, so that it does not stay in the address."""
        if not secrets.compare_digest(token.encode(), self.server.token.encode()):
            self._refuse(403, "the token is wrong: open the address that `gpu4d view` printed")
            return
        cookie = f"{self.server.cookie}={self.server.token}; HttpOnly; SameSite=Strict; Path=/"
        self._send(303, b"", "", {"Location": "/", "Set-Cookie": cookie})

    def _refuse(self, status: int, why: str) -> None:
        self.close_connection = True  # what is left of a refused request is not read
        self._send(status, why.encode(), "text/plain; charset=utf-8", {"Connection": "close"})

    def _send(self, status: int, body: bytes, kind: str, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, **(more or {})}.items():
            self.send_header(name, value)
        if kind:
            self.send_header("Content-Type", kind)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Write no line for each request: a drag makes hundreds."""
