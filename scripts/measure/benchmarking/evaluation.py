"""Whole evaluations with images from files: passes counted, seconds, the published way against ours.

Made-up benchmarks in the proportions of the real ones, some tens of times smaller.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarking.timing import MATMUL, alternate, matmul
from context_i2w.benchmarks.base import Benchmark, QueryGroup
from context_i2w.evaluation.evaluate import BASELINES, ONLY, evaluate, query_features
from context_i2w.evaluation.features import EncodingOptions, encode
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.images import ImageSource
from context_i2w.model.mappers import ContextI2W
from context_i2w.model.prompts import template
from context_i2w.ranking.metrics import recall_at
from published_evaluation import PlainEvaluation

METHODS = (*BASELINES, ONLY)  # the published rows
CAPTION = "is {} and has shorter sleeves and a different pattern"
COLOURS = ("red", "blue", "green", "black", "white")
DOMAINS = ("cartoon", "origami", "toy", "sculpture")
# Images and queries of the real benchmarks; the targets of FashionIQ are encoded again for every query.
SIZES = {"cirr": (2297, 4181), "fashioniq": (3817, 2017), "imagenet": (16983, 10000)}


def made_up(name: str, scale: int, folder: Path) -> Benchmark:
    """A benchmark of `name`'s proportions, 1 : scale, over random pictures in `folder`."""
    images, queries = (max(2, round(size / scale)) for size in SIZES[name])
    gallery = [ImageSource(str(_picture(folder, number))) for number in range(images)]
    if name == "imagenet":
        prompts = [[template(f"a {domain} of [*]")] * queries for domain in DOMAINS]
        texts = [[f"a {domain} of"] * queries for domain in DOMAINS]
    else:
        captions = [CAPTION.format(COLOURS[i % len(COLOURS)]) for i in range(queries)]
        prompts, texts = [[template(f"a photo of [*] , {caption}") for caption in captions]], [captions]
    groups = [
        _group(f"{number}", gallery, [gallery[i % images] for i in range(queries)], *rows)
        for number, rows in enumerate(zip(prompts, texts, strict=True))
    ]
    return Benchmark(name, groups)


def measure_evaluation(
    clip: FrozenCLIP, name: str, scale: int, batch: int, repeats: int, product: int, workers: int = 0
) -> dict[str, Any]:
    """Passes, seconds, ratio and the largest difference of a composed feature."""
    torch.manual_seed(0)
    mapper = ContextI2W(clip.sizes).to(clip.device).eval()
    mapper.gate.data.fill_(0.5)
    options = EncodingOptions(batch, workers)
    with tempfile.TemporaryDirectory() as folder:
        benchmark = made_up(name, scale, Path(folder))
        plain = PlainEvaluation(clip, mapper, batch, encode_targets=name == "fashioniq")
        difference = _difference(benchmark, clip, mapper, options, plain)
        multiply, work = matmul(product, clip.device)
        multiply()
        ways = {
            MATMUL: multiply,
            "published": lambda: plain.run(benchmark),
            "ours": lambda: evaluate(benchmark, clip, {"composed": mapper}, options, METHODS),
        }
        seconds = alternate(ways, repeats, clip.device)
        passes = evaluate(benchmark, clip, {"composed": mapper}, options, METHODS).passes
    return {
        "scale": scale,
        "published vision passes": plain.passes,
        "our vision passes": passes["images"],
        "published seconds": seconds["published"],
        "our seconds": seconds["ours"],
        "published / ours": seconds["published"] / seconds["ours"],
        "matmul GFLOP/s": work / seconds[MATMUL] / 1e9,
        "largest difference of a composed feature": difference,
    }


def _difference(benchmark, clip, mapper, options: EncodingOptions, plain: PlainEvaluation) -> float:
    wanted = plain.run(benchmark)
    encoded = encode(benchmark, clip, {"composed": mapper}, options)
    found = [query_features(group, "composed", encoded) for group in benchmark.groups]
    return max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))


def _group(name: str, gallery, references, prompts, texts) -> QueryGroup:
    targets = torch.tensor([(i + 1) % len(gallery) for i in range(len(references))])
    return QueryGroup(
        name=name,
        gallery=gallery,
        gallery_names=[source.path for source in gallery],
        references=references,
        query_ids=[str(i) for i in range(len(references))],
        prompts=[(prompt,) for prompt in prompts],
        texts=[(text,) for text in texts],
        positives=[[target] for target in targets.tolist()],
        score=lambda ranking: recall_at(ranking.ranks(targets), (1, 10, 50)),
    )


def _picture(folder: Path, number: int) -> Path:
    path = folder / f"{number}.jpg"
    pixels = np.random.default_rng(number).integers(0, 256, (8, 10, 3), np.uint8)
    Image.fromarray(pixels).resize((320, 256), Image.Resampling.BICUBIC).save(path)
    return path
