"""Trains a mapping network: `python src/main.py --help`.

Commands to begin with: context_i2w/training/command.py.
"""

from context_i2w.training.command import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
