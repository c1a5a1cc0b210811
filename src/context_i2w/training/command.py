"""Trains a mapping network.

The built-in toy world, on a laptop's CPU in minutes; trains, evaluates the four tasks, writes a report:
    python src/main.py
The baseline, or another text to train on:
    python src/main.py --mapper pic2word --training-text mixed
Conceptual Captions with ViT-L/14, on every GPU of the machine (docs/training.md tells how to get there):
    python src/main.py --train-data cc/Train_GCC-training_output.csv --model ViT-L/14 --openai-pretrained
Go on with the newest run:
    python src/main.py --resume auto
"""

import os
import sys
from collections.abc import Sequence

from context_i2w.errors import as_typed, exit_on_user_error
from context_i2w.training.options import parse_settings


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    settings = parse_settings(argv)
    from context_i2w.training.run import train  # imports torch, which --help does without
    from context_i2w.training.toy_run import is_on_toy_world, train_and_report

    if is_on_toy_world(settings):
        train_and_report(settings)
        return
    folder = train(settings)
    if folder is None:
        sys.exit(130)
    if int(os.environ.get("RANK", 0)) == 0:
        evaluation = as_typed(f"python src/eval_retrieval.py --eval-mode cirr --resume {folder}")
        print(f"trained: {folder}; evaluate it with `{evaluation}`")
