"""Evaluates mappers on a benchmark: `python src/eval_retrieval.py --help`.

Commands to begin with: context_i2w/evaluation/command.py.
"""

from context_i2w.evaluation.command import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
