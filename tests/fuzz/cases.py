"""Cases by group: each draws a broken input for an entry point, and knows what a silent wrong result would be."""

import contextlib
import importlib
import io
import json
import pickle
import pkgutil
import random
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tests.fuzz import forked
from tests.fuzz.mutations import ODD, damage, flipped, odd_bytes, odd_image, odd_json, odd_table, odd_tree

import context_i2w
from context_i2w import Retriever
from context_i2w.errors import exit_on_user_error
from context_i2w.model.clip_weights import TOY_FOLDER
from context_i2w.toy_world import make_toy_world
from context_i2w.toy_world.sizes import Sizes

MAPPER = TOY_FOLDER / "context-i2w"
INNER = {"cirr": "cirr", "fashion": "fashion-iq", "imgnet": "imgnet", "coco": "coco"}
VALUES = [
    "0", "-1", "-999999999999", "9" * 21, "nan", "inf", "", " ", "x", "1e999", "1.5", "\x01", "../../x", "/proc/x", "/",
    "/etc/passwd", "a" * 5000, "[*]", "\udc80", "{0..99}", "{a", "((", "None", "a,b", "=",
]  # fmt: skip
FORKING = {"workers", "processes", "threads", "jobs", "seeds"}  # a great number of these would be begun
OWN_NUMBERS = ["queries=0", "queries=-1", "queries=1.5", "depth=0", "depth=2.5", "heads=0", "dropout=2",
               "dropout=nan", "depth=" + "(" * 300, "condition=5", "feed_forward=0", "=", "queries=[1]"]  # fmt: skip


class Case(NamedTuple):
    """entry: a script, or "search". check: from what was printed to what is wrong with it. must_fail: else wrong."""

    entry: str
    argv: list[str]
    name: str
    check: Callable[[str], str | None] = lambda out: None
    statuses: tuple[int, ...] = ()
    must_fail: bool = False
    limit: float = 90
    endless: bool = False  # a great number was asked for: going on is right


