"""The page in the browser: a small HTTP server around an Engine.

Meant for one person on their own machine. It answers only what the page asks: its three files, thumbnails of
indexed images by their name in the index (so no other file can be named), uploads bounded in bytes and pixels, and
searches. Requests of other sites are refused by their Host and by a header that only the page sends.
"""

from __future__ import annotations

import contextlib
import io
import ipaddress
import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from PIL import Image

from context_i2w.demo.engine import Answer, Engine, Look
from context_i2w.demo.gallery import hit_picture, shown
from context_i2w.demo.pictures import data_uri, thumbnail
from context_i2w.errors import UserError
from context_i2w.search.index import Hit

MAX_UPLOAD = 16 << 20  # bytes
MAX_PIXELS = 40_000_000
MAX_QUESTION = 64 << 10  # bytes of a search's JSON
MAX_DESCRIPTION = 1000  # characters
MAX_K = 60
KEPT = 64  # references whose features are kept
PAGE_OF_IMAGES = 60
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
STATIC = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
OWN_HEADER = "X-Context-I2W"  # another site can't set it without being asked about by the browser first
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'"


class Refused(Exception):
    """A request that gets an error and its reason."""

    def __init__(self, status: HTTPStatus, reason: str):
        super().__init__(reason)
        self.status = status


class Demo:
    """What the page can ask for; one model call at a time."""

    def __init__(self, engine: Engine, examples: list[str]):
        self.engine = engine
        self.examples = examples
        self._looks: OrderedDict[tuple[str, str], Look] = OrderedDict()  # by ("name" or "upload", which)
        self._uploads = 0
        self._lock = threading.Lock()

    def images(self, offset: int) -> dict[str, Any]:
        """One page of the gallery."""
        names = self.engine.index.names[max(0, offset) :][:PAGE_OF_IMAGES]
        return {
            "total": len(self.engine.index),
            "images": [_picture(name) for name in names],
            "examples": self.examples,
            "max_upload": MAX_UPLOAD,
        }

    def thumbnail(self, name: str) -> bytes:
        if name not in self.engine.index:
            raise Refused(HTTPStatus.NOT_FOUND, "no image of this gallery has that name")
        jpeg = hit_picture(self.engine.index.path(name))
        if jpeg is None:
            raise Refused(HTTPStatus.GONE, "this image can't be read any more")
        return jpeg

    def upload(self, content: bytes) -> dict[str, str]:
        """Takes a picture in as a reference; only its features and the decoded image are kept, in memory."""
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        except Exception:
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"not one of {', '.join(FORMATS)}") from None
        if image.width * image.height > MAX_PIXELS:
            size = f"{image.width} × {image.height}"
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{size} pixels; at most {MAX_PIXELS:,} are taken")
        with self._lock:
            look = self.engine.look(image)
            look.image.thumbnail((512, 512))
            self._uploads += 1
            key = str(self._uploads)
            self._keep(("upload", key), look)
        return {"upload": key, "picture": data_uri(thumbnail(look.image, 320))}

    def search(self, question: dict[str, Any]) -> dict[str, Any]:
        """question: `name` or `upload`, `description`, optionally `k` and `compare`."""
        description, k = question.get("description", ""), question.get("k", 12)
        if not isinstance(description, str) or len(description) > MAX_DESCRIPTION:
            raise Refused(HTTPStatus.BAD_REQUEST, f"a description is text of at most {MAX_DESCRIPTION} characters")
        if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= MAX_K:
            raise Refused(HTTPStatus.BAD_REQUEST, f"k is a whole number from 1 to {MAX_K}")
        with self._lock:
            look = self._reference(question)
            answer = self.engine.answer(look, description, k, bool(question.get("compare")))
        return _as_json(answer)

    def _reference(self, question: dict[str, Any]) -> Look:
        upload, name = question.get("upload"), question.get("name")
        if isinstance(upload, str):
            key = ("upload", upload)
            if key not in self._looks:
                raise Refused(HTTPStatus.NOT_FOUND, "this upload is no longer there; choose the file again")
            self._looks.move_to_end(key)
            return self._looks[key]
        if not isinstance(name, str) or name not in self.engine.index:
            raise Refused(HTTPStatus.NOT_FOUND, "no image of this gallery has that name")
        key = ("name", name)
        if key not in self._looks:
            self._keep(key, self.engine.look(self.engine.index.path(name), name))
        return self._looks[key]

    def _keep(self, key: tuple[str, str], look: Look) -> None:
        self._looks[key] = look
        while len(self._looks) > KEPT:
            self._looks.popitem(last=False)


