"""Pictures for people: the loss curve, and queries with their top results, hits framed."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from context_i2w.errors import extra
from context_i2w.evaluation.evaluate import Result
from context_i2w.model.images import ImageSource, open_image
from context_i2w.model.prompts import readable

TILE, GAP, TEXT = 96, 8, 170  # pixels: a picture's side, the space between, the width of a query's text
HIT, MISS, INK = "#1f9d3a", "#d0d0d0", "#222222"


def loss_curve(
    steps: Sequence[int], losses: Sequence[float], validation: Sequence[tuple[int, float]], path: Path
) -> None:
    """Training loss of single steps and the validation loss after each epoch, as a PNG."""
    with extra("train"):
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot(steps, losses, linewidth=1, color="#4477aa", label="training, single steps")
    if validation:
        axes.plot(*zip(*validation, strict=True), marker="o", markersize=3, color="#cc6633", label="validation")
    axes.set(xlabel="step", ylabel="contrastive loss", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def top_results(result: Result, row: str, path: Path, queries: int = 8, top: int = 6) -> None:
    """A few queries of a benchmark, spread over its groups: prompt, reference image, best gallery images.

    Hits are framed in green. As a PNG.
    """
    groups = result.benchmark.groups
    each = max(queries // len(groups), 1)
    chosen = [(group, number) for group in groups for number in _spread(len(group.references), each)]
    step = TILE + GAP
    sheet = Image.new("RGB", (TEXT + (top + 1) * step + 2 * GAP, len(chosen) * step + GAP + 20), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    draw.text((TEXT, 4), "reference", INK, font)
    draw.text((TEXT + step + GAP, 4), f"top {top} of the gallery, hits framed", INK, font)
    for line, (group, number) in enumerate(chosen):
        y = 20 + GAP + line * step
        prompt = "\n".join(textwrap.wrap(readable(group.prompts[number][0]), 24, max_lines=5, placeholder=" …"))
        draw.multiline_text((GAP, y + 4), prompt, INK, font)
        sheet.paste(_tile(group.references[number], None), (TEXT, y))
        found = [index for index in result.tops[group.name, row][number, :top].tolist() if index >= 0]
        for rank, index in enumerate(found, start=1):
            tile = _tile(group.gallery[index], index in group.positives[number])
            sheet.paste(tile, (TEXT + rank * step + GAP, y))
    sheet.save(path)


def _tile(source: ImageSource, hit: bool | None) -> Image.Image:
    image = open_image(source.path)
    if source.box is not None:
        left, top, right, bottom = map(round, source.box)
        image = image.crop((left, top, right, bottom))
    tile = image.convert("RGB").resize((TILE, TILE), Image.Resampling.BICUBIC)
    if hit is not None:
        ImageDraw.Draw(tile).rectangle((0, 0, TILE - 1, TILE - 1), outline=HIT if hit else MISS, width=4 if hit else 1)
    return tile


def _spread(count: int, wanted: int) -> list[int]:
    """Numbers of `wanted` of `count` queries, evenly spread."""
    return [i * count // wanted for i in range(min(wanted, count))]
