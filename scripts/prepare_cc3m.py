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

import argparse
import shlex
import shutil
import subprocess
from functools import partial
from pathlib import Path

from tqdm import tqdm

from context_i2w.errors import UserError
from context_i2w.preparation import cc3m
from context_i2w.preparation.script import resumable


def download(arguments: argparse.Namespace) -> None:
    """Prints, or runs, the command of each split."""
    options = cc3m.DownloadOptions(arguments.shards, arguments.image_size, arguments.processes, arguments.threads)
    if arguments.run and shutil.which("img2dataset") is None:
        raise UserError("img2dataset is not installed; `pip install img2dataset` in an environment of its own")
    for split in cc3m.SPLITS:
        source = getattr(arguments, split) or arguments.cc / cc3m.GOOGLE_FILES[split]
        columns = cc3m.read_header(source)
        if not columns:
            source = cc3m.with_header(source, source.with_suffix(".header.tsv"))
        command = cc3m.download_command(source, arguments.cc_data / split, columns, options)
        print(shlex.join(command), flush=True)
        if arguments.run and subprocess.run(command).returncode:
            raise UserError(f"img2dataset failed on {source}; the same command goes on where it was")


def lists(arguments: argparse.Namespace) -> None:
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("download", "lists"))
    parser.add_argument("--cc", type=Path, default=Path("cc"), help="folder of the lists (default: cc)")
    parser.add_argument("--cc-data", type=Path, default=Path("cc_data"), help="folder of the images")
    parser.add_argument("--train", type=Path, help="another list of training links (caption, url)")
    parser.add_argument("--val", type=Path, help="another list of validation links")
    parser.add_argument("--shards", action="store_true", help="WebDataset shards instead of files")
    parser.add_argument("--image-size", type=int, default=288, help="shorter side in pixels (default: 288)")
    parser.add_argument("--processes", type=int, default=16, help="of img2dataset (default: 16)")
    parser.add_argument("--threads", type=int, default=64, help="of img2dataset (default: 64)")
    parser.add_argument("--run", action="store_true", help="run the commands instead of only printing them")
    arguments = parser.parse_args()
    {"download": download, "lists": lists}[arguments.step](arguments)


if __name__ == "__main__":
    main()
