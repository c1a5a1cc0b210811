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
from context_i2w.files import misfit
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
GONE = "this image can't be read any more"


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

    def thumbnail(self, kind: str, key: str) -> bytes:
        """Of a picture of the gallery by its name, or of an upload."""
        if kind == "upload":  # `_looks` are the model's thread's: only looked at here, at once
            return thumbnail(_still_there(self._looks.get((kind, key))).image)
        self._check(key)
        content = self.engine.index.thumbnail(key)
        if content is None:
            raise Refused(HTTPStatus.GONE, GONE)
        return content

    def picture(self, name: str, original: bool = False) -> tuple[str, bytes]:
        """Type and content at full size: the file where it is asked for or a browser can show it, else a JPEG of it."""
        self._check(name)
        path = self.engine.index.path(name)
        try:
            content = path.read_bytes()
            with Image.open(io.BytesIO(content)) as image:  # embeddings that others made may name any file
                kind = SHOWN.get(image.format or "")
            if original:
                return "application/octet-stream", content
            return ("image/" + kind, content) if kind else ("image/jpeg", jpeg(as_image(read_picture(path))))
        except (OSError, BrokenImage):
            raise Refused(HTTPStatus.GONE, GONE) from None

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
        """question: `references` (each `name` or `upload`; one may stand in the question itself; none: text alone),
        `description`, `k`, `compare`, `explain` (maps and nearest words), `mix`, `weight` (of what stays of the image).
        """
        started = time.perf_counter()
        description, k, weight = question.get("description", ""), question.get("k", 12), question.get("weight", 0)
        mixes, asked = list(self.engine.mixes), question.get("references", [question])
        mix = question.get("mix", mixes[0])
        is_text = misfit(description, str) is None and len(description) <= MAX_DESCRIPTION
        _expect(is_text, f"a description is text of at most {MAX_DESCRIPTION} characters")
        _expect(misfit(k, int) is None and 1 <= k <= MAX_K, f"k is a whole number from 1 to {MAX_K}")
        _expect(misfit(weight, float) is None and 0 <= weight <= 1, "weight is a number from 0 to 1")
        _expect(mix in mixes, f"mix is one of {', '.join(mixes)}")
        few = isinstance(asked, list) and len(asked) <= MAX_REFERENCES
        _expect(few, f"references are a list of at most {MAX_REFERENCES}")
        keys = [_key(reference) for reference in asked]
        looks = [self._look(*key) for key in keys]
        compare, explain = bool(question.get("compare")), bool(question.get("explain", True))
        answer = self.engine.answer(looks, description, k, compare, explain, explain, mixed(mix, weight))
        references = [_picture(key) if kind == "name" else _upload(key, look) for (kind, key), look in zip(keys, looks)]
        seconds = time.perf_counter() - started
        return {**self._as_json(answer), "references": references, "seconds": seconds}

    def _look(self, kind: str, key: str) -> Look:
        if kind == "name":
            self._check(key)
            if (kind, key) not in self._looks:
                self._keep((kind, key), self.engine.look(self.engine.index.path(key), key))
        look = _still_there(self._looks.get((kind, key)))
        self._looks.move_to_end((kind, key))
        return look

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
        ("GET", "/thumbnail"): Route(lambda asked: Response("image/jpeg", demo.thumbnail(*_key(asked.query)), BRIEFLY)),
        ("GET", "/picture"): Route(partial(_full, demo), large=True),
        ("POST", "/upload"): Route(partial(_take, demo), "model", MAX_UPLOAD, large=True),
        ("POST", "/search"): Route(partial(_search, demo), "model", MAX_QUESTION),
        **{("GET", path): Route(_static) for path in STATIC},
    }
    if (request.method, request.path) not in routes:
        raise Refused(HTTPStatus.NOT_FOUND, "no such page")
    return routes[request.method, request.path]


def _expect(holds: bool, rule: str) -> None:
    if not holds:
        raise Refused(HTTPStatus.BAD_REQUEST, rule)


def _still_there(look: Look | None) -> Look:
    if look is None:
        raise Refused(HTTPStatus.NOT_FOUND, "this upload is no longer there; choose the file again")
    return look


def _key(reference: Any) -> tuple[str, str]:
    """("name" or "upload", which) of what a question refers to."""
    reference = reference if isinstance(reference, dict) else {}
    kind = "upload" if "upload" in reference else "name"
    return kind, reference[kind] if isinstance(reference.get(kind), str) else ""


def _static(request: Request) -> Response:
    name, kind = STATIC[request.path]
    content = files("context_i2w.demo").joinpath(name).read_bytes()
    return Response(f"{kind}; charset=utf-8", content, {"Cache-Control": "no-store"})


def _full(demo: Demo, request: Request) -> Response:
    name = request.query.get("name", "")
    if "download" not in request.query:
        return Response(*demo.picture(name), BRIEFLY)
    file = quote(name.rpartition("/")[2], safe="", errors="surrogateescape")
    disposition = {"Content-Disposition": f"attachment; filename*=UTF-8''{file}"}
    return Response(*demo.picture(name, original=True), disposition)


def _take(demo: Demo, request: Request) -> Response:
    return as_json(demo.upload(request.body, shown(request.query.get("name", ""))))


def _search(demo: Demo, request: Request) -> Response:
    try:
        question = json.loads(request.body)
    except (ValueError, RecursionError):
        raise Refused(HTTPStatus.BAD_REQUEST, "not JSON") from None
    _expect(isinstance(question, dict), "not a JSON object")
    return as_json(demo.search(question))


def _offset(request: Request) -> int:
    offset = request.query.get("offset", "")
    return int(offset) if offset.isascii() and offset.isdecimal() and len(offset) < 12 else 0


def _picture(name: str) -> dict[str, str]:
    return {"name": name, "label": shown(name), "picture": f"/thumbnail?name={quote(name, errors='surrogateescape')}"}


def _upload(key: str, look: Look) -> dict[str, str]:
    return {"upload": key, "label": look.label, "picture": f"/thumbnail?upload={key}"}
