"""What scripts/parity.py compares: tokens, mapper, training step, updates and benchmarks on the golden tensors."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from context_i2w.benchmarks import BENCHMARKS
from context_i2w.checkpoints.published import ours_from_published, parse_published, published_name
from context_i2w.data.batch import Batch
from context_i2w.distributed import Process
from context_i2w.evaluation.evaluate import evaluate, query_features, rank
from context_i2w.evaluation.features import EncodingOptions, encode
from context_i2w.model.clip import FrozenCLIP, ImageFeatures
from context_i2w.model.clip_weights import clip_from_openai_state, load_state
from context_i2w.model.mappers import ContextI2W
from context_i2w.model.prompts import Tokenizer, mark_placeholders
from context_i2w.training.optimiser import OptimOptions
from context_i2w.training.trainer import Trainer, TrainOptions

CPU = torch.device("cpu")
GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
ROWS = {"composed": "composed", "image": "image", "text": "text", "image+text": "mixture"}  # theirs by ours
MODES = {"cirr": "cirr", "fashion": "fashion_{}", "coco": "coco", "imgnet": "imgnet"}


class Item(NamedTuple):
    """One compared thing; `bound` is what the tests insist on."""

    name: str
    difference: float
    unit: str
    bound: float


def measure(device: torch.device = CPU) -> Iterator[Item]:
    """Every item, with golden models that are fresh for each part."""
    yield from _tokeniser()
    yield from _mapper(device)
    yield from _step(device)
    yield from _updates(device)
    with tempfile.TemporaryDirectory() as data:
        shutil.unpack_archive(GOLDEN / "benchmarks.zip", data)
        for mode in MODES:
            yield from _benchmark(mode, Path(data), device)


def golden_models(device: torch.device = CPU) -> tuple[FrozenCLIP, ContextI2W]:
    clip_state = {name: t.float() for name, t in load_file(GOLDEN / "clip_small_weights.safetensors").items()}
    tensors = load_file(GOLDEN / "mapper_small.safetensors")
    state = {name[6:]: t.float() for name, t in tensors.items() if name.startswith("param.")}
    clip = clip_from_openai_state(clip_state, "golden")
    mapper = ContextI2W(clip.sizes, parse_published({"state_dict_img2text": state}, "golden").options)
    load_state(mapper, ours_from_published(state, list(mapper.state_dict())), "golden")
    return clip.to(device), mapper.to(device).eval()


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest absolute error over the largest absolute value."""
    return float((found.detach().cpu() - wanted).abs().max() / wanted.abs().max())


def _tokeniser() -> Iterator[Item]:
    texts = json.loads((GOLDEN / "tokenizer.json").read_text())
    found = Tokenizer()([mark_placeholders(row["text"]) for row in texts]).tolist()
    differ = sum(ids != row["ids77"] for ids, row in zip(found, texts, strict=True))
    yield Item(f"tokeniser, {len(texts)} texts", differ, "texts", 0)


def _mapper(device: torch.device) -> Iterator[Item]:
    _, mapper = golden_models(device)
    golden = load_file(GOLDEN / "mapper_small.safetensors")
    condition, tokens = (golden[name].to(device).requires_grad_() for name in ("input.c", "input.x"))
    word = mapper(condition, ImageFeatures(torch.zeros(5, 64), tokens))
    yield Item("mapper, pseudo-word token", relative(word, golden["output"]), "relative", 5e-6)
    (word * golden["probe"].to(device)).sum().backward()
    inputs = [(condition.grad, golden["grad_input.c"]), (tokens.grad, golden["grad_input.x"])]
    yield Item("mapper, gradient of its inputs", max(relative(*pair) for pair in inputs), "relative", 1e-5)
    grads = {f"grad.{published_name(name)}": p.grad for name, p in mapper.named_parameters()}
    differences = [relative(grad, golden[name]) for name, grad in grads.items() if name in golden]
    yield Item("mapper, gradient of its parameters", max(differences), "relative", 1e-5)


def _golden_batch() -> tuple[dict[str, torch.Tensor], Batch, list[str]]:
    """Golden tensors, the batch, the order of its gradients' norms."""
    with safe_open(GOLDEN / "step_small.safetensors", "pt") as file:
        captions, order = (json.loads(file.metadata()[name]) for name in ("captions", "grad_norm_order"))
    golden = load_file(GOLDEN / "step_small.safetensors")
    ids = Tokenizer()([mark_placeholders(caption) for caption in captions])
    return golden, Batch(ids, images=golden["images"]), order


def _trainer(clip: FrozenCLIP, mapper: ContextI2W, batch: Batch, *options: TrainOptions | OptimOptions) -> Trainer:
    """Of a source of 100 batches, none of which is read."""
    source = SimpleNamespace(batches=100, batch_size=batch.size)
    return Trainer(clip, mapper, source, *options, Process(device=clip.device))