def serve(demo: Demo, host: str = "127.0.0.1", port: int = 7860) -> ThreadingHTTPServer:
    """A server bound to host and port (0: any free one), not yet running. Raises UserError if it can't be bound."""
    try:
        server = ThreadingHTTPServer((host, port), partial(Handler, demo, is_loopback(host)))
    except OSError as error:
        raise UserError(f"--port {port}: {host} can't be listened on ({error.strerror}); choose another") from None
    server.daemon_threads = True
    return server


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "context-i2w"
    sys_version = ""
    timeout = 60

    def __init__(self, demo: Demo, loopback: bool, *args):
        self.demo = demo
        self.loopback = loopback
        super().__init__(*args)

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, *_) -> None:
        """Quiet: file names and descriptions stay out of logs."""

    def _get(self) -> tuple[str, bytes]:
        url = urlsplit(self.path)
        query = parse_qs(url.query, errors="surrogateescape")
        if url.path in STATIC:
            name, kind = STATIC[url.path]
            return f"{kind}; charset=utf-8", files("context_i2w.demo").joinpath(name).read_bytes()
        if url.path == "/thumbnail":
            return "image/jpeg", self.demo.thumbnail(query.get("name", [""])[0])
        if url.path == "/images":
            offset = query.get("offset", ["0"])[0]
            return _json(self.demo.images(int(offset) if offset.isdecimal() else 0))
        raise Refused(HTTPStatus.NOT_FOUND, "no such page")

    def _post(self) -> tuple[str, bytes]:
        if self.headers.get(OWN_HEADER) is None:
            raise Refused(HTTPStatus.FORBIDDEN, "only the page itself may ask this")
        if self.path == "/upload":
            return _json(self.demo.upload(self._body(MAX_UPLOAD)))
        if self.path == "/search":
            try:
                question = json.loads(self._body(MAX_QUESTION))
            except ValueError:
                raise Refused(HTTPStatus.BAD_REQUEST, "not JSON") from None
            if not isinstance(question, dict):
                raise Refused(HTTPStatus.BAD_REQUEST, "not a JSON object")
            return _json(self.demo.search(question))
        raise Refused(HTTPStatus.NOT_FOUND, "no such page")

    def _body(self, bound: int) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "a Content-Length is needed")
        if int(length) > bound:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {bound / (1 << 20):.3g} MiB are taken")
        return self.rfile.read(int(length))

    def _answer(self, work: Callable[[], tuple[str, bytes]]) -> None:
        try:
            self._check_host()
            status, (kind, body) = HTTPStatus.OK, work()
        except Refused as error:
            status, (kind, body) = error.status, _json({"error": str(error)})
            self.close_connection = True  # a body may be left unread
        except UserError as error:
            status, (kind, body) = HTTPStatus.UNPROCESSABLE_ENTITY, _json({"error": shown(str(error))})
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "private, max-age=600" if kind == "image/jpeg" else "no-store")
        with contextlib.suppress(ConnectionError):  # the page asked something newer meanwhile
            self.end_headers()
            self.wfile.write(body)

    def _check_host(self) -> None:
        """A name that another site points at this machine does not get in."""
        if self.loopback:
            host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
            if not is_loopback(host):
                raise Refused(HTTPStatus.FORBIDDEN, "open this page as http://127.0.0.1 or http://localhost")


def _as_json(answer: Answer) -> dict[str, Any]:
    return {
        "prompt": answer.prompt,
        "rows": [{"title": title, "hits": [_hit(hit) for hit in hits]} for title, hits in answer.rows.items()],
        "maps": [
            {"title": heat.title, "note": heat.note, "now": data_uri(heat.picture), "change": data_uri(heat.change)}
            for heat in answer.maps
        ],
        "words": [{"title": title, "words": words} for title, words in answer.words.items()],
    }


def _hit(hit: Hit) -> dict[str, Any]:
    return {**_picture(hit.name), "rank": hit.rank, "score": hit.score}


def _picture(name: str) -> dict[str, str]:
    return {"name": name, "label": shown(name), "picture": f"/thumbnail?name={quote(name, errors='surrogateescape')}"}


def _json(content: dict[str, Any]) -> tuple[str, bytes]:
    return "application/json", json.dumps(content).encode()
