"""docs/parity.md: its table is measured, its tests exist."""

import re
from pathlib import Path

from conftest import PILLOW_13
from measure import golden_items

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "parity.md").read_text()


def test_every_item_is_within_its_bound_and_in_the_document(device):
    items = list(golden_items.measure(device))
    assert len(items) >= 25
    for item in items:
        by_pillow = item.name.startswith(("cirr", "fashion", "coco"))
        assert item.difference <= item.bound or (by_pillow and not PILLOW_13), item.name
        assert f"| {item.name} " in DOCUMENT, item.name


def test_every_test_that_the_document_names_exists():
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", DOCUMENT)
    assert len(named) >= 20
    for file, test in named:
        assert re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{test}"
