"""What the page in the browser can ask for, over an Engine.

Meant for one person on their own machine. It answers only what the page asks: its own files, pictures of the gallery by
their name in the index (so no other file can be named), uploads bounded in bytes and pixels, and searches. Requests of
other sites are refused by their Host and by a header that only the page sends.
"""

from __future__ import annotations

import io
import ipaddress
import json
import re
import secrets
import time
from collections import OrderedDict
from functools import partial
from http import HTTPStatus
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from PIL import Image

from context_i2w.demo.engine import Answer, Engine, Look, mixed, recommended
from context_i2w.demo.gallery import shown
from context_i2w.demo.pictures import data_uri
from context_i2w.demo.web import Refused, Request, Response, Route, Server, as_json
from context_i2w.files import is_text
from context_i2w.model.images import BrokenImage, as_image
from context_i2w.search.index import Hit
from context_i2w.search.pictures import HEIF, read_picture
from context_i2w.search.thumbnails import jpeg, thumbnail

MAX_UPLOAD = 16 << 20  # bytes
MAX_PIXELS = 40_000_000
MAX_QUESTION = 64 << 10  # bytes of a search's JSON
MAX_DESCRIPTION = 1000  # characters
MAX_K = 60
MAX_REFERENCES = 4
KEPT = 64  # references whose features are kept
PAGE_OF_IMAGES = 60
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", *(["HEIF"] if HEIF else []))
STATIC = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript") for name in ("page", "dom", "gallery", "reference", "viewer")},
}
# What browsers show, by Pillow's name of the format; anything else is sent as a JPEG.
SHOWN = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "AVIF": "avif"}
OWN_HEADER = "x-context-i2w"  # another site can't set it without being asked about by the browser first
HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9.-]+))(?::\d{1,5})?", re.IGNORECASE)
BRIEFLY = {"Cache-Control": "private, max-age=600"}
NO_UPLOAD = "this upload is no longer there; choose the file again"


