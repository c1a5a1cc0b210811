"""Mapping networks: from an image (and a description) to one pseudo-word token.

Shapes: B batch, N image tokens (class token first), P = N - 1 patch tokens, V vision width, E joint embedding width,
T text width, Q learnable queries, H heads, D width of a head.
Names in comments are the paper's: Intent View Selector and Visual Target Extractor (arXiv 2309.16137, method section).
"""

import itertools
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from context_i2w.model.backbones import CLIPSizes
from context_i2w.model.clip import ImageFeatures
from context_i2w.model.options import ContextI2WOptions, PhiOptions, Pic2WordOptions

LAYER_NORM_EPS = 1e-5


class Mapper(nn.Module):
    """What training, evaluation and the demo ask of a mapper.

    One of your own: subclass this in a file of yours, give it an `Options` dataclass, and name it on the command line,
    `--mapper my_file.py:MyMapper` (docs/extending.md). `options` are the Options that it was made with.
    """

    name: ClassVar[str]  # on the command line and in checkpoints
    title: ClassVar[str]
    paper: ClassVar[str] = ""  # address
    Options: ClassVar[type]
    uses_tokens = True  # False: `image.tokens` is not read, and need not be kept or cached
    uses_condition = True  # False: `condition` is not read, and may be None
    options: Any

    def __init__(self, sizes: CLIPSizes, options: Any = None):
        super().__init__()
        self.options = options or self.Options()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.options}, {sum(weight.numel() for weight in self.parameters()):,} parameters)"
        )

    def forward(self, condition: Tensor | None, image: ImageFeatures) -> Tensor:
        """Pseudo-word tokens [B, T] from the condition [B, E] (a text embedding, not normalised) and image features."""
        raise NotImplementedError


class IntentViewSelector(nn.Module):
    """Rotates the image tokens into the view that the description asks for: z = (W_R x) ⊙ (W_c c).

    W_R is weight-normalised per output row: W = g · v / ‖v‖. rotation=False leaves it out: z = x ⊙ (W_c c).
    """

    def __init__(self, vision_width: int, embed_dim: int, rotation: bool = True):
        super().__init__()
        self.rotation = rotation
        self.condition = nn.Linear(embed_dim, vision_width, bias=False)
        if rotation:
            self.direction = nn.Parameter(nn.Linear(vision_width, vision_width, bias=False).weight.detach().clone())
            self.magnitude = nn.Parameter(self.direction.detach().norm(dim=1, keepdim=True))

    def forward(self, condition: Tensor, tokens: Tensor) -> Tensor:
        """condition [B, E], tokens [B, N, V] -> rotated tokens [B, N, V]."""
        if self.rotation:
            tokens = F.linear(tokens, self.magnitude * F.normalize(self.direction, dim=1, eps=0.0))
        return tokens * self.condition(condition)[:, None]


