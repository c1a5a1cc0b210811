"""How fast training images are read: from a list and from shards, against plain decoding on the same cores.

    python scripts/measure/input.py                                                  # made-up JPEGs, 500 x 375
    python scripts/measure/input.py --workers 8 --images 20000
    python scripts/measure/input.py --list cc/Train_GCC-training_output.csv --images 5000 --workers 8

The same files are read in turn, several rounds, in one run: *plain* decodes each file and converts it to RGB, in as
many processes, and does nothing else; *list* and *shards* do all that training needs: decode, random resized crop,
tokenise, batch, hand over to the training process as bytes; *list_exact* does it by Pillow (`--image-reader exact` of
training). The shards hold the list's own files. Prints one JSON object with images per second: the median over the
rounds and the range, what share of plain decoding and how many times the exact way that is.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from context_i2w.command_line import Options, option, parse
from context_i2w.errors import exit_on_user_error


@dataclass(frozen=True)
class InputOptions(Options):
    list: str | None = option(None, "of training pairs; left out: made-up JPEGs", metavar="FILE")
    images: int = option(2000, "how many of them", at_least=1)
    workers: int = option(2, "reading processes", at_least=0)
    batch_size: int = option(100, "images of a batch", at_least=1)
    rounds: int = option(5, "times that each way is measured", at_least=1)
    image_size: int = option(224, "of the prepared images", at_least=1)


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = parse(InputOptions, argv, prog="python scripts/measure/input.py", description=__doc__)
    import torch

    from benchmarking.input_ways import first, make_pairs, make_ways, measure, report, write_shards
    from context_i2w.data.pairs import read_pair_list

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="measure-input-") as made:
        folder = Path(made)
        pairs = first(asked.images, read_pair_list(asked.list) if asked.list else make_pairs(folder, asked.images))
        write_shards(folder / "shards", pairs)
        rates = measure(make_ways(pairs, folder / "shards", asked), asked.rounds)
        size = sum(Path(file).stat().st_size for file in pairs.images)
    print(json.dumps(report(rates, len(pairs), asked, size)))


if __name__ == "__main__":
    main()
