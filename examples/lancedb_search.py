"""Composed queries in LanceDB: a table of pictures on disk, searched by reference image and description.

pip install lancedb
python examples/lancedb_search.py            # draws a few pictures of the toy world to search through
"""

from pathlib import Path

import lancedb

from context_i2w import Retriever
from context_i2w.toy_world import Sizes, make_toy_world


def search(pictures: list[str], reference: str, description: str, folder: Path) -> list[tuple[str, float]]:
    """The five best pictures and their cosine similarities; folder: where the database lies."""
    retriever = Retriever.load("toy")  # for photographs: another checkpoint, or Retriever.from_clip()
    rows = [{"path": path, "vector": row} for path, row in zip(pictures, retriever.encode(pictures))]
    table = lancedb.connect(folder).create_table("pictures", rows, mode="overwrite")
    [query] = retriever.encode(reference, description)
    hits = table.search(query).distance_type("cosine").limit(5).to_list()
    return [(hit["path"], 1 - hit["_distance"]) for hit in hits]


if __name__ == "__main__":
    world = make_toy_world(Path("data/toy_mini"), sizes=Sizes.mini())
    pictures = sorted(map(str, (world / "test").rglob("cirr/**/*.png")))
    for path, similarity in search(pictures, pictures[0], "a photo of [*] at night", world / "lancedb"):
        print(f"{similarity:.3f} {path}")
