"""The paper's tables: published figures, and ours beside them.

Figures: arXiv 2309.16137 (ViT-L/14, percent); CIRR validation of the released checkpoint: arXiv 2604.12904, table 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from context_i2w.evaluation.report import markdown_table

ROWS = ("image", "text", "image+text", "Pic2Word", "Context-I2W")
Results = Mapping[str, Mapping[str, Mapping[str, float]]]  # group -> row -> metric -> percent


@dataclass(frozen=True)
class PaperTable:
    """One table: `groups` are its blocks of columns, each with the same metrics.

    published: row -> figures in the order of groups and metrics, None where none was found.
    """

    title: str
    mode: str  # of src/eval_retrieval.py
    groups: tuple[str, ...]
    metrics: tuple[str, ...]
    published: Mapping[str, tuple[float | None, ...]]


TABLES = (
    PaperTable(
        "Domain conversion, ImageNet to ImageNet-R (10,000 queries, 16,983 targets)",
        "imgnet",
        ("cartoon", "origami", "toy", "sculpture", "mean"),
        ("R@10", "R@50"),
        {
            "image": (0.3, 4.5, 0.2, 1.8, 0.6, 5.7, 0.3, 4.0, 0.4, 4.0),
            "text": (0.2, 1.1, 0.8, 3.7, 0.8, 2.4, 0.4, 2.0, 0.5, 2.3),
            "image+text": (2.2, 13.3, 2.0, 10.3, 1.2, 9.7, 1.6, 11.6, 1.7, 11.2),
            "Pic2Word": (8.0, 21.9, 13.5, 25.6, 8.7, 21.6, 10.0, 23.8, 10.1, 23.2),
            "Context-I2W": (10.2, 26.1, 17.5, 28.7, 11.6, 27.4, 12.1, 28.2, 12.9, 27.6),
        },
    ),
    PaperTable(
        "Object composition, COCO val2017 (4,766 queries and targets)",
        "coco",
        ("all",),
        ("R@1", "R@5", "R@10"),
        {
            "image": (8.6, 15.4, 18.9),
            "text": (6.1, 15.7, 23.5),
            "image+text": (10.2, 20.2, 26.6),
            "Pic2Word": (11.5, 24.8, 33.4),
            "Context-I2W": (13.5, 28.5, 38.1),
        },
    ),
    PaperTable(
        "Object manipulation, CIRR test (4,148 queries, 2,315 images; figures come from the CIRR server)",
        "cirr_test",
        ("all",),
        ("R@1", "R@5", "R@10", "R@50"),
        {
            "image": (7.4, 23.6, 34.0, 57.4),
            "text": (20.9, 44.8, 56.7, 79.1),
            "image+text": (12.4, 36.2, 49.1, 78.2),
            "Pic2Word": (23.9, 51.7, 65.3, 87.8),
            "Context-I2W": (25.6, 55.1, 68.5, 89.8),
        },
    ),
    PaperTable(
        "Object manipulation, CIRR validation (4,181 queries, 2,297 images; released checkpoint, by others)",
        "cirr",
        ("all",),
        ("R@1", "R@5"),
        {
            "image": (None, None),
            "text": (None, None),
            "image+text": (None, None),
            "Pic2Word": (23.25, 51.42),
            "Context-I2W": (26.96, 56.59),
        },
    ),
    PaperTable(
        "Attribute manipulation, FashionIQ validation",
        "fashion",
        ("dress", "shirt", "toptee", "mean"),
        ("R@10", "R@50"),
        {
            "image": (5.4, 13.9, 9.9, 20.8, 8.3, 17.7, 7.9, 17.5),
            "text": (13.6, 29.7, 18.9, 31.8, 19.3, 37.0, 17.3, 32.9),
            "image+text": (16.3, 33.6, 21.0, 34.5, 22.2, 39.0, 19.8, 35.7),
            "Pic2Word": (20.0, 40.2, 26.2, 43.6, 27.9, 47.4, 24.7, 43.7),
            "Context-I2W": (23.1, 45.3, 29.7, 48.6, 30.6, 52.9, 27.8, 48.9),
        },
    ),
)


def compared(table: PaperTable, results: Results | None) -> str:
    """The table in Markdown; each cell holds our figure, the published one and the difference.

    results: ours by group, row and metric; None, or a row that is not there, was not run and is shown so.
    """
    columns = [(group, metric) for group in table.groups for metric in table.metrics]
    head = ["", *(metric if group == "all" else f"{group} {metric}" for group, metric in columns)]
    body = []
    for row in ROWS:
        figures = [(results or {}).get(group, {}).get(row, {}).get(metric) for group, metric in columns]
        body.append([row, *map(_cell, figures, table.published[row])])
    return f"## {table.title}\n\n{markdown_table([head, *body])}"


def _cell(ours: float | None, published: float | None) -> str:
    shown = "–" if published is None else f"{published:g}"
    if ours is None:
        return f"not run / {shown}"
    difference = "" if published is None else f" ({ours - published:+.1f})"
    return f"{ours:.1f} / {shown}{difference}"
