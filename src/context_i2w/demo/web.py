"""A small HTTP/1.1 server that stays up whatever its clients do.

One thread reads and writes every connection, so a slow client holds none; a request's head, body, work and answer each
have a deadline. Work goes through bounded queues: "model", one at a time, and "files"; only a few large bodies are in
memory at once, and the others are not read until it is their turn. Whoever finds a queue or the connections full gets
503 at once. Whatever goes wrong is an answer in one line of JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import parse_qs

from context_i2w.errors import UserError

T = TypeVar("T")
IDLE = 15  # seconds for the head of a request to come whole
PIECE, PACE = 64 << 10, 5  # bytes of a body, and seconds for so many to come
DEADLINE = 60  # seconds for each of: the turn of a large body, a body to come, an answer to be found, one to be taken
LINGER = 5  # seconds in which a refused client may still send, so that it reads why instead of being reset
CONNECTIONS = 400  # open at once: less than half of the usual bound on open files
BACKLOG = 512
WAITING = 256  # requests in one queue
LARGE = 8  # large bodies in memory at once, of each queue
HEAD = 32 << 10  # bytes of a request's head
THREADS = {"model": 1, "files": 4}
BUSY, SLOW = HTTPStatus.SERVICE_UNAVAILABLE, "the request came too slowly"
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'"
SAFE = {
    "Content-Security-Policy": f"{POLICY}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


class Refused(Exception):
    """A request that gets an error and its reason."""

    def __init__(self, status: HTTPStatus, reason: str):
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Request:
    """headers: by lower-case name. query: the first value of each."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Response:
    kind: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    status: HTTPStatus = HTTPStatus.OK


@dataclass(frozen=True)
class Route:
    """Who answers a request, in which queue, how many bytes its body may have, whether it or the answer is large."""

    work: Callable[[Request], Response]
    queue: str = "files"
    bound: int = 0
    large: bool = False


def as_json(content: Any, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response("application/json", json.dumps(content).encode(), {"Cache-Control": "no-store"}, status)


class Server:
    """Bound to host and port (0: any free one), not yet running; UserError if it can't be.

    find: a request without its body -> Route; may raise Refused, and a route's work Refused or UserError.
    """

    def __init__(self, find: Callable[[Request], Route], host: str, port: int):
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"--port {port}: {host} can't be listened on ({reason}); choose another") from None
        self.server_address: tuple[str, int] = self._socket.getsockname()[:2]
        self._find = find
        self._pools = {name: ThreadPoolExecutor(count, name) for name, count in THREADS.items()}
        self._waiting = dict.fromkeys(THREADS, 0)
        self._connections = 0
        self._running, self._ended = threading.Event(), threading.Event()

    def serve_forever(self) -> None:
        """Until `shutdown` in another thread, or Ctrl-C."""
        try:
            asyncio.run(self._serve())
        finally:
            self._ended.set()

    def shutdown(self) -> None:
        self._running.wait()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._ended.wait()

    def server_close(self) -> None:
        self._socket.close()
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._large = {name: asyncio.Semaphore(LARGE) for name in THREADS}
        listening = await asyncio.start_server(self._connection, sock=self._socket, limit=HEAD, backlog=BACKLOG)
        self._running.set()
        try:
            await self._stop.wait()
        finally:
            listening.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(0)  # an answer counts as written once the system has taken it
        self._connections += 1
        try:
            while await self._one_request(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError, asyncio.CancelledError):
            # gone, too slow, or the server ends
            writer.transport.abort()
        finally:
            self._connections -= 1
            writer.close()

    async def _one_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection can take another one."""
        whole = False  # the request has been read to its end
        with contextlib.ExitStack() as turn:
            try:
                if self._connections > CONNECTIONS:
                    raise Refused(BUSY, "too many connections; try again")
                request = await _head(reader)
                route = self._find(request)
                length = _length(request, route.bound)
                if route.large:
                    large = self._large[route.queue]
                    await _within(DEADLINE, large.acquire(), BUSY, "too many large requests at once; try again")
                    turn.callback(large.release)
                if request.headers.get("expect", "").lower() == "100-continue":
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = await _within(DEADLINE, _body(reader, length), HTTPStatus.REQUEST_TIMEOUT, SLOW)
                whole = request.headers.get("connection", "").lower() != "close"
                response = await self._work(route, replace(request, body=body), reader)
            except Refused as error:
                response = as_json({"error": str(error)}, error.status)
            await _write(writer, response, whole)
        if not whole:
            await _linger(reader, writer)
        return whole

    async def _work(self, route: Route, request: Request, reader: asyncio.StreamReader) -> Response:
        if self._waiting[route.queue] >= WAITING:
            raise Refused(BUSY, "too many requests are waiting; try again")
        self._waiting[route.queue] += 1
        try:
            found = self._loop.run_in_executor(self._pools[route.queue], _answer, route.work, request, reader)
            return await _within(DEADLINE, found, BUSY, f"no answer within {DEADLINE} s; try again")
        finally:
            self._waiting[route.queue] -= 1


async def _within(seconds: float, work: Awaitable[T], status: HTTPStatus, reason: str) -> T:
    """What `work` gives. Raises Refused where it takes longer."""
    try:
        return await asyncio.wait_for(work, seconds)
    except asyncio.TimeoutError:
        raise Refused(status, reason) from None


async def _head(reader: asyncio.StreamReader) -> Request:
    """Raises Refused for what is not HTTP, TimeoutError and IncompleteReadError for what does not come."""
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), IDLE)
    except asyncio.LimitOverrunError:
        raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a head has at most {HEAD:,} bytes") from None
    line, *fields = head[:-4].decode("latin-1").split("\r\n")
    method, _, rest = line.partition(" ")
    target, _, version = rest.partition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0") or not target.startswith("/"):
        raise Refused(HTTPStatus.BAD_REQUEST, "not a request for a path, by HTTP/1.1")
    headers = _headers(fields)
    if version == "HTTP/1.0":
        headers["connection"] = "close"
    path, _, query = target.partition("?")
    try:
        values = parse_qs(query, errors="surrogateescape", max_num_fields=32)
    except ValueError:
        raise Refused(HTTPStatus.BAD_REQUEST, "too many fields in the address") from None
    return Request(method, path, {name: found[0] for name, found in values.items()}, headers)


def _headers(fields: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in fields:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or not name or name != name.strip() or "\n" in line or "\r" in line:
            raise Refused(HTTPStatus.BAD_REQUEST, "a header that is none")
        if name in headers and name in ("host", "content-length", "transfer-encoding"):
            raise Refused(HTTPStatus.BAD_REQUEST, f"{name} is given twice")
        headers[name] = value.strip()
    return headers


def _length(request: Request, bound: int) -> int:
    """Bytes of the body. Raises Refused where they can't be told or are too many."""
    length = request.headers.get("content-length", "" if request.method == "POST" else "0")
    if "transfer-encoding" in request.headers or not (length.isascii() and length.isdecimal()):
        raise Refused(HTTPStatus.LENGTH_REQUIRED, "a Content-Length is needed")
    if len(length) > 12 or int(length) > bound:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {bound / (1 << 20):.3g} MiB are taken")
    return int(length)