class Demo:
    """The page's questions and their answers; those of the model come one at a time."""

    def __init__(self, engine: Engine, examples: list[str]):
        self.engine = engine
        self.examples = examples
        self.paths = True  # whether the page may know where on this machine a picture lies
        self._looks: OrderedDict[tuple[str, str], Look] = OrderedDict()  # by ("name" or "upload", which)

    def about(self) -> dict[str, Any]:
        index = self.engine.index
        mix, weight = recommended(self.engine.mixes)
        unread = f", {index.files.unread_kinds} left out" if index.files.unread else ""
        return {
            "clip": self.engine.retriever.clip.name,
            "mappers": list(self.engine.mappers),
            "gallery": shown(f"{len(index):,} pictures of {index.files.title}{unread}"),
            "examples": self.examples,
            "mixes": self.engine.mixes,
            "mix": mix,
            "follow": round(100 * (1 - weight)),
            "max_upload": MAX_UPLOAD,
            "max_references": MAX_REFERENCES,
        }

    def images(self, offset: int, part: str = "") -> dict[str, Any]:
        """A page of the gallery's pictures, of those whose names hold `part`."""
        part = part.casefold()
        names = [name for name in self.engine.index.names if not part or part in shown(name).casefold()]
        return {"total": len(names), "images": [_picture(name) for name in names[offset:][:PAGE_OF_IMAGES]]}

    def thumbnail(self, name: str) -> bytes:
        self._check(name)
        content = self.engine.index.thumbnail(name)
        if content is None:
            raise Refused(HTTPStatus.GONE, "this image can't be read any more")
        return content

    def picture(self, name: str) -> tuple[str, bytes]:
        """Type and content at full size: the file itself where a browser can show it, else a JPEG of it."""
        self._check(name)
        path = self.engine.index.path(name)
        try:
            content = path.read_bytes()
            with Image.open(io.BytesIO(content)) as image:
                kind = SHOWN.get(image.format or "")
            return ("image/" + kind, content) if kind else ("image/jpeg", jpeg(as_image(read_picture(path))))
        except (OSError, BrokenImage):
            raise Refused(HTTPStatus.GONE, "this image can't be read any more") from None

    def original(self, name: str) -> bytes:
        self._check(name)
        try:
            content = self.engine.index.path(name).read_bytes()
            Image.open(io.BytesIO(content)).close()  # embeddings that others made may name any file
            return content
        except OSError:
            raise Refused(HTTPStatus.GONE, "this image can't be read any more") from None

    def uploaded(self, key: str) -> bytes:
        look = self._looks.get(("upload", key))
        if look is None:
            raise Refused(HTTPStatus.NOT_FOUND, NO_UPLOAD)
        return thumbnail(look.image)

    def upload(self, content: bytes, label: str = "") -> dict[str, str]:
        """Takes a picture in as a reference; only its features and a small image are kept, in memory."""
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        except Exception:
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"not one of {', '.join(FORMATS)}") from None
        if image.width * image.height > MAX_PIXELS:
            size = f"{image.width} × {image.height}"
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{size} pixels; at most {MAX_PIXELS:,} are taken")
        key = secrets.token_urlsafe(9)  # others who can reach this page can't guess it
        look = self.engine.look(image, label=label[:200] or "uploaded picture")
        self._keep(("upload", key), look)
        return {**_upload(key, look), "picture": data_uri(thumbnail(look.image))}

    def search(self, question: dict[str, Any]) -> dict[str, Any]:
        """question: `references` (each `name` or `upload`; none: a query of text alone), `description`, and optionally
        `k`, `compare`, `explain` (maps and nearest words), `mix` and `weight` (of what stays of the picture). One
        reference may stand in the question itself.
        """
        started = time.perf_counter()
        description, k, weight = question.get("description", ""), question.get("k", 12), question.get("weight", 0)
        if not isinstance(description, str) or len(description) > MAX_DESCRIPTION or not is_text(description):
            raise Refused(HTTPStatus.BAD_REQUEST, f"a description is text of at most {MAX_DESCRIPTION} characters")
        if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= MAX_K:
            raise Refused(HTTPStatus.BAD_REQUEST, f"k is a whole number from 1 to {MAX_K}")
        if not isinstance(weight, int | float) or not 0 <= weight <= 1:
            raise Refused(HTTPStatus.BAD_REQUEST, "weight is a number from 0 to 1")
        mix = question.get("mix", next(iter(self.engine.mixes)))
        if mix not in list(self.engine.mixes):
            raise Refused(HTTPStatus.BAD_REQUEST, f"mix is one of {', '.join(self.engine.mixes)}")
        keys = self._references(question)
        looks = [self._look(*key) for key in keys]
        compare, explain = bool(question.get("compare")), bool(question.get("explain", True))
        answer = self.engine.answer(looks, description, k, compare, explain, explain, mixed(mix, weight))
        references = [_picture(key) if kind == "name" else _upload(key, look) for (kind, key), look in zip(keys, looks)]
        seconds = time.perf_counter() - started
        return {**self._as_json(answer), "references": references, "seconds": seconds}

    def _references(self, question: dict[str, Any]) -> list[tuple[str, str]]:
        """("name" or "upload", which) of each."""
        references = question.get("references", [question])
        if not isinstance(references, list) or len(references) > MAX_REFERENCES:
            raise Refused(HTTPStatus.BAD_REQUEST, f"references are a list of at most {MAX_REFERENCES}")
        keys = []
        for reference in references:
            reference = reference if isinstance(reference, dict) else {}
            kind = "upload" if "upload" in reference else "name"
            key = reference.get(kind)
            keys.append((kind, key if isinstance(key, str) else ""))
        return keys

    def _look(self, kind: str, key: str) -> Look:
        if kind == "name":
            self._check(key)
            if (kind, key) not in self._looks:
                self._keep((kind, key), self.engine.look(self.engine.index.path(key), key))
        elif (kind, key) not in self._looks:
            raise Refused(HTTPStatus.NOT_FOUND, NO_UPLOAD)
        self._looks.move_to_end((kind, key))
        return self._looks[kind, key]

    def _keep(self, key: tuple[str, str], look: Look) -> None:
        self._looks[key] = look
        while len(self._looks) > KEPT:
            self._looks.popitem(last=False)

    def _check(self, name: str) -> None:
        if name not in self.engine.index:
            raise Refused(HTTPStatus.NOT_FOUND, "no image of this gallery has that name")

    def _as_json(self, answer: Answer) -> dict[str, Any]:
        return {
            "prompt": answer.prompt,
            "rows": [{"title": title, "hits": [self._hit(hit) for hit in hits]} for title, hits in answer.rows.items()],
            "maps": [
                {"title": heat.title, "note": heat.note, "now": data_uri(heat.picture), "change": data_uri(heat.change)}
                for heat in answer.maps
            ],
            "words": [{"title": title, "words": words} for title, words in answer.words.items()],
        }

    def _hit(self, hit: Hit) -> dict[str, Any]:
        path = shown(str(hit.path.resolve())) if self.paths else shown(hit.name)
        return {**_picture(hit.name), "rank": hit.rank, "score": hit.score, "path": path}


