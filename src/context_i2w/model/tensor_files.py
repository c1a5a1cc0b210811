"""Reads tensors from files without running anything in them: safetensors, torch.save, TorchScript archives."""

import collections
import os
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from context_i2w.errors import UserError
from context_i2w.files import shown

State = dict[str, Tensor]
VOCABULARY = 49408  # CLIP's byte pairs

# SEARLE's saver puts a path beside the tensors; it names a folder and opens nothing.
_PATHS = [(PosixPath, "pathlib.PosixPath"), (PosixPath, "pathlib._local.PosixPath")]
# Optimisers' states hold learning rates as NumPy scalars; nothing else of NumPy is let in.
_SCALAR = np.float64().__reduce__()[0]  # the private function that a pickle names
_NUMPY_SCALARS: list[Any] = [
    _SCALAR,
    (_SCALAR, "numpy.core.multiarray.scalar"),  # as NumPy 1 wrote it
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
]
_DTYPES = {f"{name.capitalize()}Storage": getattr(torch, name) for name in ("float", "half", "double", "long", "int")}
_REAL = {torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool}
_DTYPES |= {"BFloat16Storage": torch.bfloat16, "ByteStorage": torch.uint8, "BoolStorage": torch.bool}


def check_readable(path: Path, what: str) -> None:
    """Raises UserError, naming the remedy, if there is no such file, it is empty or a pointer to one."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such {what}; mend the name (docs/checkpoints.md says where files are)")
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from None
    if not head:
        raise UserError(f"{path}: an empty file; fetch it again")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")


def load_safely(path: Path) -> Any:
    """What torch.save wrote, if it is tensors and plain values; else a UserError."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([*_NUMPY_SCALARS, *_PATHS]):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise nearly anything
        raise UserError(f"{path}: does not load safely ({first_line(error)})") from None


def load_tensors(path: Path) -> State:
    """The tensors of a safetensors file. Raises UserError."""
    try:
        return load_file(path)
    except Exception as error:
        raise UserError(f"{path}: can't be read as safetensors ({first_line(error)})") from None


def check_state(state: Any, where: str) -> State:
    """The same, if it is tensors of real numbers under names. Raises UserError naming the first entry that is not."""
    if not isinstance(state, dict) or not state:
        raise UserError(f"{where}: {_described(state)} where tensors under their names should be")
    for name, tensor in state.items():
        dense = isinstance(tensor, Tensor) and tensor.layout is torch.strided and tensor.device.type == "cpu"
        if not isinstance(name, str) or not dense or tensor.dtype not in _REAL:
            raise UserError(f"{where}: entry {_described(name)} is {_described(tensor)}, not a tensor of real numbers")
    return state


def read_state(path: Path) -> State:
    """Tensors of a weights file under their names: safetensors, a torch.save of a state dict, or OpenAI's archive."""
    check_readable(path, "weights file")
    if path.suffix == ".safetensors":
        return _whole_word_table(load_tensors(path))
    if is_torchscript(path):
        return check_state(read_torchscript(path), str(path))
    content = load_safely(path)
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if isinstance(content, dict):
        content = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    return without_module(check_state(content, str(path)))


def without_module(state: State) -> State:
    """The same tensors without the prefix that DistributedDataParallel puts before names."""
    return {key.removeprefix("module."): value for key, value in state.items()}


def is_torchscript(path: Path) -> bool:
    """Whether the file is a TorchScript archive, as OpenAI publishes CLIP."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


def read_torchscript(path: Path) -> State:
    """Tensors of a TorchScript archive under their names; its code is not looked at. Raises UserError."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as file:
                return dict(_tensors(_ArchiveReader(file, archive, name.removesuffix(".pkl")).load(), ""))
    except Exception as error:
        raise UserError(f"{path}: a TorchScript archive whose tensors can't be read ({first_line(error)})") from None


class _Module:
    """A module of an archive: its attributes, or whatever its own code would have been given."""

    def __setstate__(self, state: Any):
        self.__dict__ = state if isinstance(state, dict) else {}


class _ArchiveReader(pickle.Unpickler):
    """Rebuilds modules' attributes; every class of the archive's is the same inert one, all other names are refused."""

    def __init__(self, file, archive: zipfile.ZipFile, folder: str):
        super().__init__(file)
        self.archive, self.folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        known = {"_rebuild_tensor_v2": _rebuild_tensor, "OrderedDict": collections.OrderedDict}
        known |= {"restore_type_tag": lambda value, _: value}
        known |= {f"build_{kind}list": list for kind in ("int", "double", "bool", "tensor")}
        if module in ("torch._utils", "collections", "torch.jit._pickle") and name in known:
            return known[name]
        raise pickle.UnpicklingError(f"it holds {module}.{name}")

    def persistent_load(self, key: tuple) -> Tensor:
        _, dtype, name, _, count = key
        entry = self.archive.getinfo(f"{self.folder}/{name}")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError("its tensors are compressed")
        content = bytearray(self.archive.read(entry))
        values = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        if len(values) != count:
            raise pickle.UnpicklingError(f"{len(values)} values where {count} should be")
        return values


def _whole_word_table(state: State) -> State:
    """A partial word table (`token_embedding.rows`, `.ids`) written out, with NaN for the words it lacks."""
    if "token_embedding.rows" not in state:
        return state
    rows, ids = state.pop("token_embedding.rows"), state.pop("token_embedding.ids")
    table = torch.full((VOCABULARY, rows.shape[1]), float("nan"))
    table[ids.long()] = rows.float()
    return state | {"token_embedding.weight": table}


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)  # which stays inside the storage


def _tensors(module: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.")


def _described(value: Any) -> str:
    return f"a tensor {tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else shown(repr(value))


def first_line(error: BaseException) -> str:
    """The error's first line, cut: it goes into a line of ours."""
    return shown((str(error).strip() or type(error).__name__).splitlines()[0], 200)
