"""Says for each data set what is there, what is missing, how it compares with the published sizes, what to do.

    python scripts/check_data.py                        # everything under data/, cc/ and cc_data/
    python scripts/check_data.py cirr coco              # these; exit status 1 unless both are complete
    python scripts/check_data.py fashion --decode       # also decodes every image
    python scripts/check_data.py --data-root /disk/data

Missing and broken images are listed in full in missing_<benchmark>.txt of the data root.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from context_i2w.benchmarks.options import BENCHMARKS
from context_i2w.command_line import Options, option, parse
from context_i2w.errors import UserError, exit_on_user_error

NAMES = (*BENCHMARKS, "cc3m")


@dataclass(frozen=True)
class CheckOptions(Options):
    names: tuple[str, ...] = option((), f"of {', '.join(NAMES)}; left out: all", metavar="NAME", positional=True)
    data_root: Path = option(Path("data"), "folder of the benchmarks", metavar="DIR")
    cc: Path = option(Path("cc"), "training lists", metavar="DIR")
    cc_data: Path = option(Path("cc_data"), "training images", metavar="DIR")
    decode: bool = option(False, "decode every image, not only look for it")

    def __post_init__(self):
        super().__post_init__()
        if unknown := [name for name in self.names if name not in NAMES]:
            raise UserError(f"unknown data set {', '.join(unknown)}; known: {', '.join(NAMES)}")


@exit_on_user_error
def main() -> None:
    asked = parse(CheckOptions, None, prog="python scripts/check_data.py", description=__doc__)
    from tqdm import tqdm

    from context_i2w.preparation import data_check  # imports torch, which --help does without

    findings = []
    for name in asked.names or (*data_check.PUBLISHED, "cc3m"):
        if name == "cc3m":
            found = data_check.check_cc3m(asked.cc, asked.cc_data)
        else:
            bar = partial(tqdm, desc=name, unit="image", leave=False)
            found = [data_check.check_benchmark(name, asked.data_root, asked.decode, bar)]
        print("\n".join(finding.text() for finding in found), flush=True)
        findings += found
    if asked.names and any(finding.state != data_check.COMPLETE for finding in findings):
        sys.exit(1)


if __name__ == "__main__":
    main()
