"""Goes the whole way of the training data on the toy world's pairs and checks that a killed run loses nothing.

    python scripts/measure/path.py                        # two processes, 960 pairs, a few minutes on two cores
    python scripts/measure/path.py --processes 1 --pairs 96 --epochs 12

Google's TSV -> masked captions -> WebDataset shards -> training (twice: once to the end; once killed with `kill -9` in
the middle and resumed). The final mapper, optimiser and place in the run must be the same bit for bit. The shards are
packed here in img2dataset's layout, as there is nothing to download. Prints one JSON object; exit status 1 if the runs
differ.
"""

from __future__ import annotations

import csv
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

from context_i2w.command_line import Options, option, parse
from context_i2w.errors import UserError, exit_on_user_error

if TYPE_CHECKING:
    import torch

REPOSITORY = Path(__file__).resolve().parents[2]
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
        result = check(asked.folder or Path(scratch), asked.pairs, asked.processes, asked.epochs, asked.batch_size)
    print(json.dumps(result))
    sys.exit(0 if result["bitwise_equal"] else 1)


def check(folder: Path, pairs: int, processes: int, epochs: int, batch_size: int) -> dict:
    """The whole path in `folder`; returns what was found."""
    images = write_captions(folder, pairs)
    call("scripts/mask_captions.py", folder / "captions.tsv", "--output", folder / "masked.tsv", "--parser", "rules")
    write_shards(folder, images)
    steps = pairs // (batch_size * processes) * epochs
    command = ["src/main.py", "--train-data", folder / "shards", "--model", "toy", "--device", "cpu", "--log-every", 1]
    command += ["--processes", processes, "--epochs", epochs, "--batch-size", batch_size, "--workers", 1]
    command += ["--lr", 1e-3, "--warmup", 2, "--shuffle", 200, "--save-minutes", 0, "--logs", folder / "logs"]
    call(*command, "--name", "whole")
    import torch

    killed_at = kill([*command, "--name", "killed"], folder / "logs" / "killed", steps // 2)
    saved = last(folder / "logs" / "killed")["step"]
    call(*command, "--name", "killed", "--resume", folder / "logs" / "killed")
    whole, resumed = (last(folder / "logs" / name) for name in ("whole", "killed"))
    return {
        "pairs": pairs,
        "processes": processes,
        "steps": steps,
        "killed_after_step": killed_at,
        "resumed_from_step": saved,
        "tensors_compared": len(tensors(whole)),
        "bitwise_equal": whole["step"] == resumed["step"] == steps
        and all(map(torch.equal, tensors(whole), tensors(resumed))),
    }


def write_captions(folder: Path, pairs: int) -> list[Path]:
    """captions.tsv as Google's: caption and where the image is, no header. Returns the images."""
    from context_i2w.toy_world.pairs import FOLDER, TRAINING_LIST, write_pairs
    from context_i2w.toy_world.sizes import Sizes

    write_pairs(folder, 0, dataclasses.replace(Sizes.mini(), training_pairs=pairs), workers=1)
    with open(folder / FOLDER / TRAINING_LIST, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    lines = [f"{row['title']}\thttps://toy.example/{folder / FOLDER / row['filepath']}\n" for row in rows]
    (folder / "captions.tsv").write_text("".join(lines), encoding="utf-8")
    return [folder / FOLDER / row["filepath"] for row in rows]


def write_shards(folder: Path, images: list[Path]) -> None:
    """shards/ in img2dataset's layout, the masked caption of masked.tsv in each sample's JSON."""
    from webdataset import TarWriter

    from context_i2w.data.reading import batched

    with open(folder / "masked.tsv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter="\t"))[-len(images) :]
    (folder / "shards").mkdir()
    for shard, part in enumerate(batched(range(len(images)), SHARD)):
        with TarWriter(str(folder / "shards" / f"{shard:05d}.tar")) as archive:
            for number in part:
                fields = {"caption": rows[number][0], "masked_title": rows[number][-1]}
                key = f"{shard:05d}{number - part[0]:04d}"
                archive.write({"__key__": key, "jpg": images[number].read_bytes(), "json": fields})
        stats = {"count": len(part), "successes": len(part)}
        (folder / "shards" / f"{shard:05d}_stats.json").write_text(json.dumps(stats))


def words(command: Sequence) -> list[str]:
    return [sys.executable, str(REPOSITORY / str(command[0])), *map(str, command[1:])]


def call(*command) -> None:
    """Runs a script of the repository. Raises UserError if it fails."""
    status = subprocess.run(words(command), cwd=REPOSITORY, stdout=sys.stderr, check=False).returncode
    if status:
        raise UserError(f"`{' '.join(words(command)[1:])}` ended with status {status}")


def kill(command: Sequence, run: Path, step: int) -> int:
    """Starts a run and kills all its processes once `step` is logged and saved; returns the last step logged."""
    begin, metrics = time.monotonic(), run / "metrics.jsonl"
    process = subprocess.Popen(words(command), cwd=REPOSITORY, stdout=sys.stderr, start_new_session=True)
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


def tensors(tree) -> list[torch.Tensor]:
    """All tensors of a checkpoint: mapper and optimiser."""
    import torch

    if isinstance(tree, torch.Tensor):
        return [tree]
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return [tensor for value in values for tensor in tensors(value)]


if __name__ == "__main__":
    main()
