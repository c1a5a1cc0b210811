"""The FLOP model against the specification's figures and against torch's counter."""

import pytest
import torch

import published_way
from context_i2w.model.clip import ImageFeatures
from context_i2w.model.flops import counted, counted_forward
from context_i2w.model.mappers import ContextI2W, ContextI2WOptions, Phi
from context_i2w.model.prompts import PLACEHOLDER_ID, Tokenizer, template
from context_i2w.training.objective import contrastive_loss
from step_work import WAYS, TowerShape, Way, mapper, text_only_step, text_tower, tower_shape, vision_tower

VIT_L = tower_shape("ViT-L/14")


def giga(count: int) -> float:
    return count / 1e9


def test_towers_and_mapper_are_the_counted_ones():
    assert giga(vision_tower(VIT_L)) == pytest.approx(162.0, abs=0.05)
    counts = [giga(text_tower(VIT_L, positions)) for positions in (77, 20, 6)]
    assert counts == pytest.approx([13.3, 3.4, 1.0], abs=0.05)
    assert giga(mapper(VIT_L.sizes, absorbed=False)) == pytest.approx(4.29, abs=0.005)


@pytest.mark.parametrize(
    ("way", "wanted", "off"),
    [
        ("published", 390.1, 0.05),
        ("one vision pass", 228.1, 0.05),
        ("frozen CLIP, short text", 180.3, 0.05),
        ("image tokens cached", 18.3, 0.05),
        ("condition cached", 14.9, 0.05),
        ("ours", 170, 0.5),
        ("ours, image tokens cached", 8, 0.5),
        ("ours, condition cached too", 4.6, 0.25),
    ],
)
def test_ways_are_the_counted_ones(way, wanted, off):
    assert giga(WAYS[way].per_sample(VIT_L)) == pytest.approx(wanted, abs=off)


@pytest.fixture
def small(golden_clip):
    visual = golden_clip.visual
    return TowerShape(
        golden_clip.sizes,
        visual.patch_size[0],
        len(visual.transformer.resblocks),
        len(golden_clip.transformer.resblocks),
    )


def test_towers_equal_torchs_count(golden_clip, small):
    sizes, batch = golden_clip.sizes, 3
    images = torch.randn(batch, 3, sizes.image_size, sizes.image_size)
    assert counted(lambda: golden_clip.encode_image(images)) == batch * vision_tower(small)
    ids = Tokenizer()(["a dog on a beach", "cat"])
    longest = int(ids.argmax(1).max()) + 1
    prefixed = counted(lambda: golden_clip.encode_text(ids))
    assert prefixed < 2 * text_tower(small, longest)
    one = ids[:1]
    assert counted(lambda: golden_clip.encode_text(one)) == text_tower(small, longest)
    prompt = Tokenizer()([template("a photo of [*]")])
    words = torch.randn(batch, sizes.text_width)
    with torch.no_grad():
        rows, more = (counted(lambda w=w: golden_clip.compose(prompt, w)) for w in (words, words.repeat(2, 1)))
    assert more - rows == batch * text_tower(small, 6, prefix=4)


@pytest.mark.parametrize("absorbed", [True, False])
def test_mapper_equals_torchs_count(small, absorbed):
    options = ContextI2WOptions(queries=3, depth=2, heads=2, head_width=8, hidden=24)
    network = ContextI2W(small.sizes, options)
    image = ImageFeatures(
        torch.randn(2, small.sizes.embed_dim), torch.randn(2, small.sizes.image_tokens, small.sizes.vision_width)
    )
    condition = torch.randn(2, small.sizes.embed_dim)
    compute = network if absorbed else lambda c, i: published_way.plain_mapper(network, c, i)
    assert counted(lambda: compute(condition, image)) == 2 * mapper(small.sizes, options, absorbed)


@pytest.mark.parametrize(
    "options",
    [{"rotation": False}, {"local_branch": False}, {"global_branch": False}, {"queries": 2, "depth": 1}],
    ids=str,
)
def test_ablated_mappers_equal_torchs_count(small, options):
    options = ContextI2WOptions(**options)
    assert counted_forward(ContextI2W(small.sizes, options), small.sizes) == mapper(small.sizes, options)


def test_the_text_only_step_is_near_torchs_count(golden_clip, small):
    batch = 8
    ids = Tokenizer()(["a dog on a beach " * 8] * batch)  # long, as all rows share their first position
    ids[:, 1] = torch.arange(1000, 1000 + batch)  # no positions in common
    masked, network = ids.clone(), Phi(golden_clip.sizes)
    masked[:, 2] = PLACEHOLDER_ID

    def step():
        text = golden_clip.encode_text(ids)
        (golden_clip.compose(masked, network(None, ImageFeatures(text, None))) - text).square().mean().backward()

    positions = int(ids.argmax(1).max()) + 1
    assert counted(step) == pytest.approx(batch * text_only_step(small, positions, positions), rel=0.05)


def test_steps_are_near_torchs_count(golden_clip_state, small):
    """Three passes for all that is trained is a little more than is done: no gradient goes into the image tokens."""
    from context_i2w.model.clip_weights import clip_from_openai_state

    clip = clip_from_openai_state(golden_clip_state, "golden")
    network, batch = ContextI2W(clip.sizes), 8
    images = torch.randn(batch, 3, clip.sizes.image_size, clip.sizes.image_size)
    tokenizer = Tokenizer()
    captions = tokenizer(["a dog on a beach"] * batch)
    prompt = tokenizer([template("a photo of [*]")])

    def ours():
        image = clip.encode_image(images)
        text = clip.compose(prompt, network(clip.encode_text(captions), image))
        contrastive_loss(image.embedding, text, clip.logit_scale).backward()

    positions = int(captions.argmax(1).max()) + 1
    lean = Way(1, positions, 6, 4, clip_gradients=False, absorbed=True).per_sample(small)
    assert counted(ours) <= batch * 1.05 * lean
    clip.requires_grad_(True)
    plain = counted(lambda: published_way.plain_step(clip, network, images, captions, prompt))
    assert plain == pytest.approx(batch * WAYS["published"].per_sample(small), rel=0.05)