def serve(demo: Demo, host: str = "127.0.0.1", port: int = 7860) -> Server:
    """A server bound to host and port (0: any free one), not yet running. Raises UserError if it can't be bound."""
    demo.paths = is_loopback(host)
    return Server(partial(find, demo, is_loopback(host)), host, port)


def is_loopback(host: str) -> bool:
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def find(demo: Demo, loopback: bool, request: Request) -> Route:
    """The route of a request, from its head alone. Raises Refused."""
    if loopback:
        host = HOST.fullmatch(request.headers.get("host", ""))
        if host is None or not is_loopback(host[1] or host[2]):  # a name that another site points at this machine
            raise Refused(HTTPStatus.FORBIDDEN, "open this page as http://127.0.0.1 or http://localhost")
    if request.method == "POST" and request.headers.get(OWN_HEADER) is None:
        raise Refused(HTTPStatus.FORBIDDEN, "only the page itself may ask this")
    routes = {
        ("GET", "/about"): Route(lambda _: as_json(demo.about())),
        ("GET", "/images"): Route(lambda asked: as_json(demo.images(_offset(asked), asked.query.get("filter", "")))),
        ("GET", "/thumbnail"): Route(partial(_thumbnail, demo)),
        ("GET", "/picture"): Route(partial(_full, demo), large=True),
        ("POST", "/upload"): Route(partial(_take, demo), "model", MAX_UPLOAD, large=True),
        ("POST", "/search"): Route(partial(_search, demo), "model", MAX_QUESTION),
        **{("GET", path): Route(_static) for path in STATIC},
    }
    if (request.method, request.path) not in routes:
        raise Refused(HTTPStatus.NOT_FOUND, "no such page")
    return routes[request.method, request.path]


def _static(request: Request) -> Response:
    name, kind = STATIC[request.path]
    content = files("context_i2w.demo").joinpath(name).read_bytes()
    return Response(f"{kind}; charset=utf-8", content, headers={"Cache-Control": "no-store"})


def _thumbnail(demo: Demo, request: Request) -> Response:
    if "upload" in request.query:
        return Response("image/jpeg", demo.uploaded(request.query["upload"]), headers=BRIEFLY)
    return Response("image/jpeg", demo.thumbnail(request.query.get("name", "")), headers=BRIEFLY)


def _full(demo: Demo, request: Request) -> Response:
    name = request.query.get("name", "")
    if "download" not in request.query:
        return Response(*demo.picture(name), headers=BRIEFLY)
    file = quote(name.rpartition("/")[2], safe="", errors="surrogateescape")
    disposition = {"Content-Disposition": f"attachment; filename*=UTF-8''{file}"}
    return Response("application/octet-stream", demo.original(name), headers=disposition)


def _take(demo: Demo, request: Request) -> Response:
    return as_json(demo.upload(request.body, shown(request.query.get("name", ""))))


def _search(demo: Demo, request: Request) -> Response:
    try:
        question = json.loads(request.body)
    except (ValueError, RecursionError):
        raise Refused(HTTPStatus.BAD_REQUEST, "not JSON") from None
    if not isinstance(question, dict):
        raise Refused(HTTPStatus.BAD_REQUEST, "not a JSON object")
    return as_json(demo.search(question))


def _offset(request: Request) -> int:
    offset = request.query.get("offset", "")
    return int(offset) if offset.isascii() and offset.isdecimal() and len(offset) < 12 else 0


def _picture(name: str) -> dict[str, str]:
    return {"name": name, "label": shown(name), "picture": f"/thumbnail?name={quote(name, errors='surrogateescape')}"}


def _upload(key: str, look: Look) -> dict[str, str]:
    return {"upload": key, "label": look.label, "picture": f"/thumbnail?upload={key}"}
