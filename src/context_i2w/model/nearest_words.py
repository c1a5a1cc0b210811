"""What a pseudo-word token is like: the words of CLIP's vocabulary that lie nearest to it."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.prompts import Tokenizer


class NearestWords:
    """The whole words of a CLIP's vocabulary (those that it has an embedding for), to be looked up by cosine."""

    def __init__(self, clip: FrozenCLIP):
        words = Tokenizer().whole_words()
        known = clip.known_words
        ids = [i for i in words if known is None or known[i]]
        self.words = [words[i] for i in ids]
        with torch.no_grad():
            self.embeddings = normalize(clip.token_embedding.weight[ids].float(), dim=-1)

    def __call__(self, pseudo_words: Tensor, count: int = 10) -> list[list[tuple[str, float]]]:
        """For each pseudo-word token [B, T] its nearest words with their cosines, best first."""
        scores = normalize(pseudo_words.float(), dim=-1) @ self.embeddings.T
        best = scores.topk(min(count, len(self.words)))
        return [
            [(self.words[i], value) for i, value in zip(row.tolist(), values.tolist())]
            for row, values in zip(best.indices, best.values)
        ]
