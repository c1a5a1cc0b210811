"""Context-I2W: images mapped to context-dependent pseudo-words for zero-shot composed image retrieval.

from context_i2w import Retriever
"""

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from context_i2w.checkpoints.shared import from_pretrained, save_pretrained
    from context_i2w.search.retriever import Retriever

__version__ = "0.1.0"

# Torch's threads that wait for one another sleep at once instead of spinning, which costs several times the work where
# other programs run too. Read when torch is loaded, so here, before any command loads it; what the user has set stays.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
    os.environ["OMP_WAIT_POLICY"] = "passive"

# Imported at first use: `import context_i2w` stays free of torch.
_HOMES = {
    "Retriever": "context_i2w.search.retriever",
    "from_pretrained": "context_i2w.checkpoints.shared",
    "save_pretrained": "context_i2w.checkpoints.shared",
}
__all__ = ["Retriever", "__version__", "from_pretrained", "save_pretrained"]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
