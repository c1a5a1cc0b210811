"""Options that measuring commands share. Imports nothing that takes time."""

from dataclasses import dataclass
from pathlib import Path

from context_i2w.command_line import Options, option

# factory: FAISS's search parameters
FACTORIES = {
    "Flat": ("",),
    "IVF1024,Flat": ("nprobe=16", "nprobe=64"),
    "IVF1024,PQ64": ("nprobe=16", "nprobe=64"),
    "HNSW32": ("efSearch=64", "efSearch=256"),
}


@dataclass(frozen=True)
class MeasureOptions(Options):
    device: str = option("cpu", "cpu or cuda")
    threads: int | None = option(None, "on the CPU; left out: torch's", at_least=1)
    output: Path | None = option(None, "every number", metavar="FILE.json")