class ExtractorBlock(nn.Module):
    """One layer of the Visual Target Extractor: the queries attend to the tokens and to themselves, then feed-forward.

    Keys and values are W_kv [m; l] with m = LN_media(z), l = LN_latents(q). There are only Q·H head-queries but
    hundreds of tokens, so W_k is applied to the queries and W_v to the attended sum; m's LayerNorm is split into its
    standardisation, the same in every layer and given to us, and its affine part, which joins the projections:

        (W_q l)·(W_k m) = u·m = (γ⊙u)·ẑ + u·β   with u = W_kᵀ W_q l
        Σ a W_v m       = W_v (γ ⊙ Σ a ẑ + β Σ a)

    The same numbers to rounding, for 2·Q·H·P·V multiply-adds instead of 2·(P + Q)·V·H·D.
    """

    def __init__(self, width: int, heads: int, head_width: int, feed_forward: int):
        super().__init__()
        inner = heads * head_width
        self.heads, self.scale = heads, head_width**-0.5
        self.token_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.query_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.to_query = nn.Linear(width, inner, bias=False)
        self.to_key_value = nn.Linear(width, 2 * inner, bias=False)
        self.to_output = nn.Linear(inner, width, bias=False)
        self.feed_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.feed_in = nn.Linear(width, feed_forward * width, bias=False)
        self.feed_out = nn.Linear(feed_forward * width, width, bias=False)

    def forward(self, queries: Tensor, standardised: Tensor) -> Tensor:
        """queries [B, Q, V], standardised patch tokens ẑ [B, P, V] -> queries [B, Q, V]."""
        queries = queries + self._attend(self.query_norm(queries), standardised)
        return queries + self.feed_out(F.gelu(self.feed_in(self.feed_norm(queries))))

    def attention(self, latents: Tensor, standardised: Tensor) -> Tensor:
        """Weights [B, Q, H, P + Q] of normalised queries over the patch tokens, then over the queries themselves."""
        count = latents.shape[1]
        w_key = self.to_key_value.weight.chunk(2)[0].unflatten(0, (self.heads, -1))  # [H, D, V]
        query = self.to_query(latents).unflatten(-1, (self.heads, -1)) * self.scale
        u = torch.einsum("bqhd,hdv->bqhv", query, w_key).flatten(1, 2)  # [B, Q·H, V]
        gamma, beta = self.token_norm.weight, self.token_norm.bias
        to_tokens = torch.baddbmm((u @ beta)[..., None], u * gamma, standardised.mT)
        to_queries = u @ latents.mT
        scores = torch.cat([to_tokens, to_queries.to(to_tokens.dtype)], dim=-1)
        return scores.softmax(dim=-1).unflatten(1, (count, self.heads))

    def _attend(self, latents: Tensor, standardised: Tensor) -> Tensor:
        weights = self.attention(latents, standardised).flatten(1, 2)  # [B, Q·H, P + Q]
        on_tokens, on_queries = weights.split([standardised.shape[1], latents.shape[1]], dim=-1)
        gamma, beta = self.token_norm.weight, self.token_norm.bias
        seen = gamma * torch.bmm(on_tokens.to(standardised.dtype), standardised)
        seen = seen + beta * on_tokens.sum(-1, keepdim=True) + on_queries @ latents.to(on_queries.dtype)
        w_value = self.to_key_value.weight.chunk(2)[1].unflatten(0, (self.heads, -1))  # [H, D, V]
        value = torch.einsum("bqhv,hdv->bqhd", seen.unflatten(1, (-1, self.heads)), w_value)
        return self.to_output(value.flatten(2))


class VisualTargetExtractor(nn.Module):
    """Learnable queries gather local evidence from the rotated patch tokens."""

    def __init__(self, width: int, queries: int, depth: int, heads: int, head_width: int, feed_forward: int):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.blocks = nn.ModuleList(ExtractorBlock(width, heads, head_width, feed_forward) for _ in range(depth))
        self.final_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, patches: Tensor) -> Tensor:
        """patches [B, P, V] -> normalised queries [B, Q, V]."""
        standardised = F.layer_norm(patches, patches.shape[-1:], eps=LAYER_NORM_EPS)
        queries = self.queries.expand(len(patches), -1, -1)
        for block in self.blocks:
            queries = block(queries, standardised)
        return self.final_norm(queries)


