"""Answers as one self-contained HTML file that looks like the page: pictures inlined, no script, nothing fetched."""

import io
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from PIL import Image

from context_i2w.demo.engine import Answer, HeatMap, Look
from context_i2w.demo.pictures import data_uri
from context_i2w.search.index import Hit, Index
from context_i2w.search.thumbnails import thumbnail

SMALL = 100  # pixels below which a picture is enlarged without smoothing, as on the page
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}
</style>
<body class="file">
<header><h1>{title}</h1><p class="faint">{about}</p></header>
<main>
{body}
</main>
</body>
</html>
"""


def render(title: str, about: str, answers: Sequence[tuple[str, Look, Answer]], index: Index) -> str:
    """The page for (name of the reference, the reference, its answer), all from one index. All texts are escaped."""
    body = "\n".join(_section(name, look, answer, index) for name, look, answer in answers)
    style = files("context_i2w.demo").joinpath("page.css").read_text(encoding="utf-8")
    return PAGE.format(title=escape(shown(title)), about=escape(shown(about)), style=style, body=body)


def shown(text: str) -> str:
    """A file name as text: bytes that are not UTF-8 become the replacement character."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _section(name: str, look: Look, answer: Answer, index: Index) -> str:
    reference = _figure(thumbnail(look.image), name)
    rows = "\n".join(_row(title, hits, index) for title, hits in answer.rows.items())
    return (
        f'<section class="panel answer">\n<div class="asked">{reference}<h2>{escape(shown(answer.prompt))}</h2></div>\n'
        f"<div>{rows}\n{_maps(answer.maps)}</div>\n</section>"
    )


def _row(title: str, hits: Sequence[Hit], index: Index) -> str:
    figures = [_figure(index.thumbnail(hit.name), f"{hit.rank} · {hit.score:.3f}", hit.name) for hit in hits]
    return _grid("results", title, figures)


def _maps(maps: Sequence[HeatMap]) -> str:
    if not maps:
        return ""
    now = _grid("maps", "", [_figure(heat.picture, f"{heat.title}: {heat.note}") for heat in maps])
    changes = [_figure(heat.change, heat.title) for heat in maps]
    change = _grid("maps", 'change from "a photo of [*]" (red: more, blue: less)', changes)
    return f"<details><summary>Where the mapper looked</summary>{now}\n{change}</details>\n"


def _grid(kind: str, title: str, figures: Sequence[str]) -> str:
    heading = f"<h3>{escape(shown(title))}</h3>\n" if title else ""
    joined = "\n".join(figures)
    return f'{heading}<div class="{kind}">\n{joined}\n</div>'


def _figure(jpeg: bytes | None, caption: str, name: str = "") -> str:
    text, name, picture = escape(shown(caption)), escape(shown(name)), "<p>no longer there</p>"
    if jpeg is not None:
        small = ' class="small"' if max(Image.open(io.BytesIO(jpeg)).size) < SMALL else ""
        picture = f'<img src="{data_uri(jpeg)}" alt="{name or text}"{small}>'
    return f"<figure>{picture}<figcaption>{text} <span>{name}</span></figcaption></figure>"
