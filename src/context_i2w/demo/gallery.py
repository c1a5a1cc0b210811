"""Answers as one self-contained HTML file: pictures inlined, no script, nothing fetched."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from context_i2w.demo.engine import Answer, HeatMap, Look
from context_i2w.demo.pictures import data_uri, thumbnail
from context_i2w.model.images import BrokenImage
from context_i2w.search.index import Hit
from context_i2w.search.pictures import read_picture

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}
</style>
<h1>{title}</h1>
<p class="about">{about}</p>
{body}
</html>
"""
STYLE = """\
body { font: 15px/1.4 system-ui, sans-serif; margin: 1.5rem; color: #222; background: #fafafa }
h1 { font-size: 1.3rem } h2 { font-size: 1.05rem; margin: 0 0 .5rem } h3 { font-size: .9rem; margin: .8rem 0 .3rem }
.about, figcaption { color: #555 }
section { display: flex; gap: 1.2rem; background: #fff; border: 1px solid #ddd; border-radius: 8px; padding: 1rem }
section + section { margin-top: 1rem }
.reference { flex: none; width: 150px }
.row { display: flex; flex-wrap: wrap; gap: .5rem }
figure { margin: 0; width: 112px; font-size: .75rem; overflow-wrap: anywhere }
figure img { width: 112px; height: 112px; object-fit: contain; background: #eee; border-radius: 4px }
.reference figure, .reference img { width: 150px; height: auto }"""


def render(title: str, about: str, answers: Sequence[tuple[str, Look, Answer]]) -> str:
    """The page for (name of the reference, the reference, its answer). All texts are escaped."""
    body = "\n".join(_section(name, look, answer) for name, look, answer in answers)
    return PAGE.format(title=escape(shown(title)), about=escape(shown(about)), style=STYLE, body=body)


def shown(text: str) -> str:
    """A file name as text: bytes that are not UTF-8 become the replacement character."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def hit_picture(path: Path) -> bytes | None:
    """The thumbnail of an indexed file; None if it has gone since it was indexed."""
    try:
        return thumbnail(read_picture(path))
    except BrokenImage:
        return None


def _section(name: str, look: Look, answer: Answer) -> str:
    reference = _figure(thumbnail(look.image), name)
    rows = "\n".join(_row(title, hits) for title, hits in answer.rows.items())
    return (
        f'<section>\n<div class="reference"><h3>reference</h3>{reference}</div>\n'
        f"<div><h2>{escape(shown(answer.prompt))}</h2>\n{rows}\n{_maps(answer.maps)}</div>\n</section>"
    )


def _row(title: str, hits: Sequence[Hit]) -> str:
    figures = "\n".join(_figure(hit_picture(hit.path), f"{hit.rank}. {hit.name} ({hit.score:.3f})") for hit in hits)
    return f'<h3>{escape(shown(title))}</h3>\n<div class="row">\n{figures}\n</div>'


def _maps(maps: Sequence[HeatMap]) -> str:
    if not maps:
        return ""
    now = "\n".join(_figure(heat.picture, f"{heat.title}: {heat.note}") for heat in maps)
    change = "\n".join(_figure(heat.change, heat.title) for heat in maps)
    return (
        f'<h3>where the mapper looked</h3>\n<div class="row">\n{now}\n</div>\n'
        f'<h3>change from "a photo of [*]" (red: more, blue: less)</h3>\n<div class="row">\n{change}\n</div>\n'
    )


def _figure(jpeg: bytes | None, caption: str) -> str:
    text = escape(shown(caption))
    picture = f'<img src="{data_uri(jpeg)}" alt="{text}">' if jpeg else "<p>no longer there</p>"
    return f"<figure>{picture}<figcaption>{text}</figcaption></figure>"
