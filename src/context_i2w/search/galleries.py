"""Whatever a gallery is given by: a folder, a list, shards, embeddings that are there already."""

import os
from collections.abc import Sequence
from pathlib import Path

from context_i2w.search.files import SUFFIXES, Files, files_of_folder, files_of_list
from context_i2w.search.parts import files_of_parts, is_parts
from context_i2w.search.shard_gallery import files_of_shards

Images = str | os.PathLike | Sequence[str | os.PathLike] | Files


def find_files(source: Images) -> Files:
    """The images of a folder, of a list of files and folders, of a text file that holds such a list, a path a line, of
    WebDataset shards by a pattern, or of a folder of embeddings (parts.py). Raises UserError if there is none."""
    if isinstance(source, Files):
        return source
    if not isinstance(source, str | os.PathLike):
        return files_of_list(source)
    if os.fspath(source).endswith(".tar"):
        return files_of_shards(os.fspath(source))
    if not os.path.isfile(source):
        return files_of_parts(Path(source)) if is_parts(Path(source)) else files_of_folder(source)
    if os.path.splitext(source)[1].lower() in SUFFIXES:
        return files_of_list([source])
    lines = os.fsdecode(Path(source).read_bytes()).splitlines()
    return files_of_list(filter(None, lines), os.fspath(source))
