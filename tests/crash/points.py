"""kill -9 at random moments while files are written, then going on: the result must equal an uninterrupted run's.

python -m tests.crash.points --seed 1 --points 12
"""

import argparse
import hashlib
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.fuzz import forked
from tests.fuzz.cases import MAPPER, World

from context_i2w import Retriever
from context_i2w.evaluation.features import EncodingOptions
from context_i2w.toy_world import make_toy_world
from context_i2w.toy_world.sizes import Sizes

UNFINISHED = (".part", ".tmp", ".probe")


def train(world: World, folder: Path) -> None:
    last = folder / "logs/run/checkpoints/last.pt"
    words = ["--epochs", "6", "--save-minutes", "0", *(["--resume", str(last)] if last.exists() else [])]
    forked.script("main")([*world.train(folder, cache=folder / "features"), *words])


def trained(folder: Path) -> Any:
    content = torch.load(folder / "logs/run/checkpoints/last.pt", weights_only=True)
    lines = map(json.loads, (folder / "logs/run/metrics.jsonl").read_text().splitlines())
    losses = [(line["step"], line.get("loss"), line.get("epoch_loss")) for line in lines]
    return _digest([content["mapper"], content["training"]]), losses, files(folder / "features")


def index(world: World, folder: Path) -> None:
    """An index, then its update after pictures came, went and broke."""
    photos = folder / "photos"
    if not (folder / "copied").exists():
        shutil.copytree(world.photos, photos, dirs_exist_ok=True)
        (folder / "copied").touch()
    retriever = Retriever.load(MAPPER)
    options = EncodingOptions(batch_size=2, workers=0)
    retriever.index(photos, folder / "store", options)
    names = sorted(world.photos.iterdir())
    (photos / names[0].name).write_bytes(b"broken")
    (photos / names[1].name).unlink(missing_ok=True)
    shutil.copy(world.image, photos / "new.png")
    retriever.index(photos, folder / "store", options)


def indexed(folder: Path) -> Any:
    inner = next((folder / "store").rglob("index.json")).parent
    content = json.loads((inner / "index.json").read_text())
    features = np.load(inner / content["features"])
    return [row[0] for row in content["rows"]], [row[0] for row in content["broken"]], features.round(5).tolist()


def mask(world: World, folder: Path) -> None:
    argv = [str(world.root / "long.tsv"), "--output", str(folder / "out.tsv"), "--parser", "rules"]
    forked.script("mask_captions")(argv)


def mask_shards(world: World, folder: Path) -> None:
    argv = [str(world.shards), "--output", str(folder / "out"), "--parser", "rules"]
    forked.script("mask_captions")(argv)


def evaluate(world: World, folder: Path) -> None:
    outputs = ["--output", str(folder / "o.json"), "--rankings", str(folder / "r.jsonl")]
    forked.script("eval_retrieval")([*world.eval(), "--feature-cache", str(folder / "cached"), *outputs])


def evaluated(folder: Path) -> Any:
    return json.loads((folder / "o.json").read_text())["results"], (folder / "r.jsonl").read_bytes()


def draw(world: World, folder: Path) -> None:
    make_toy_world(folder / "w/toy", sizes=Sizes.mini(), workers=1)


def coco(world: World, folder: Path) -> None:
    for name in ("annotations", "val2017"):
        if not (folder / "coco" / name).is_symlink():
            (folder / "coco").mkdir(exist_ok=True)
            (folder / "coco" / name).symlink_to(world.test / "coco" / name)
    forked.script("prepare_coco")(["--coco", str(folder / "coco")])


def files(folder: Path) -> dict[str, str]:
    """Digest of every finished file, by name."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and "lock" not in path.name)
    return {str(path.relative_to(folder)): _digest(path.read_bytes()) for path in found if path.name[:1] != "."}


KINDS: dict[str, tuple[Callable[[World, Path], None], Callable[[Path], Any]]] = {
    "train": (train, trained), "index": (index, indexed), "mask": (mask, files), "shards": (mask_shards, files),
    "evaluate": (evaluate, evaluated), "toy world": (draw, files), "coco": (coco, files),
}  # fmt: skip


def faults(world: World, kind: str, points: int, rng: random.Random) -> Iterator[str]:
    """What differs, can't go on, or is left behind after one to three kills and a run to the end; for each point."""
    job, result = KINDS[kind]
    whole = _folder(world, f"{kind} whole")
    end = forked.run(lambda: job(world, whole), whole, 300)
    if end.status != 0:
        raise RuntimeError(f"{kind} does not run: {end.err[-1000:]}")
    wanted = result(whole)
    for point in range(points):
        folder = _folder(world, f"{kind} {point}")
        for _ in range(rng.choice([1, 1, 2, 3])):
            forked.run(lambda: job(world, folder), folder, 300, kill_after=rng.uniform(0, end.seconds))  # noqa: B023
        going_on = forked.run(lambda: job(world, folder), folder, 300)  # noqa: B023
        if going_on.status != 0:
            yield f"{kind}, point {point}: going on ends with {going_on.status}: {going_on.err.strip()[-300:]}"
        elif result(folder) != wanted:
            yield f"{kind}, point {point}: another result"
        elif left := [path.name for path in folder.rglob("*") if path.name.endswith(UNFINISHED)]:
            yield f"{kind}, point {point}: left behind {left[:3]}"
        shutil.rmtree(folder)


def prepared(root: Path) -> World:
    world = World(root)
    captions = [line.split("\t")[1] for line in world.list.read_text().splitlines()[1:]]
    rows = [f"{captions[row % len(captions)]} {row}\thttp://x/{row}" for row in range(20_000)]
    (root / "long.tsv").write_text("\n".join(["caption\turl", *rows]) + "\n")
    return world


def _folder(world: World, name: str) -> Path:
    folder = world.root / name.replace(" ", "-")  # World.train splits its words at blanks
    folder.mkdir()
    return folder


def _digest(value: Any) -> str:
    """Of bytes, or of a tree of tensors and numbers."""
    if isinstance(value, torch.Tensor):
        value = value.numpy().tobytes()
    if isinstance(value, dict):
        value = [(str(key), value[key]) for key in sorted(value, key=str)]
    if isinstance(value, list | tuple):
        value = "".join(map(_digest, value)).encode()
    return hashlib.sha256(value if isinstance(value, bytes) else repr(value).encode()).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--points", type=int, default=12, help="for each kind of file")
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS))
    args = parser.parse_args()
    rng, count = random.Random(args.seed), 0
    with tempfile.TemporaryDirectory(prefix="crash-") as root:
        world = prepared(Path(root))
        for kind in args.only:
            for found in faults(world, kind, args.points, rng):
                count += 1
                print(found, flush=True)
            print(f"{kind}: {args.points} points", flush=True)
    print(f"{args.points * len(args.only)} points, {count} faults")
    sys.exit(bool(count))


if __name__ == "__main__":
    main()
