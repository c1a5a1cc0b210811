"""Conceptual Captions 3M, from Google's two files to training lists or shards.

    python scripts/prepare_cc3m.py download                  # prints img2dataset's command for each split
    python scripts/prepare_cc3m.py download --run            # runs them (needs `pip install img2dataset`)
    python scripts/prepare_cc3m.py download --shards --run   # WebDataset shards instead of files
    python scripts/prepare_cc3m.py lists                     # from the downloaded files: the two lists in cc/

Reads cc/Train_GCC-training.tsv and cc/Validation_GCC-1.1.0-Validation.tsv, or with --train and --val lists with
the columns caption, url and, if they were masked first, masked_title. Images go to cc_data/train and cc_data/val.
All steps go on where they were stopped. Shards need no list: training reads them as they are.

Images are shrunk with `keep_ratio`. img2dataset's default, `border`, would pad them with white to squares, and
the mapper would learn borders that no benchmark image has.
"""

import shlex
import shutil
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from context_i2w.command_line import Options, nested, option, parse
from context_i2w.errors import UserError
from context_i2w.preparation import cc3m
from context_i2w.preparation.script import resumable


@dataclass(frozen=True)
class CC3MPreparation(Options):
    step: str = option(None, "what to do", choices=("download", "lists"), positional=True, required=True)
    cc: Path = option(Path("cc"), "folder of the lists", metavar="DIR")
    cc_data: Path = option(Path("cc_data"), "folder of the images", metavar="DIR")
    train: Path | None = option(None, "another list of training links (caption, url)", metavar="LIST")
    val: Path | None = option(None, "another list of validation links", metavar="LIST")
    how: cc3m.DownloadOptions = nested(cc3m.DownloadOptions)
    run: bool = option(False, "run the commands instead of only printing them")


def download(arguments: CC3MPreparation) -> None:
    """Prints, or runs, the command of each split."""
    if arguments.run and shutil.which("img2dataset") is None:
        raise UserError("img2dataset is not installed; `pip install img2dataset` in an environment of its own")
    for split in cc3m.SPLITS:
        source = getattr(arguments, split) or arguments.cc / cc3m.GOOGLE_FILES[split]
        columns = cc3m.read_header(source)
        if not columns:
            source = cc3m.with_header(source, source.with_suffix(".header.tsv"))
        command = cc3m.download_command(source, arguments.cc_data / split, columns, arguments.how)
        print(shlex.join(command), flush=True)
        if arguments.run and subprocess.run(command).returncode:
            raise UserError(f"img2dataset failed on {source}; the same command goes on where it was")


def lists(arguments: CC3MPreparation) -> None:
    """Writes the list of each split and says what the download fetched."""
    for split in cc3m.SPLITS:
        folder, target = arguments.cc_data / split, arguments.cc / cc3m.LIST_FILES[split]
        print(f"{split}: {cc3m.read_report(folder).text()}")
        rows, without_caption = cc3m.make_list(folder, target, partial(tqdm, unit="image", desc=split))
        left_out = f"; {without_caption:,} images without a caption left out" if without_caption else ""
        print(f"{split}: {rows:,} pairs in {target}{left_out}")
    print(f"next: python scripts/mask_captions.py {arguments.cc / cc3m.LIST_FILES['train']}, and the same for val")


@resumable
def main() -> None:
    arguments = parse(CC3MPreparation, None, prog="python scripts/prepare_cc3m.py", description=__doc__)
    {"download": download, "lists": lists}[arguments.step](arguments)


if __name__ == "__main__":
    main()