class World:
    """What cases are made from: a small world, and a checkpoint, caches and an index made of it."""

    def __init__(self, root: Path):
        for found in pkgutil.walk_packages(context_i2w.__path__, "context_i2w."):
            with contextlib.suppress(ImportError):  # of what an extra brings
                importlib.import_module(found.name)  # once, before the forks
        torch.set_num_threads(1)
        self.root = root
        self.world = make_toy_world(root / "world", sizes=Sizes.mini(), workers=1)
        self.cc, self.test = self.world / "cc", self.world / "test"
        self.list = self.cc / "Train_GCC-training_output.csv"
        images = sorted((self.test / "cirr/dev").glob("*.png"))
        self.image, self.photos = images[-1], root / "photos"
        self.photos.mkdir()
        for image in images[:12]:
            shutil.copy(image, self.photos)
        self._shards()
        self._others()
        self.losses = self._losses(self._good("main", self.train(root, cache=root / "features"), root))
        self.hits = self._good("search", [str(self.photos), str(root / "store")]).splitlines()[-1]
        self.table = self._good("eval_retrieval", [*self.eval(), "--feature-cache", str(root / "embeddings")])
        self.checkpoint = root / "logs/run/checkpoints/last.pt"

    def train(self, folder: Path, data: Any = None, cache: Path | None = None) -> list[str]:
        """Arguments of a short training run in `folder`."""
        words = (
            f"--model toy --pretrained toy --device cpu --epochs 1 --batch-size 8 --workers 0 --log-every 1 --lr 1e-3 \
            --warmup 1 --mapper-option depth=1 --max-broken 1 --logs {folder}/logs --name run".split()
        )
        return ["--train-data", str(data or self.list), *words, *(["--feature-cache", str(cache)] if cache else [])]

    def eval(self, mode: str = "cirr", root: Path | None = None, mapper: Path = MAPPER) -> list[str]:
        words = ["--eval-mode", mode, "--resume", str(mapper), "--data-root", str(root or self.test)]
        return [*words, "--device", "cpu", "--workers", "0"]

    def job(self, entry: str, argv: list[str]) -> Callable[[], object]:
        if entry == "search":
            return lambda: self._search(*argv)
        return lambda: forked.script(entry)(argv)

    @exit_on_user_error
    def _search(self, photos: str, store: str, query: str | None = None) -> None:
        index = Retriever.load(MAPPER).index(photos, store)
        texts = ("a photo of [*]", "is blue")
        hits = [
            [(hit.name, round(hit.score, 5)) for hit in index.search(query or self.image, text, 5)] for text in texts
        ]
        print(json.dumps(hits))

    def _good(self, entry: str, argv: list[str], folder: Path | None = None) -> str:
        end = forked.run(self.job(entry, argv), self.root, limit=300)
        if end.status != 0:
            raise RuntimeError(f"the harness's own {entry} ends with {end.status}: {end.err[-2000:]}")
        return (folder / "logs/run/metrics.jsonl").read_text() if folder else end.out

    @staticmethod
    def _losses(lines: str) -> list[float]:
        return [round(line["loss"], 4) for line in map(json.loads, lines.splitlines()) if "loss" in line]

    def _shards(self) -> None:
        self.shards = self.root / "shards"
        self.shards.mkdir()
        rows = [line.split("\t") for line in self.list.read_text().splitlines()[1:]]
        for number in range(3):
            with tarfile.open(self.shards / f"{number:05d}.tar", "w") as tar:
                for place, (image, caption, masked, *_) in enumerate(rows[16 * number : 16 * number + 16]):
                    add(tar, f"{number}{place:04d}.png", (self.cc / image).read_bytes())
                    fields = {"caption": caption, "masked_title": masked}
                    add(tar, f"{number}{place:04d}.json", json.dumps(fields).encode())

    def _others(self) -> None:
        """CIRCO and GeneCIS in their layout, of the same pictures."""
        self.others = self.root / "others"
        for name in ("CIRCO/unlabeled2017", "CIRCO/annotations", "genecis/val2017", "genecis/VG_100K"):
            (self.others / name).mkdir(parents=True)
        for number, image in enumerate(sorted(self.photos.iterdir())):
            for name in (
                f"CIRCO/unlabeled2017/{number:012d}",
                f"genecis/val2017/{number:012d}",
                f"genecis/VG_100K/{number}",
            ):
                shutil.copy(image, self.others / f"{name}.jpg")
        query = {"relative_caption": "is blue", "semantic_aspects": ["a"]}
        queries = [
            {"id": n, "reference_img_id": n, "target_img_id": n + 1, "gt_img_ids": [n + 1], **query} for n in range(5)
        ]
        info = {"images": [{"id": n} for n in range(12)]}
        contents = {"CIRCO/annotations/val": queries, "CIRCO/annotations/image_info_unlabeled2017": info}
        of = [{"val_image_id": n, "image_id": n, "instance_bbox": [5, 5, 20, 20]} for n in range(8)]
        for task in ("focus_attribute", "change_attribute", "focus_object", "change_object"):
            contents[f"genecis/{task}"] = [
                {"condition": "blue", "reference": of[n], "target": of[n + 1], "gallery": of[n + 2 : n + 4]}
                for n in range(4)
            ]
        for name, content in contents.items():
            (self.others / f"{name}.json").write_text(json.dumps(content))


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    tar.addfile(header, io.BytesIO(content))


def benchmark(world: World, rng: random.Random, folder: Path) -> Case:
    mode = rng.choice([*INNER, "circo", "genecis"])
    root = folder / "data"
    source, inner = (world.test, INNER[mode]) if mode in INNER else (world.others, {"circo": "CIRCO"}.get(mode, mode))
    shutil.copytree(source / inner, root / inner)
    files = [path for path in sorted(root.rglob("*")) if path.suffix in (".json", ".csv", ".txt")]
    victim = rng.choice(files)
    data, kind = victim.read_bytes(), victim.suffix
    made = odd_json(data, rng) if kind == ".json" else odd_table(data, rng, "," if kind == ".csv" else " ")
    victim.write_bytes(made if kind == ".json" or rng.random() < 0.7 else odd_bytes(data, rng))
    out = folder / "out.json"

    def check(_: str) -> str | None:
        return "NaN or Infinity in --output" if re.search(r"\b(NaN|Infinity)\b", out.read_text()) else None

    return Case("eval_retrieval", [*world.eval(mode, root), "--output", str(out)], f"{mode} {victim.name}", check)


