"""Whose pictures are searched: a folder, or a benchmark's gallery."""

from pathlib import Path

from context_i2w.benchmarks import BENCHMARKS
from context_i2w.benchmarks.base import check_images_exist
from context_i2w.demo.options import GALLERIES
from context_i2w.search.files import Files, files_of_list
from context_i2w.search.galleries import find_files


def is_benchmark(images: str) -> bool:
    """A folder of that name in the working directory is a folder."""
    return images in GALLERIES and not Path(images).is_dir()


def find_images(images: str, data_root: Path) -> Files:
    """The images of a folder or a list, or those that a benchmark ranks. Raises UserError if they are not there."""
    if not is_benchmark(images):
        return find_files(images)
    name, options = GALLERIES[images]
    benchmark = BENCHMARKS[name].load(data_root, options or BENCHMARKS[name].options())
    check_images_exist(benchmark)
    return files_of_list([source.path for group in benchmark.groups for source in group.gallery], images)
