"""Index building beside what one would pick for it: open_clip's own loop, as clip-retrieval runs it, and
sentence-transformers' `encode`, all with the same CLIP over the same files."""

import functools
import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, Dataset

from benchmarking.input_ways import make_pairs
from benchmarking.timing import alternate
from context_i2w import Retriever
from context_i2w.evaluation.features import EncodingOptions
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.images import open_image

BATCH = 32


class Transformed(Dataset):
    """Files as open_clip's transform makes them."""

    def __init__(self, files: Sequence[str], transform: Callable[[Any], torch.Tensor]):
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> torch.Tensor:
        return self.transform(open_image(self.files[number]))


def open_clip_loop(clip: FrozenCLIP, files: Sequence[str], workers: int, output: Path) -> np.ndarray:
    """Features of all files, written as one array."""
    transform = open_clip.image_transform(clip.sizes.image_size, False, clip.image_mean, clip.image_std)
    with torch.no_grad():
        loader = DataLoader(Transformed(files, transform), BATCH, num_workers=workers)
        parts = [normalize(clip.visual(images.to(clip.device)), dim=-1).cpu() for images in loader]
    features = torch.cat(parts).numpy()
    np.save(output, features)
    return features


def sentence_transformers_loop(retriever: Retriever, files: Sequence[str]) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    from context_i2w.search.adapters.sentence_transformers import ComposedModule

    model = SentenceTransformer(modules=[ComposedModule(retriever)], device=str(retriever.clip.device))
    return model.encode(list(files), batch_size=BATCH)


def measure_indexing(clip: FrozenCLIP, images: int, workers: int, repeats: int) -> dict[str, Any]:
    """Seconds of each way from files to features that are kept, and the least cosine to ours."""
    retriever, options = Retriever(clip, None), EncodingOptions(BATCH, workers)
    with tempfile.TemporaryDirectory(prefix="measure-indexing-") as name:
        folder = Path(name)
        files = list(make_pairs(folder, images).images)

        def ours() -> np.ndarray:
            cache = tempfile.mkdtemp(dir=folder)  # an empty one: everything is made
            return retriever.index(folder / "images", cache, options, thumbnails=False).features

        ways: dict[str, Callable[[], np.ndarray]] = {"ours": ours}
        ways["open_clip"] = functools.partial(open_clip_loop, clip, files, workers, folder / "features.npy")
        if importlib.util.find_spec("sentence_transformers"):
            ways["sentence-transformers"] = functools.partial(sentence_transformers_loop, retriever, files)
        found = {way: compute() for way, compute in ways.items()}
        seconds = alternate(ways, repeats, clip.device)
    row: dict[str, Any] = {"images": images, "workers": workers, "batch": BATCH}
    row |= {f"{way} seconds": taken for way, taken in seconds.items()}
    for way in list(ways)[1:]:
        row[f"{way} / ours"] = seconds[way] / seconds["ours"]
        row[f"{way} least cosine"] = float((found[way] * found["ours"]).sum(1).min())
    return row
