"""Goes the whole way of the training data on the toy world's pairs and checks that a killed run loses nothing.

    python scripts/measure/path.py                        # two processes, 960 pairs, a few minutes on two cores
    python scripts/measure/path.py --processes 1 --pairs 96 --epochs 12

Google's TSV -> masked captions -> WebDataset shards -> training (twice: once to the end; once killed with `kill -9` in
the middle and resumed). The final mapper, optimiser and place in the run must be the same bit for bit. The shards are
packed here in img2dataset's layout, as there is nothing to download. Prints one JSON object; exit status 1 if the runs
differ.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarking.commands import HERE, python
from context_i2w.command_line import Options, option, parse
from context_i2w.errors import UserError, exit_on_user_error

if TYPE_CHECKING:
    import torch

SHARD = 40  # samples
TIME_LIMIT = 1800.0  # seconds to wait for the step at which a run is killed


@dataclass(frozen=True)
class PathOptions(Options):
    pairs: int = option(960, "pairs drawn", at_least=1)
    processes: int = option(2, "of each training run", at_least=1)
    epochs: int = option(6, "of each training run", at_least=1)
    batch_size: int = option(16, "of each process", at_least=1)
    folder: Path | None = option(None, "where to work; left out: a temporary folder that is deleted", metavar="DIR")


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = parse(PathOptions, argv, prog="python scripts/measure/path.py", description=__doc__)
    with tempfile.TemporaryDirectory(prefix="check-path-") as scratch:
        result = check((asked.folder or Path(scratch)).resolve(), asked)
    print(json.dumps(result))
    sys.exit(0 if result["bitwise_equal"] else 1)


def check(folder: Path, asked: PathOptions) -> dict:
    """The whole path in `folder`; returns what was found."""
    import torch

    images, killed = write_captions(folder, asked.pairs), folder / "logs" / "killed"
    masking = ["--output", f"{folder}/masked.tsv", "--parser", "rules"]
    python(["scripts/mask_captions.py", f"{folder}/captions.tsv", *masking])
    write_shards(folder, images)
    steps = asked.pairs // (asked.batch_size * asked.processes) * asked.epochs
    options = f"--processes {asked.processes} --epochs {asked.epochs} --batch-size {asked.batch_size} --workers 1"
    options += " --model toy --device cpu --log-every 1 --lr 1e-3 --warmup 2 --shuffle 200 --save-minutes 0"
    command = ["src/main.py", "--train-data", f"{folder}/shards", "--logs", f"{folder}/logs", *options.split()]
    python([*command, "--name", "whole"])
    killed_at = kill([*command, "--name", "killed"], killed, steps // 2)
    saved = last(killed)["step"]
    python([*command, "--name", "killed", "--resume", str(killed)])
    whole, resumed = last(folder / "logs" / "whole"), last(killed)
    same = all(map(torch.equal, tensors(whole), tensors(resumed)))
    return {
        "pairs": asked.pairs,
        "processes": asked.processes,
        "steps": steps,
        "killed_after_step": killed_at,
        "resumed_from_step": saved,
        "tensors_compared": len(tensors(whole)),
        "bitwise_equal": whole["step"] == resumed["step"] == steps and same,
    }


def write_captions(folder: Path, pairs: int) -> list[Path]:
    """captions.tsv as Google's: caption and where the image is, no header. Returns the images."""
    from context_i2w.data.tables import read_table
    from context_i2w.toy_world.pairs import FOLDER, TRAINING_LIST, write_pairs
    from context_i2w.toy_world.sizes import Sizes

    write_pairs(folder, 0, dataclasses.replace(Sizes.mini(), training_pairs=pairs), workers=1)
    columns = read_table(folder / FOLDER / TRAINING_LIST).columns
    images = [folder / FOLDER / path for path in columns["filepath"]]
    lines = [f"{title}\thttps://toy.example/{image}\n" for title, image in zip(columns["title"], images)]
    (folder / "captions.tsv").write_text("".join(lines), encoding="utf-8")
    return images


def write_shards(folder: Path, images: list[Path]) -> None:
    """shards/ in img2dataset's layout, the masked caption of masked.tsv in each sample's JSON."""
    from webdataset import ShardWriter

    from context_i2w.data.reading import batched
    from context_i2w.data.tables import read_table

    columns = read_table(folder / "masked.tsv").columns
    (folder / "shards").mkdir()
    with ShardWriter(str(folder / "shards" / "%05d.tar"), maxcount=SHARD, verbose=0) as archive:
        for number, image in enumerate(images):
            fields = {"caption": columns["caption"][number], "masked_title": columns["masked_title"][number]}
            key = f"{number // SHARD:05d}{number % SHARD:04d}"
            archive.write({"__key__": key, "jpg": image.read_bytes(), "json": fields})
    for shard, part in enumerate(batched(images, SHARD)):
        stats = {"count": len(part), "successes": len(part)}
        (folder / "shards" / f"{shard:05d}_stats.json").write_text(json.dumps(stats))


def kill(command: Sequence[str], run: Path, step: int) -> int:
    """Starts a run and kills all its processes once `step` is logged and saved; returns the last step logged."""
    begin, metrics = time.monotonic(), run / "metrics.jsonl"
    process = subprocess.Popen([sys.executable, *command], cwd=HERE, stdout=sys.stderr, start_new_session=True)
    try:
        while process.poll() is None and time.monotonic() - begin < TIME_LIMIT:
            if (run / "checkpoints" / "last.pt").is_file() and logged(metrics) > step:
                break
            time.sleep(0.01)
        if process.poll() is not None:
            raise UserError("the run ended before it could be killed; give more --pairs or --epochs")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return logged(metrics)


def logged(metrics: Path) -> int:
    return metrics.read_text().count("\n") if metrics.is_file() else 0


def last(run: Path) -> dict:
    import torch

    return torch.load(run / "checkpoints" / "last.pt", weights_only=True)


def tensors(tree: dict) -> list[torch.Tensor]:
    """All tensors of a checkpoint: mapper and optimiser."""
    import torch
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


if __name__ == "__main__":
    main()
