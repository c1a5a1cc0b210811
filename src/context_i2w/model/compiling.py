"""torch.compile as training uses it."""

from typing import Any

OPTIONS: dict[str, Any] = {
    # Buffers that are written again in place gave some of the mapper's gradients wrong (torch 2.14, on a CPU).
    "inplace_buffers": False,
    # Dropout takes torch's own random numbers, so that a compiled run drops what a plain one does.
    "fallback_random": True,
}
