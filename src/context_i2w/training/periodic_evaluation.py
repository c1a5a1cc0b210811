"""Benchmarks evaluated while a mapper trains: a few numbers every N epochs."""

from context_i2w.benchmarks import BENCHMARKS
from context_i2w.evaluation.evaluate import evaluate
from context_i2w.evaluation.setup import choose_data_root
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.mappers import Mapper
from context_i2w.training.options import EvaluationOptions

ROW = "composed"


class PeriodicEvaluation:
    """Reads the benchmarks at once, so that missing files are found before training and not an epoch later.

    Raises UserError for missing data.
    """

    def __init__(self, options: EvaluationOptions, clip: FrozenCLIP):
        root = choose_data_root(options.data_root, clip)
        self.clip = clip
        self.benchmarks = {task: BENCHMARKS[task].load(root) for task in options.tasks}

    def scalars(self, mapper: Mapper) -> dict[str, float]:
        """`task/metric` -> percent of the composed query; the mean over the groups where there are several."""
        mapper.eval()
        scalars: dict[str, float] = {}
        for task, benchmark in self.benchmarks.items():
            metrics = evaluate(benchmark, self.clip, {ROW: mapper}, methods=(ROW,)).metrics
            group = "mean" if "mean" in metrics else next(iter(metrics))
            scalars |= {f"{task}/{name}": value for name, value in metrics[group][ROW].items()}
        return scalars