def image(world: World, rng: random.Random, folder: Path) -> Case:
    mode = rng.choice(["cirr", "fashion", "coco", "photos", "query", "train"])
    if mode in ("photos", "query"):
        shutil.copytree(world.photos, folder / "photos")
        victim = folder / "query.png" if mode == "query" else rng.choice(sorted((folder / "photos").iterdir()))
        argv = [str(folder / "photos"), str(folder / "store"), *([str(victim)] if mode == "query" else [])]
        return Case("search", argv, f"{mode} {odd_image(victim, rng)}")
    if mode == "train":
        shutil.copytree(world.cc, folder / "cc")
        kind = odd_image(rng.choice(sorted((folder / "cc/train").iterdir())), rng)
        cache = folder / "features" if rng.random() < 0.4 else None
        return Case("main", world.train(folder, folder / "cc" / world.list.name, cache), f"train {kind}")
    shutil.copytree(world.test / INNER[mode], folder / INNER[mode])
    kind = odd_image(rng.choice([path for path in sorted(folder.rglob("*")) if path.suffix in (".png", ".jpg")]), rng)
    return Case("eval_retrieval", world.eval(mode, folder), f"{mode} {kind}")


def pairs(world: World, rng: random.Random, folder: Path) -> Case:
    """A list of pairs, trained on or masked."""
    shutil.copytree(world.cc, folder / "cc")
    victim = folder / "cc" / world.list.name
    data = victim.read_bytes()
    victim.write_bytes(odd_table(data, rng, "\t") if rng.random() < 0.6 else odd_bytes(data, rng))
    if rng.random() < 0.4:
        argv = [str(victim), "--output", str(folder / "out.tsv"), "--parser", "rules", "--overwrite"]
        return Case("mask_captions", argv, "list to mask")
    text = rng.choice(["published", "caption", "mixed"])
    return Case("main", [*world.train(folder, victim), "--training-text", text], "list")


def shards(world: World, rng: random.Random, folder: Path) -> Case:
    shutil.copytree(world.shards, folder / "shards")
    victim = folder / "shards" / f"{rng.randrange(3):05d}.tar"
    kind = rng.choice(["bytes", "sizes.json", "json", "names", "image"])
    if kind == "bytes":
        victim.write_bytes(odd_bytes(victim.read_bytes(), rng))
    elif kind == "sizes.json":
        sizes = {f"{number:05d}.tar": 16 for number in range(3)}
        (folder / "shards" / kind).write_bytes(odd_json(json.dumps(sizes).encode(), rng))
    else:
        with tarfile.open(victim, "w", format=tarfile.GNU_FORMAT) as tar:
            for number in range(16):
                name = (
                    rng.choice(["../../x", "/abs", "a/b.c/d", "n" * 200, "ü", ".", "s"])
                    if kind == "names"
                    else f"s{number}"
                )
                picture = world.image.read_bytes()
                add(tar, f"{name}.png", odd_bytes(picture, rng) if kind == "image" else picture)
                fields = {"caption": "a cup", "masked_title": "a <|replace|>"}
                add(tar, f"{name}.json", json.dumps(odd_tree(fields, rng) if kind == "json" else fields).encode())
    if rng.random() < 0.6:
        return Case("main", [*world.train(folder, folder / "shards"), "--shuffle", "20"], f"train {kind}")
    argv = [str(folder / "shards"), "--output", str(folder / "masked"), "--parser", "rules"]
    return Case("mask_captions", argv, f"mask {kind}")


class Marker:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return __import__("os").mkdir, (self.path,)


