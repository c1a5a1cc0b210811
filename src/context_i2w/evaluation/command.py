"""Evaluates mappers on a composed image retrieval benchmark: a table, and files with every number.

Toy world, on the CPU, in seconds:   python src/eval_retrieval.py --eval-mode cirr
The newest run or the shipped toy checkpoint is taken; name others:
    python src/eval_retrieval.py --eval-mode cirr --resume logs/RUN/checkpoints/last.pt --output cirr.json
Every benchmark at hand, with intervals: python src/eval_retrieval.py --eval-mode all --intervals --output all.json
Published checkpoint, one GPU (data/README.md says how to get the data):
    python src/eval_retrieval.py --openai-pretrained --resume CKPT --eval-mode cirr --gpu 0
    python src/eval_retrieval.py --openai-pretrained --resume CKPT --eval-mode fashion --source dress --gpu 0
    python src/eval_retrieval.py --openai-pretrained --resume CKPT --eval-mode cirr_test --submission-dir DIR
"""

from collections.abc import Sequence

from context_i2w.errors import exit_on_user_error
from context_i2w.evaluation.options import parse_evaluation


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = parse_evaluation(argv, __doc__.splitlines()[0])
    from context_i2w.evaluation.run import run  # imports torch, which --help does without

    run(asked)
