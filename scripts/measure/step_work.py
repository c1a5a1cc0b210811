"""The work of a training step by formula: operations of the matrix products for one pair; a multiply-add counts two.

Shapes: N image tokens (class token first), V vision width, E joint embedding width, T text width, L text positions.
A training step counts three forward passes for what is trained (forward, gradient of the input, gradient of the
weights) and two for a frozen tower that gradients pass through, as is usual.
"""

import itertools
from dataclasses import dataclass

import open_clip

from context_i2w.model.backbones import CLIPSizes, sizes_by_name
from context_i2w.model.options import ContextI2WOptions


@dataclass(frozen=True)
class TowerShape:
    """CLIP's sizes with what they leave out."""

    sizes: CLIPSizes
    patch_size: int
    vision_layers: int
    text_layers: int


def tower_shape(model: str) -> TowerShape:
    """The shape of one of open_clip's models. Raises UserError if it is unknown."""
    sizes = sizes_by_name(model)
    config = open_clip.get_model_config(model.replace("/", "-"))
    vision, text = config["vision_cfg"], config["text_cfg"]
    return TowerShape(sizes, vision["patch_size"], vision["layers"], text["layers"])


def linear(rows: int, inputs: int, outputs: int) -> int:
    """A matrix product [rows, inputs] by [inputs, outputs]."""
    return 2 * rows * inputs * outputs


def transformer(positions: int, width: int, layers: int, seen: int | None = None) -> int:
    """Blocks of attention and a four times wider feed-forward; each position attends to `seen` ones (default: all)."""
    seen = positions if seen is None else seen
    return layers * (linear(positions, width, 12 * width) + 2 * linear(positions, width, seen))


def vision_tower(shape: TowerShape) -> int:
    """One pass over one image."""
    sizes = shape.sizes
    patches = linear(sizes.image_tokens - 1, 3 * shape.patch_size**2, sizes.vision_width)
    blocks = transformer(sizes.image_tokens, sizes.vision_width, shape.vision_layers)
    return patches + blocks + linear(1, sizes.vision_width, sizes.embed_dim)


def text_tower(shape: TowerShape, positions: int, prefix: int = 0) -> int:
    """One text; the first `prefix` positions are computed once for a whole batch and are not counted."""
    sizes = shape.sizes
    blocks = transformer(positions - prefix, sizes.text_width, shape.text_layers, positions)
    return blocks + linear(1, sizes.text_width, sizes.embed_dim)


def mapper(sizes: CLIPSizes, options: ContextI2WOptions | None = None, absorbed: bool = True) -> int:
    """Context-I2W's forward pass for one image; absorbed: keys and values as in mappers.ExtractorBlock."""
    options = options or ContextI2WOptions()
    width = sizes.vision_width
    used = sizes.image_tokens if options.local_branch else 1
    selector = linear(1, sizes.embed_dim, width) + (linear(used, width, width) if options.rotation else 0)
    heads = (options.local_branch + options.global_branch) * _word_head(sizes, options)
    if not options.local_branch:
        return selector + heads
    attention = (_absorbed_attention if absorbed else _plain_attention)(sizes, options)
    feed_forward = 2 * linear(options.queries, width, options.feed_forward * width)
    return selector + options.depth * (attention + feed_forward) + heads


def _plain_attention(sizes: CLIPSizes, options: ContextI2WOptions) -> int:
    inner, seen = options.heads * options.head_width, sizes.image_tokens - 1 + options.queries
    key_value = linear(seen, sizes.vision_width, 2 * inner)
    return key_value + _query_and_output(sizes, options) + 2 * linear(options.queries, inner, seen)


def _absorbed_attention(sizes: CLIPSizes, options: ContextI2WOptions) -> int:
    inner, seen = options.heads * options.head_width, sizes.image_tokens - 1 + options.queries
    per_query = 2 * linear(options.queries, inner, sizes.vision_width)  # W_k on the queries, W_v on the sums
    head_queries = options.queries * options.heads
    return per_query + _query_and_output(sizes, options) + 2 * linear(head_queries, sizes.vision_width, seen)


def _query_and_output(sizes: CLIPSizes, options: ContextI2WOptions) -> int:
    return 2 * linear(options.queries, sizes.vision_width, options.heads * options.head_width)


def _word_head(sizes: CLIPSizes, options: ContextI2WOptions) -> int:
    widths = [sizes.vision_width, sizes.embed_dim, *[options.hidden] * options.head_layers, sizes.text_width]
    return sum(linear(1, before, after) for before, after in itertools.pairwise(widths))


@dataclass(frozen=True)
class Way:
    """How a training step is computed; the defaults are the published way.

    vision_passes: 0 with cached image features. condition_positions: 0 with a cached condition. prefix: positions of
    the composed text that are computed once for the batch.
    """

    vision_passes: int = 2
    condition_positions: int = 77
    composed_positions: int = 77
    prefix: int = 0
    clip_gradients: bool = True  # weight gradients gather in the text tower
    absorbed: bool = False

    def per_sample(self, shape: TowerShape, options: ContextI2WOptions | None = None) -> int:
        """Operations of one training sample, forward and backward."""
        condition = text_tower(shape, self.condition_positions) if self.condition_positions else 0
        composed = text_tower(shape, self.composed_positions, self.prefix) * (3 if self.clip_gradients else 2)
        return (
            self.vision_passes * vision_tower(shape)
            + condition
            + composed
            + 3 * mapper(shape.sizes, options, self.absorbed)
        )


def text_only_step(shape: TowerShape, caption: int, masked: int, hidden: int = 4) -> int:
    """One caption of the text objective with φ: the caption read, the masked one there and back, φ trained.

    caption, masked: positions, of the longest of a batch. hidden: φ's, times the embedding's width.
    """
    sizes, inner = shape.sizes, hidden * shape.sizes.embed_dim
    phi = linear(1, sizes.embed_dim, inner) + linear(1, inner, inner) + linear(1, inner, sizes.text_width)
    return text_tower(shape, caption) + 2 * text_tower(shape, masked) + 3 * phi


CAPTION = 20  # positions of a caption
PROMPT = 6  # positions of `a photo of <|replace|>`, of which the first four are the same in all rows
WAYS = {
    "published": Way(),
    "one vision pass": Way(vision_passes=1),
    "frozen CLIP, short text": Way(1, CAPTION, PROMPT, clip_gradients=False),
    "image tokens cached": Way(0, CAPTION, PROMPT, clip_gradients=False),
    "condition cached": Way(0, 0, PROMPT, clip_gradients=False),
    "ours": Way(1, CAPTION, PROMPT, 4, clip_gradients=False, absorbed=True),
    "ours, image tokens cached": Way(0, CAPTION, PROMPT, 4, clip_gradients=False, absorbed=True),
    "ours, condition cached too": Way(0, 0, PROMPT, 4, clip_gradients=False, absorbed=True),
}