def absolute(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest absolute error."""
    return float((found.detach().cpu() - wanted).abs().max())


def _step(device: torch.device) -> Iterator[Item]:
    clip, mapper = golden_models(device)
    golden, batch, order = _golden_batch()
    image, condition = clip.encode_image(batch.images), clip.encode_text(batch.condition_ids)
    word = mapper(condition, image)
    text = clip.compose(Tokenizer()([mark_placeholders("a photo of <|replace|>")]), word)
    stages = {
        "image embedding": (image.embedding, "image_features"),
        "image tokens": (image.tokens, "image_tokens"),
        "context embedding": (condition, "text_cls_embeddings"),
        "pseudo-word tokens": (word, "pseudo_words"),
        "composed text features": (text, "composed_text_features"),
    }
    for name, (found, key) in stages.items():
        yield Item(f"training step, {name}", absolute(found, golden[key]), "absolute", 1e-5)
    loss = _trainer(clip, mapper, batch, TrainOptions(), OptimOptions()).backward(batch)
    yield Item("training step, loss", abs(float(loss) - float(golden["loss"])), "absolute", 1e-5)
    norms = {published_name(name): float(p.grad.double().norm()) for name, p in mapper.named_parameters()}
    wanted = dict(zip(order, golden["grad_norms"].tolist(), strict=True))
    largest = max(abs(norms[name] - norm) / norm for name, norm in wanted.items() if norm)
    yield Item("training step, gradient norms", largest, "relative", 1e-4)


def _updates(device: torch.device) -> Iterator[Item]:
    clip, mapper = golden_models(device)
    golden, batch, _ = _golden_batch()
    trainer = _trainer(clip, mapper, batch, TrainOptions(epochs=1), OptimOptions(lr=1e-4, weight_decay=0.1, warmup=10))
    losses = torch.tensor([float(trainer.step(batch)) for _ in range(12)], dtype=torch.float64)
    wanted = golden["train12.losses_lr1e-4_wd0.1_warm10_total100_no_dropout"]
    yield Item("12 updates, losses", absolute(losses, wanted), "absolute", 1e-5)
    state = {f"train12.after12.{published_name(name)}": t for name, t in mapper.state_dict().items()}
    differences = [absolute(state[name], golden[name]) for name in golden if name in state]
    yield Item("12 updates, weights", max(differences), "absolute", 1e-5)


def _benchmark(mode: str, data: Path, device: torch.device) -> Iterator[Item]:
    clip, mapper = golden_models(device)
    benchmark = BENCHMARKS[mode].load(data, None)
    options = EncodingOptions(workers=0)
    encoded = encode(benchmark, clip, {"composed": mapper}, options)
    result = evaluate(benchmark, clip, {"composed": mapper}, options, tuple(ROWS))
    golden = load_file(GOLDEN / "benchmarks" / "expected.safetensors")
    expected = json.loads((GOLDEN / "benchmarks" / "expected.json").read_text())
    features, points, lists = [], [], []
    for group in benchmark.groups:
        name = MODES[mode].format(group.name)
        query = golden[f"{name}.composed.{group.name}" if mode == "imgnet" else f"{name}.composed"]
        features.append(absolute(query_features(group, "composed", encoded), query))
        features.append(absolute(rank(group, "composed", encoded).gallery, golden[f"{name}.gallery"]))
        wanted = expected["imgnet"]["domains"][group.name] if mode == "imgnet" else expected[name]
        for ours, theirs in ROWS.items():
            found = result.metrics[group.name][ours]
            metrics = wanted["metrics"][theirs].items()
            points += [abs(found[_metric(metric)] - _percent(mode, metric, value)) for metric, value in metrics]
        tops = result.tops[group.name, "composed"].tolist()
        for top, names in zip(tops, wanted["top10_composed"], strict=True):
            lists.append([group.gallery_names[index] for index in top[: len(names)]] == names)
    yield Item(f"{mode}, query and gallery features", max(features), "absolute", 1e-5)
    yield Item(f"{mode}, {len(points)} metric values of all rows", max(points), "points", 0.01)
    yield Item(f"{mode}, {len(lists)} top-10 lists", lists.count(False), "lists", 0)


def _metric(name: str) -> str:
    """Our name of a metric in the published dictionaries."""
    if name.startswith("image_to_ref_"):
        return "reverse " + name.removeprefix("image_to_ref_").replace("_", " ")
    name = name.removeprefix("ref_to_image_").removeprefix("Real2Sketch_").removeprefix("recall_")
    return name.replace("_", " ") if "rank" in name else name


def _percent(mode: str, name: str, value: float) -> float:
    """COCO and ImageNet-R are published as fractions, ranks as they are."""
    return 100 * value if mode in ("coco", "imgnet") and "rank" not in name else value
