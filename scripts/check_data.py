"""Says for each data set what is there, what is missing, how it compares with the published sizes, what to do.

    python scripts/check_data.py                        # everything under data/, cc/ and cc_data/
    python scripts/check_data.py cirr coco              # these; exit status 1 unless both are complete
    python scripts/check_data.py fashion --decode       # also decodes every image
    python scripts/check_data.py --data-root /disk/data

Missing and broken images are listed in full in missing_<benchmark>.txt of the data root.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from tqdm import tqdm

from context_i2w.errors import UserError, exit_on_user_error
from context_i2w.preparation import data_check


@exit_on_user_error
def main() -> None:
    names = [*data_check.PUBLISHED, "cc3m"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; default: all")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="default: data")
    parser.add_argument("--cc", type=Path, default=Path("cc"), help="training lists (default: cc)")
    parser.add_argument("--cc-data", type=Path, default=Path("cc_data"), help="training images")
    parser.add_argument("--decode", action="store_true", help="decode every image, not only look for it")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in names]
    if unknown:
        raise UserError(f"unknown data set {', '.join(unknown)}; known: {', '.join(names)}")

    findings = []
    for name in arguments.names or names:
        if name == "cc3m":
            found = data_check.check_cc3m(arguments.cc, arguments.cc_data)
        else:
            bar = partial(tqdm, desc=name, unit="image", leave=False)
            found = [data_check.check_benchmark(name, arguments.data_root, arguments.decode, bar)]
        print("\n".join(finding.text() for finding in found), flush=True)
        findings += found
    if arguments.names and any(finding.state != data_check.COMPLETE for finding in findings):
        sys.exit(1)


if __name__ == "__main__":
    main()
