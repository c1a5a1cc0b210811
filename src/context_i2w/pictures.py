"""Pictures for people: the loss curve, and queries with their top results, hits framed."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from PIL import Image

from context_i2w.benchmarks.base import QueryGroup
from context_i2w.evaluation import Result
from context_i2w.images import ImageSource, open_image
from context_i2w.prompts import readable

HIT, MISS = "#2a9d3a", "#c8c8c8"


def loss_curve(
    steps: Sequence[int], losses: Sequence[float], validation: Sequence[tuple[int, float]], path: Path
) -> None:
    """Training loss of single steps and the validation loss after each epoch, as a PNG."""
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot(steps, losses, linewidth=1, color="#4477aa", label="training, single steps")
    if validation:
        axes.plot(*zip(*validation, strict=True), marker="o", markersize=3, color="#cc6633", label="validation")
    axes.set(xlabel="step", ylabel="contrastive loss")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def top_results(result: Result, row: str, path: Path, queries: int = 6, top: int = 6) -> None:
    """A few queries of a benchmark, spread over its groups, each with its best gallery images; hits framed green."""
    groups = result.benchmark.groups
    chosen = [
        (group, number) for group in groups for number in _spread(len(group.references), -(-queries // len(groups)))
    ]
    chosen = chosen[:queries] if len(groups) == 1 else chosen[: -(-queries // len(groups)) * len(groups)]
    figure, grid = plt.subplots(len(chosen), top + 1, figsize=(1.5 * (top + 1), 1.85 * len(chosen)), squeeze=False)
    for (group, number), line in zip(chosen, grid, strict=True):
        _show(line[0], group.references[number], _wrapped(readable(group.prompts[number][0])), None)
        _show_top(line[1:], group, number, result.tops[group.name, row][number].tolist())
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _show_top(line: Sequence[Axes], group: QueryGroup, number: int, found: Sequence[int]) -> None:
    for rank, (axes, index) in enumerate(zip(line, found, strict=False), start=1):
        if index < 0:
            axes.axis("off")
            continue
        _show(axes, group.gallery[index], str(rank), index in set(group.positives[number]))


def _show(axes: Axes, source: ImageSource, title: str, hit: bool | None) -> None:
    image = open_image(source.path)
    if source.box is not None:
        image = image.crop(tuple(map(round, source.box)))
    axes.imshow(image.convert("RGB").resize((96, 96), Image.Resampling.BICUBIC))
    axes.set_title(title, fontsize=7)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=hit is not None, color=HIT if hit else MISS, linewidth=3 if hit else 1)


def _spread(count: int, wanted: int) -> list[int]:
    """Numbers of `wanted` of `count` queries, evenly spread."""
    return [i * count // wanted for i in range(min(wanted, count))]


def _wrapped(text: str, width: int = 26, lines: int = 3) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))
