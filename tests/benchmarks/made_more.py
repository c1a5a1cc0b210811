"""Small copies of i-CIR and the domain conversion sets in their owners' formats, with the odd lines real files have."""

from pathlib import Path

import numpy as np
from PIL import Image

DOMAINS = {
    "nico": ["autumn", "dim", "grass", "outdoor", "rock", "water"],
    "minidn": ["clipart", "painting", "real", "sketch"],
    "ltll": ["New", "Old"],
    "imagenet_r": ["real", "cartoon", "origami", "toy", "sculpture"],
}


def image(path: Path, seed: int) -> None:
    """Noise of few values, so that many images resemble one another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 2, (4, 4, 3)) * 255
    Image.fromarray(pixels.astype(np.uint8)).resize((24, 24), Image.Resampling.NEAREST).save(path)


def write_icir(root: Path) -> Path:
    """Two instances in turn, a text with a comma, one in other letters, one image twice, a query without answer."""
    folder = root / "icir"
    queries = [
        ("icir/query/lamp/q0.jpg", "on a desk", "lamp"),
        ("icir/query/dog statue/q1.jpg", '"in snow, at night"', "dog statue"),
        ("icir/query/lamp/q0.jpg", "during the “Fête” & more", "lamp"),
        ("icir/query/lamp/q2.jpg", "under water", "lamp"),
    ]
    database = []
    for number in range(24):
        instance = ("lamp", "dog statue")[number % 2]
        texts = (
            ["on a desk", "during the “Fête” & more", "On a desk"] if number % 2 == 0 else ['"in snow, at night"', ""]
        )
        database.append((f"icir/database/{instance}/{number}.jpg", texts[number // 2 % len(texts)], instance))
    database.append(("icir/database/lamp/0.jpg", "during the “Fête” & more", "lamp"))
    for number, name in enumerate(dict.fromkeys(row[0] for row in queries + database)):
        image(root / name, number % 17)  # some are the same picture
    for name, rows in (("query", queries), ("database", database)):
        lines = "\r\n".join(",".join(row) for row in rows)
        (folder / f"{name}_files.csv").write_text(lines + "\r\n\r\n", encoding="utf-8-sig", newline="")
    (folder / "VERSION.txt").write_text("1.0.0\n")
    return root


def write_domains(root: Path, name: str) -> Path:
    """Three classes, of which one is missing in the last domain; a folder that kept its blank."""
    domains = DOMAINS[name]
    lines = []
    for number, domain in enumerate(domains):
        for kind in ("dog", "aircraft_carrier", "cat")[: 2 if number == len(domains) - 1 else 3]:
            for index in range(1 + (number + len(kind)) % 3):
                path = f"{name}/{domain}/{kind}/{domain}_{index:03d}.jpg"
                spelled = path.replace("aircraft_carrier", "aircraft carrier") if number % 2 else path
                image(root / spelled, len(lines) % 11)
                lines.append(f"{path} {domain} {kind}")
    text = "\n".join(lines) + "\n\n"
    if name in ("ltll", "imagenet_r"):
        (root / name / "full_files.csv").write_text(text)
    else:
        (root / name / "database_files.csv").write_text(text)
        (root / name / "query_files.csv").write_text("\n".join(lines[::2]) + "\n")
    return root
