"""The command line of `src/demo.py`."""

import argparse

from context_i2w.command_line import Parser
from context_i2w.demo.gallery_images import GALLERIES
from context_i2w.errors import UserError


def make_parser(description: str) -> Parser:
    parser = Parser(description=description, allow_abbrev=False)
    _add_what(parser.add_argument_group("what to do (default: write an HTML gallery)"))
    _add_question(parser.add_argument_group("references and descriptions"))
    _add_model(parser.add_argument_group("model"))
    _add_index(parser.add_argument_group("index"))
    return parser


def check(arguments: argparse.Namespace) -> None:
    """What can be seen to be wrong before anything is loaded. Raises UserError."""
    if arguments.serve and arguments.explain:
        raise UserError("--serve and --explain exclude each other; leave one out")
    if not 1 <= arguments.k <= 1000:
        raise UserError(f"--k {arguments.k}: from 1 to 1000 results can be shown")
    if not 0 <= arguments.port <= 65535:
        raise UserError(f"--port {arguments.port}: from 0 (any free one) to 65535")
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size {arguments.batch_size}: at least 1 is needed")
    if arguments.parameters and not arguments.factory:
        raise UserError("--parameters needs --factory, a FAISS factory string such as IVF1024,PQ64")


def _add_what(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--output", metavar="FILE.html", default="demo.html", help="where the gallery goes")
    group.add_argument("--serve", action="store_true", help="open a page for the browser instead")
    group.add_argument("--host", default="127.0.0.1", help="address for --serve; the default is this machine alone")
    group.add_argument("--port", type=int, default=7860, help="port for --serve; 0: any free one")
    group.add_argument(
        "--explain", action="store_true", help="print the words nearest to the pseudo-word tokens instead"
    )
    group.add_argument("--export", metavar="FILE", help="write the gallery's features to FILE.parquet or FILE.npy")


def _add_question(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--images", metavar="DIR|" + "|".join(GALLERIES),
        help="images to search: any folder, or a benchmark's gallery (default: the toy world's, for a toy checkpoint)",
    )  # fmt: skip
    group.add_argument("--query", nargs="+", metavar="FILE", help="reference images (default: three of the gallery)")
    group.add_argument(
        "--prompts", nargs="+", metavar="TEXT",
        help='descriptions; "[*]" stands for the reference, e.g. "a sketch of [*]" (default: a few examples)',
    )  # fmt: skip
    group.add_argument("--k", type=int, default=10, help="results for each query")
    group.add_argument(
        "--compare", action="store_true", help="image only, text only and image + text beside the mappers"
    )
    group.add_argument("--heat-maps", action="store_true", help="where Context-I2W looked, in the gallery too")


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--resume", action="append", metavar="CKPT",
        help="checkpoint file, run folder, folder of save_pretrained or hub id; repeat it for several mappers of one "
        "CLIP side by side. Default: the newest run under logs/, else the shipped toy checkpoints",
    )  # fmt: skip
    group.add_argument("--openai-pretrained", action="store_true", help="CLIP weights of OpenAI, if CKPT names none")
    group.add_argument("--model", help="CLIP model, e.g. ViT-L/14; default: the one the checkpoint belongs to")
    group.add_argument("--pretrained", metavar="TAG|FILE", help="open_clip tag or local file of CLIP's weights")
    group.add_argument(
        "--data-root", help="folder of the benchmarks (default: data, data/toy/test for a toy checkpoint)"
    )
    group.add_argument("--gpu", type=int, metavar="N", help="number of the GPU (leave it out on a machine without)")
    group.add_argument("--device", help="torch device, e.g. cuda:1, cpu, mps (default: a GPU if there is one)")


def _add_index(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--cache", metavar="DIR", help="where features are kept (default: ~/.cache/context-i2w)")
    group.add_argument("--batch-size", type=int, default=64, help="images per vision pass")
    group.add_argument("--workers", type=int, help="processes that read images (default: by the machine's cores)")
    group.add_argument(
        "--factory", help="search approximately by FAISS, e.g. IVF1024,PQ64 or HNSW32 (default: exactly)"
    )
    group.add_argument("--parameters", default="", help="FAISS's search parameters, e.g. nprobe=32")
