"""Composed queries in Qdrant: a collection of pictures on disk, searched by reference image and description.

pip install qdrant-client
python examples/qdrant_search.py             # draws a few pictures of the toy world to search through
"""

from pathlib import Path

from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointStruct, VectorParams

from context_i2w import Retriever
from context_i2w.toy_world import Sizes, make_toy_world


def search(pictures: list[str], reference: str, description: str, folder: Path) -> list[tuple[str, float]]:
    """The five best pictures and their cosine similarities; folder: where the collection lies."""
    retriever = Retriever.load("toy")  # for photographs: another checkpoint, or Retriever.from_clip()
    rows = retriever.encode(pictures)
    client = QdrantClient(path=str(folder))  # of a server: QdrantClient(url=...)
    if client.collection_exists("pictures"):
        client.delete_collection("pictures")
    client.create_collection("pictures", VectorParams(size=rows.shape[1], distance=Distance.COSINE))
    points = [PointStruct(id=n, vector=row.tolist(), payload={"path": pictures[n]}) for n, row in enumerate(rows)]
    client.upsert("pictures", points)
    [query] = retriever.encode(reference, description)
    hits = client.query_points("pictures", query, limit=5).points
    client.close()
    return [(hit.payload["path"], hit.score) for hit in hits]


if __name__ == "__main__":
    world = make_toy_world(Path("data/toy_mini"), sizes=Sizes.mini())
    pictures = sorted(map(str, (world / "test").rglob("cirr/**/*.png")))
    for path, similarity in search(pictures, pictures[0], "a photo of [*] at night", world / "qdrant"):
        print(f"{similarity:.3f} {path}")