def checkpoint(world: World, rng: random.Random, folder: Path) -> Case:
    path, marker = folder / "c.pt", folder / "MARKER"
    kind = rng.choice(["bytes", "tree", "tree", "tree", "weights", "pickle", "zip", "type"])
    content = torch.load(world.checkpoint, weights_only=True)
    odd = [None, -1, 0, 10**12, "x", float("nan"), [], {}, torch.zeros(2), True, ["a"], {"a": 1}]
    if kind == "tree":
        content = odd_tree(content, rng, odd)
    elif kind == "weights":
        name = rng.choice(list(content["mapper"]["state"]))
        content["mapper"]["state"][name].fill_(rng.choice([float("nan"), float("inf")]))
    elif kind == "type":
        content = rng.choice([*odd, {1: 2}, {"state_dict_img2text": {}}, {"state_dict_img2text": {"a": 1}}])
    elif kind in ("pickle", "zip"):
        content = {"format": "context-i2w/1", "mapper": Marker(marker)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    if kind == "bytes":
        path.write_bytes(odd_bytes(path.read_bytes(), rng))
    must_fail = kind in ("pickle", "zip", "weights")

    def check(_: str) -> str | None:
        return "the pickle ran" if marker.exists() else None

    if rng.random() < 0.5:
        return Case("eval_retrieval", world.eval(mapper=path), f"eval {kind}", check, must_fail=must_fail)
    return Case("main", [*world.train(folder), "--resume", str(path)], f"resume {kind}", check)


def shared(world: World, rng: random.Random, folder: Path) -> Case:
    """A folder of `save_pretrained` from somebody else."""
    shutil.copytree(MAPPER, folder / "shared")
    config, weights = folder / "shared/config.json", folder / "shared/mapper.safetensors"
    kind = rng.choice(["config", "config", "weights", "clip"])
    if kind == "weights":
        weights.write_bytes(odd_bytes(weights.read_bytes(), rng))
    elif kind == "config":
        config.write_bytes(odd_json(config.read_bytes(), rng))
    else:
        content = json.loads(config.read_text())
        content["clip"][rng.choice(list(content["clip"]))] = rng.choice([*ODD, "/dev/null", "..", "mapper.safetensors"])
        config.write_text(json.dumps(content))
    if rng.random() < 0.5:
        return Case("eval_retrieval", world.eval(mapper=folder / "shared"), kind)
    return Case("share_mapper", ["--resume", str(folder / "shared"), "--output", str(folder / "again")], kind)


def stored(world: World, rng: random.Random, folder: Path) -> Case:
    """A damaged cache or index: made anew, or refused; other numbers are wrong."""
    source = rng.choice(["features", "embeddings", "store"])
    shutil.copytree(world.root / source, folder / source)
    files = [path for path in sorted((folder / source).rglob("*")) if path.is_file() and "lock" not in path.name]
    victim = rng.choice([path for path in files if "thumbnails" not in path.parts])
    if victim.suffix == ".json" and rng.random() < 0.5:
        kind = "tree"
        victim.write_bytes(odd_json(victim.read_bytes(), rng))
    else:
        kind = damage(victim, rng)
    name = f"{victim.name[:12]} {kind}"
    differs = lambda same: None if same else f"{name}: read without a word, other numbers"  # noqa: E731
    if source == "store":
        argv = [str(world.photos), str(folder / source)]
        return Case("search", argv, name, lambda out: differs(out.splitlines()[-1] == world.hits))
    if source == "embeddings":
        argv = [*world.eval(), "--feature-cache", str(folder / source)]
        return Case("eval_retrieval", argv, name, lambda out: differs(_table(out) == _table(world.table)))
    metrics = folder / "logs/run/metrics.jsonl"
    check = lambda _: differs(world._losses(metrics.read_text()) == world.losses)  # noqa: E731
    return Case("main", world.train(folder, cache=folder / source), name, check)


def _table(out: str) -> list[str]:
    return [line for line in out.splitlines() if "passes" not in line]


def preparation(world: World, rng: random.Random, folder: Path) -> Case:
    kind = rng.choice(["coco", "coco", "check", "cc3m"])
    if kind == "coco":
        shutil.copytree(world.test / "coco", folder / "coco")
        victim = folder / "coco/annotations/instances_val2017.json"
        victim.write_bytes(odd_json(victim.read_bytes(), rng))
        return Case("prepare_coco", ["--coco", str(folder / "coco"), "--overwrite"], kind)
    if kind == "check":
        shutil.copytree(world.test, folder / "data")
        files = [path for path in sorted((folder / "data").rglob("*")) if path.suffix in (".json", ".csv", ".txt")]
        victim = rng.choice(files)
        victim.write_bytes((odd_json if victim.suffix == ".json" else odd_bytes)(victim.read_bytes(), rng))
        words = ["--data-root", str(folder / "data"), "--cc", str(folder), "--cc-data", str(folder), "--decode"]
        return Case("check_data", words, f"check {victim.name}", statuses=(1,))
    for split in ("train", "val"):
        part = folder / "cc_data" / split / "00000"
        part.mkdir(parents=True)
        shutil.copy(world.image, part / "000000000.jpg")
        (part / "000000000.json").write_bytes(odd_json(b'{"caption": "a cup"}', rng))
        stats = b'{"count": 1, "successes": 1, "status_dict": {"success": 1}}'
        (part.parent / "00000_stats.json").write_bytes(odd_json(stats, rng))
    return Case("prepare_cc3m", ["lists", "--cc", str(folder / "cc"), "--cc-data", str(folder / "cc_data")], kind)


def grid(world: World, rng: random.Random, folder: Path) -> Case:
    """A grid whose runs can't begin: its reading alone is tried."""
    victim = folder / "grid.toml"
    data = (forked.ROOT / "scripts/grids/queries.toml").read_bytes()
    lines = data.decode().splitlines()
    place = rng.randrange(len(lines))
    lines[place : place + 1] = rng.choice(
        [[], [lines[place]] * 2, [lines[place].partition("=")[0] + f"= {rng.choice(ODD[:12])!r}"]]
    )
    victim.write_bytes(flipped(data, rng) if rng.random() < 0.3 else "\n".join(lines).encode("utf-8", "replace"))
    (folder / "file").write_text("")
    argv = [str(victim), "--output", str(folder / "file/out"), "--logs", str(folder / "file/logs"), "--jobs", "1"]
    return Case("ablate", argv, "grid", limit=30)


def options(world: World, rng: random.Random, folder: Path) -> Case:
    """One or two flags of a command with values that nobody means."""
    entry, argv = rng.choice(commands(world, folder))
    flags = flags_of(entry)
    some = rng.sample(flags, min(len(flags), rng.choice([1, 1, 2])))
    return with_flags(entry, argv, [f"{flag}={rng.choice(values_of(flag))}" for flag in some])


def with_flags(entry: str, argv: list[str], flags: list[str]) -> Case:
    endless = any(re.search(r"=\d{9}", flag) for flag in flags)
    name, statuses = f"{entry} {' '.join(flags)}"[:90], (1,) if entry == "check_data" else ()
    return Case(entry, [*argv, *flags], name, statuses=statuses, limit=10 if endless else 90, endless=endless)


def commands(world: World, folder: Path) -> list[tuple[str, list[str]]]:
    """The commands, each with arguments that run quickly."""
    demo = [
        "--resume",
        str(MAPPER),
        "--images",
        str(world.photos),
        "--cache",
        str(world.root / "store"),
        "--device",
        "cpu",
    ]
    return [
        ("main", world.train(folder)),
        ("eval_retrieval", world.eval()),
        ("demo", [*demo, "--prompts", "is blue", "--output", str(folder / "o.html")]),
        ("mask_captions", [str(world.list), "--output", str(folder / "o.tsv"), "--parser", "rules", "--overwrite"]),
        ("prepare_coco", ["--coco", str(folder)]),
        ("prepare_cc3m", ["lists", "--cc", str(folder), "--cc-data", str(folder)]),
        ("check_data", ["--data-root", str(world.test), "--cc", str(folder), "--cc-data", str(folder)]),
        ("share_mapper", ["--resume", str(MAPPER), "--output", str(folder / "again")]),
    ]


def flags_of(entry: str) -> list[str]:
    """The flags of a command that take a value and reach no other machine, from its own --help."""
    end = forked.run(lambda: forked.script(entry)(["--help"]), Path("/tmp"))
    found = set(re.findall(r"(?<![\w-])(--[a-z][\w-]*)[ =][A-Z{]", end.out))
    return sorted(found - {"--wandb", "--push-to", "--host", "--port", "--config"})


def values_of(flag: str) -> list[str]:
    if flag.removeprefix("--") in FORKING:
        return [value for value in VALUES if not value.isdigit() or value == "0"]
    return OWN_NUMBERS if flag == "--mapper-option" else VALUES


GROUPS = {"benchmark": (benchmark, 5), "options": (options, 6), "checkpoint": (checkpoint, 4), "image": (image, 3),
          "pairs": (pairs, 3), "shards": (shards, 3), "shared": (shared, 3), "stored": (stored, 6),
          "preparation": (preparation, 3), "grid": (grid, 1)}  # fmt: skip
