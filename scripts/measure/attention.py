"""Do Context-I2W's maps follow the description? Toy scenes with two objects, descriptions that keep one of them.

The shipped checkpoint, on the CPU, in seconds:
    python scripts/measure/attention.py
    python scripts/measure/attention.py --resume logs/RUN --scenes 200 --output attention.json

Each scene is described twice in the same form, once so that the first object is kept and once the second. Measured is
the share of a map's mass that lies on the object to keep, beside what a map that is even over the picture would have
there (chance), and how much of the mass on an object comes and goes with the description (moved): share while it is
to be kept minus share while the other is. A map that ignores the description moves by 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarking.options import MeasureOptions
from context_i2w.command_line import option, parse
from context_i2w.errors import UserError, exit_on_user_error


@dataclass(frozen=True)
class AttentionOptions(MeasureOptions):
    resume: str = option("toy", "of Context-I2W, or its folder; toy is the shipped one", metavar="CKPT")
    scenes: int = option(200, "that are drawn", at_least=2)


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = parse(AttentionOptions, argv, prog="python scripts/measure/attention.py", description=__doc__)
    from benchmarking.attention_mass import FORMS, measure, table  # imports torch, which --help does without
    from benchmarking.timing import start
    from context_i2w.evaluation.report import write_json
    from context_i2w.model.mappers import ContextI2W
    from context_i2w.search.retriever import Retriever

    retriever = Retriever.load(asked.resume, device=start(asked))
    if not isinstance(retriever.mapper, ContextI2W):
        raise UserError(f"--resume {asked.resume}: {retriever.mapper_name} has no maps; give a Context-I2W checkpoint")
    results = measure(retriever, asked.scenes)
    print(table(results))
    if asked.output:
        content = {"checkpoint": Path(asked.resume).name, "scenes": asked.scenes, "forms": FORMS, "results": results}
        write_json(content, asked.output)


if __name__ == "__main__":
    main()