class WordHead(nn.Module):
    """From vision width to a word: LayerNorm, projection into the joint space, an MLP."""

    def __init__(self, vision_width: int, embed_dim: int, text_width: int, hidden: int, layers: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(vision_width, eps=LAYER_NORM_EPS)
        self.projection = nn.Parameter(vision_width**-0.5 * torch.randn(vision_width, embed_dim))
        self.mlp = WordMLP(embed_dim, text_width, hidden, layers, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, V] -> [B, T]."""
        return self.mlp(self.norm(x) @ self.projection)


class WordMLP(nn.Module):
    """layers × (Linear, Dropout, ReLU), then Linear: [B, E] -> [B, T]."""

    def __init__(self, embed_dim: int, text_width: int, hidden: int, layers: int, dropout: float):
        super().__init__()
        widths = [embed_dim] + [hidden] * layers
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(widths[-1], text_width)

    def forward(self, x: Tensor) -> Tensor:
        for linear in self.hidden:
            x = F.relu(self.dropout(linear(x)))
        return self.output(x)


class ContextI2W(Mapper):
    """The paper's mapper: pseudo-word = global(z_class) + tanh(gate) · local(extractor(z_patches))."""

    name, title, paper = "context-i2w", "Context-I2W", "https://arxiv.org/abs/2309.16137"
    Options = ContextI2WOptions

    def __init__(self, sizes: CLIPSizes, options: ContextI2WOptions | None = None):
        super().__init__(sizes, options)
        options = self.options
        self.uses_condition = options.condition
        width = sizes.vision_width
        self.selector = IntentViewSelector(width, sizes.embed_dim, options.rotation)
        if options.local_branch:
            self.extractor = VisualTargetExtractor(
                width, options.queries, options.depth, options.heads, options.head_width, options.feed_forward
            )
        head = (width, sizes.embed_dim, sizes.text_width, options.hidden, options.head_layers, options.dropout)
        if options.global_branch:
            self.global_head = WordHead(*head)
        if options.local_branch:
            self.local_head = WordHead(*head)
        if options.local_branch and options.global_branch:
            self.gate = nn.Parameter(torch.tensor([float(options.gate)]))

    def forward(self, condition: Tensor | None, image: ImageFeatures) -> Tensor:
        if not self.options.local_branch:
            image = ImageFeatures(image.embedding, image.tokens[:, :1])
        rotated = self.rotate(condition, image)
        if not self.options.local_branch:
            return self.global_head(rotated[:, 0])
        local = self.local_head(self.extractor(rotated[:, 1:]).mean(dim=1))
        if not self.options.global_branch:
            return local
        return self.global_head(rotated[:, 0]) + self.gate.tanh() * local

    def rotate(self, condition: Tensor | None, image: ImageFeatures) -> Tensor:
        """The image tokens in the view of the condition, [B, N, V]."""
        if not self.options.condition:
            condition = torch.ones_like(image.embedding)
        return self.selector(condition, image.tokens)


class Pic2Word(Mapper):
    """The baseline (arXiv 2302.03084): pseudo-word = MLP(image embedding); the description is not seen."""

    name, title, paper = "pic2word", "Pic2Word", "https://arxiv.org/abs/2302.03084"
    Options = Pic2WordOptions
    uses_tokens = False
    uses_condition = False

    def __init__(self, sizes: CLIPSizes, options: Pic2WordOptions | None = None):
        super().__init__(sizes, options)
        options = self.options
        self.mlp = WordMLP(sizes.embed_dim, sizes.text_width, options.hidden, options.head_layers, options.dropout)

    def forward(self, condition: Tensor | None, image: ImageFeatures) -> Tensor:
        return self.mlp(image.embedding)


class Phi(Mapper):
    """φ of SEARLE (arXiv 2303.15247) and LinCIR (arXiv 2312.01998): an MLP on the image embedding, not normalised."""

    name, title, paper = "phi", "φ", "https://arxiv.org/abs/2312.01998"
    Options = PhiOptions
    uses_tokens = False
    uses_condition = False

    def __init__(self, sizes: CLIPSizes, options: PhiOptions | None = None):
        super().__init__(sizes, options)
        options = self.options
        hidden = options.hidden * sizes.embed_dim
        self.layers = nn.Sequential(
            *(nn.Linear(sizes.embed_dim, hidden), nn.GELU(), nn.Dropout(options.dropout)),
            *(nn.Linear(hidden, hidden), nn.GELU(), nn.Dropout(options.dropout)),
            nn.Linear(hidden, sizes.text_width),
        )

    def forward(self, condition: Tensor | None, image: ImageFeatures) -> Tensor:
        return self.layers(image.embedding)
