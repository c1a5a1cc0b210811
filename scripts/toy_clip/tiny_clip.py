"""The tiny CLIP's word table and file: only the word pieces of the toy world have a row.

File: open_clip's state dict in float16, `token_embedding.weight` replaced by `token_embedding.rows` [n, T] and
`token_embedding.ids` [n] int32. A word without a row is an error when the model reads it, never a random vector.
"""

from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from context_i2w.files import atomic_path
from context_i2w.model.prompts import END_ID, PLACEHOLDER_ID, START_ID, Tokenizer
from context_i2w.toy_world import vocabulary

# Words of captions and prompts that name no attribute. A word that no caption holds would have an untrained row.
FUNCTION_WORDS = "a an the of , and with without no only instead on in at next to beside that is photo picture"


def words() -> list[str]:
    """Every word that has a row in the tiny CLIP's table."""
    v = vocabulary
    named = (*v.KINDS, *v.COLOURS, *v.PATTERNS, *v.LENGTHS, *v.BACKGROUNDS, *v.CONVERTED)
    return sorted({*" ".join([FUNCTION_WORDS, *v.WHERE.values()]).split(), *named})


class WordTable:
    """The used token ids in ascending order; `rows(ids)` are their places in the table."""

    def __init__(self, tokenizer: Tokenizer | None = None):
        tokenizer = tokenizer or Tokenizer()
        pieces = {piece for word in words() for piece in tokenizer.encode(word)}
        self.ids = torch.tensor(sorted({0, *pieces, PLACEHOLDER_ID, START_ID, END_ID}), dtype=torch.int32)
        self._row = {int(token): row for row, token in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: Tensor) -> Tensor:
        """Rows of token ids [B, L]; order is kept, so the end token still has the highest number.

        Raises ValueError for an id that the table lacks.
        """
        found = torch.searchsorted(self.ids.long(), ids).clamp(max=len(self) - 1)
        if not (self.ids[found] == ids).all():
            raise ValueError(f"token ids without a row: {sorted(set(ids[self.ids[found] != ids].tolist()))}")
        return found


def new_tiny_clip(config: dict, table: WordTable) -> nn.Module:
    """open_clip's CLIP with random weights and a word table of the used rows only."""
    model = open_clip.CLIP(**config)
    model.token_embedding = nn.Embedding(len(table), config["text_cfg"]["width"])
    nn.init.normal_(model.token_embedding.weight, std=0.02)
    return model


def encode_rows(model: Any, rows: Tensor) -> Tensor:
    """Text embeddings [B, E] of table rows [B, L], as many positions as given."""
    length = rows.shape[1]
    x = model.token_embedding(rows) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x[torch.arange(len(x)), rows.argmax(dim=1)])
    return x @ model.text_projection


def save_tiny_clip(model: Any, table: WordTable, path: Path) -> None:
    """Writes the file described above."""
    state = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    state["token_embedding.rows"] = state.pop("token_embedding.weight")
    state["token_embedding.ids"] = table.ids
    state["logit_scale"] = model.logit_scale.detach().clone()
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata={"format": "pt"})
