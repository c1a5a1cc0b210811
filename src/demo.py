"""Searches pictures by a reference image and a description: `python src/demo.py --help`.

Commands to begin with: context_i2w/demo/command.py.
"""

from context_i2w.demo.command import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
