"""The published tables of all benchmarks, every method with CLIP ViT-L/14, percent; and ours beside them.

Figures: arXiv 2309.16137 where no other source is given. CIRR and CIRCO validation of released checkpoints: arXiv
2604.12904, table 2. SEARLE 2303.15247, LinCIR 2312.01998 (its own runs of others on GeneCIS), slerp 2405.00571. i-CIR
and the mAP of domain conversion: arXiv 2510.25387. Rows of CIReVL, CoVR and MagicLens use a language model or triplets;
preparations and prompts differ from paper to paper, so differences under a point say little.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from context_i2w.evaluation.report import markdown_table

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
    options: Mapping[str, str] = field(default_factory=dict)  # protocol variants, where not the default

    def figures(self, row: str) -> dict[str, dict[str, float]]:
        """Those published for a row, by group and metric."""
        found = iter(self.published.get(row, ()))
        figures = {group: dict(zip(self.metrics, found, strict=False)) for group in self.groups}
        return {g: {m: v for m, v in of_group.items() if v is not None} for g, of_group in figures.items()}


_DOMAIN_SETS = {"imagenet-r-all": "ImageNet-R", "nico": "NICO++", "minidn": "Mini-DomainNet", "ltll": "LTLL"}
_ALL_DOMAINS = {  # mAP, in that order
    "image": (3.84, 6.32, 6.66, 16.49),
    "text": (0.74, 1.09, 0.57, 5.72),
    "image+text": (6.21, 9.30, 9.33, 17.86),
    "image*text": (7.83, 9.79, 9.86, 23.16),
    "Pic2Word": (7.88, 9.76, 12.00, 21.27),
    "SEARLE": (14.04, 15.13, 21.78, 25.46),
    "CIReVL": (18.11, 17.80, 26.20, 32.60),
    "MagicLens": (9.13, 19.66, 20.06, 24.21),
    "FREEDOM": (29.91, 26.10, 37.27, 33.24),
    "BASIC": (32.13, 31.65, 39.58, 41.38),
}
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
            "MLLM-I2W": (15.7, 31.2, 40.9),
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
            "slerp": (24.43, 49.93, 62.29, None),
            "SEARLE": (24.24, 52.48, 66.29, 88.84),
            "LinCIR": (25.04, 53.25, 66.68, None),
            "FTI4CIR": (25.90, 55.61, 67.66, 89.66),
            "PrediCIR": (27.2, 57.0, 70.2, None),
            "FoCo": (34.5, 65.4, 74.7, None),
            "CIReVL": (24.55, 52.31, 64.92, None),
            "MagicLens": (30.1, 61.7, 74.4, None),
        },
    ),
    PaperTable(
        "Object manipulation, CIRR validation (4,181 queries, 2,297 images; released checkpoint, by others)",
        "cirr",
        ("all",),
        ("R@1", "R@5"),
        {
            "Pic2Word": (23.25, 51.42),
            "Context-I2W": (26.96, 56.59),
            "LinCIR": (25.09, 54.41),
        },
    ),
    PaperTable(
        "Attribute manipulation, FashionIQ validation (6,016 queries)",
        "fashion",
        ("dress", "shirt", "toptee", "mean"),
        ("R@10", "R@50"),
        {
            "image": (5.4, 13.9, 9.9, 20.8, 8.3, 17.7, 7.9, 17.5),
            "text": (13.6, 29.7, 18.9, 31.8, 19.3, 37.0, 17.3, 32.9),
            "image+text": (16.3, 33.6, 21.0, 34.5, 22.2, 39.0, 19.8, 35.7),
            "Pic2Word": (20.0, 40.2, 26.2, 43.6, 27.9, 47.4, 24.7, 43.7),
            "Context-I2W": (23.1, 45.3, 29.7, 48.6, 30.6, 52.9, 27.8, 48.9),
            "SEARLE": (*[None] * 6, 25.56, 46.23),
            "LinCIR": (*[None] * 6, 26.28, 46.49),
            "FTI4CIR": (*[None] * 6, 29.39, 50.88),
            "PrediCIR": (*[None] * 6, 30.1, 52.3),
            "FoCo": (*[None] * 6, 31.5, 53.2),
            "CIReVL": (*[None] * 6, 28.55, 48.57),
            "MagicLens": (*[None] * 6, 30.73, 52.53),
        },
    ),
    PaperTable(
        "CIRCO validation (220 queries, 123,403 images; released checkpoints, by others)",
        "circo",
        ("all",),
        ("mAP@5",),
        {"Pic2Word": (7.39,), "LinCIR": (10.61,), "Context-I2W": (11.96,)},
    ),
    PaperTable(
        "CIRCO test (800 queries, 123,403 images; figures come from the CIRCO server)",
        "circo",
        ("all",),
        ("mAP@5", "mAP@10", "mAP@25", "mAP@50"),
        {
            "Pic2Word": (8.72, None, None, None),
            "Context-I2W": (13.0, 14.6, 16.1, 17.2),
            "SEARLE": (11.68, 12.73, 14.33, 15.12),
            "LinCIR": (12.59, 13.58, 15.00, 15.85),
            "FTI4CIR": (15.05, 16.32, 18.06, 19.05),
            "PrediCIR": (15.7, None, None, None),
            "FoCo": (17.5, None, None, None),
            "CIReVL": (18.57, None, None, None),
            "MagicLens": (29.6, None, None, None),
        },
        {"split": "test"},
    ),
    PaperTable(
        "GeneCIS (four tasks; published runs differ in preparation and prompt)",
        "genecis",
        ("mean",),
        ("R@1",),
        {"Pic2Word": (11.16,), "SEARLE": (12.26,), "LinCIR": (12.19,), "PrediCIR": (16.6,)},
    ),
    PaperTable(
        "i-CIR (1,883 queries, about 750,000 images of 202 instances)",
        "icir",
        ("all",),
        ("mAP",),
        {
            "image": (3.04,),
            "text": (3.01,),
            "image+text": (8.20,),
            "image*text": (17.48,),
            "Pic2Word": (19.36,),
            "SEARLE": (19.90,),
            "CIReVL": (18.66,),
            "MagicLens": (27.35,),
            "CoVR": (28.50,),
            "BASIC": (34.35,),
            "BASIC, query expansion": (31.64,),
        },
    ),
    *(
        PaperTable(
            f"Domain conversion between all domains, {title}",
            mode,
            ("mean",),
            ("mAP",),
            {row: (figures[number],) for row, figures in _ALL_DOMAINS.items()},
        )
        for number, (mode, title) in enumerate(_DOMAIN_SETS.items())
    ),
)


def compared(table: PaperTable, results: Results | None) -> str:
    """The table in Markdown; each cell holds our figure, the published one and the difference.

    results: ours by group, row and metric; None, or a row that is not there, was not run and is shown so.
    """
    columns = [(group, metric) for group in table.groups for metric in table.metrics]
    head = ["", *(metric if group == "all" else f"{group} {metric}" for group, metric in columns)]
    body = []
    for row in dict.fromkeys([*table.published, *(results or {}).get(table.groups[-1], {})]):
        figures = [(results or {}).get(group, {}).get(row, {}).get(metric) for group, metric in columns]
        published = table.figures(row)
        body.append([row, *map(_cell, figures, [published[group].get(metric) for group, metric in columns])])
    return f"## {table.title}\n\n{markdown_table([head, *body])}"


def _cell(ours: float | None, published: float | None) -> str:
    shown = "–" if published is None else f"{published:g}"
    if ours is None:
        return f"not run / {shown}"
    difference = "" if published is None else f" ({ours - published:+.1f})"
    return f"{ours:.1f} / {shown}{difference}"
