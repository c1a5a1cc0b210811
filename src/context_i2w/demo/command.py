"""Search pictures by a reference image and a description: an HTML gallery, a page in the browser, an explanation.

The toy world with the shipped checkpoint, on the CPU: a page, a gallery, the words nearest to pseudo-word tokens:
    python src/demo.py --serve
    python src/demo.py --compare --heat-maps --output demo.html
    python src/demo.py --explain
Your own pictures, with a released mapper (docs/checkpoints.md says where to get one):
    python src/demo.py --resume CKPT --images my_photos/ --query ref.jpg --prompts "a sketch of [*]" "on a beach"
    python src/demo.py --resume CKPT --images my_photos/ --serve --gpu 0
A benchmark's gallery; millions of images; features for another vector database:
    python src/demo.py --resume CKPT --images imgnet --query ref.jpg --prompts "an origami of [*]"
    python src/demo.py --resume CKPT --images my_photos/ --factory IVF1024,PQ64 --parameters nprobe=32 --serve
    python src/demo.py --resume CKPT --images my_photos/ --export features.parquet
"""

from collections.abc import Sequence

from context_i2w.demo.options import parse_demo
from context_i2w.errors import exit_on_user_error


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    settings = parse_demo(argv, __doc__)
    from context_i2w.demo.run import run  # imports torch, which --help does without

    run(settings)