async def _body(reader: asyncio.StreamReader, length: int) -> bytes:
    body = bytearray()
    while len(body) < length:
        body += await asyncio.wait_for(reader.readexactly(min(PIECE, length - len(body))), PACE)
    return bytes(body)


def _answer(work: Callable[[Request], Response], request: Request, reader: asyncio.StreamReader) -> Response:
    """In a queue's thread. Nothing is computed for a client that has left meanwhile. Raises Refused."""
    if reader.at_eof() or reader.exception():
        raise Refused(BUSY, "nobody is waiting")
    try:
        return work(request)
    except Refused:
        raise
    except UserError as error:
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, _text(error)) from None
    except Exception as error:
        print(f"error: {request.method} {request.path}: {type(error).__name__}: {_text(error)}", file=sys.stderr)
        raise Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "this could not be answered") from None


def _text(error: Exception) -> str:
    """One line; bytes of file names that are not UTF-8 become the replacement character."""
    return " ".join(str(error).split()).encode("utf-8", "replace").decode()


async def _write(writer: asyncio.StreamWriter, response: Response, stays: bool) -> None:
    headers = {
        "Content-Type": response.kind,
        "Content-Length": str(len(response.body)),
        "Connection": "keep-alive" if stays else "close",
        **SAFE,
        **response.headers,
    }
    if response.status == BUSY:
        headers["Retry-After"] = "1"
    lines = [f"HTTP/1.1 {response.status.value} {response.status.phrase}", *map(": ".join, headers.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + response.body)
    await asyncio.wait_for(writer.drain(), DEADLINE)


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Closing while a body is still coming would reset the client before it has read the answer."""

    with contextlib.suppress(asyncio.TimeoutError):
        writer.write_eof()
        await asyncio.wait_for(_rest(reader), LINGER)


async def _rest(reader: asyncio.StreamReader) -> None:
    while await reader.read(PIECE):
        pass
