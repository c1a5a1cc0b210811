"""Whatever a gallery is given by: a folder, a list, shards, embeddings that are there already."""

import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from context_i2w.data.shard_files import DAMAGE, BrokenShard, QuickHeader, expand_shards, is_local, members
from context_i2w.errors import UserError
from context_i2w.files import file_state
from context_i2w.model.images import Packed
from context_i2w.search.files import SUFFIXES, Files, files_of_folder, files_of_list
from context_i2w.search.parts import files_of_parts, is_parts

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


@dataclass(frozen=True)
class ShardFiles(Files):
    """SHARD.tar/KEY.ENDING is a picture's name, its shard's state is its own."""

    places: dict[str, tuple[str, int, int]] = field(default_factory=dict)  # shard, first byte, size

    def path(self, name: str) -> Packed:
        shard, begin, size = self.places[name]
        return Packed(self.root / name, self.root / shard, begin, size)


def files_of_shards(pattern: str) -> ShardFiles:
    """The pictures of shards by a pattern. Raises UserError for one that is not here or damaged, and for no image."""
    shards = expand_shards(pattern)
    if remote := [shard for shard in shards if not is_local(shard)]:
        raise UserError(f"{remote[0]}: pictures that are searched lie in shards on this machine; fetch it first")
    paths = sorted(map(os.path.abspath, shards))
    root = Path(os.path.commonpath(list(map(os.path.dirname, paths))))
    states, places = {}, {}
    for path in paths:
        shard, state = Path(path).relative_to(root).as_posix(), file_state(path)
        try:
            with tarfile.open(path, "r:", tarinfo=QuickHeader) as archive:
                for _, _, ending, header in members(archive):
                    if f".{ending.rpartition('.')[2]}" in SUFFIXES:
                        name = f"{shard}/{header.name}"
                        states[name], places[name] = state, (shard, header.offset_data, header.size)
        except (*DAMAGE, BrokenShard) as error:
            raise UserError(f"{path}: not a plain tar ({error}); mend it, unpack it or leave it out") from None
    if not states:
        raise UserError(f"{pattern}: no images in these shards (looked for {', '.join(sorted(SUFFIXES))})")
    return ShardFiles(root, states, pattern, places=places)
