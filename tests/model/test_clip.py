"""Frozen CLIP against the golden towers, the plain text tower, and open_clip's own model."""

import open_clip
import pytest
import torch

from conftest import GPU, metadata, relative
from context_i2w.errors import UserError
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.clip_weights import clip_from_openai_state, load_clip, sizes_by_name
from context_i2w.model.prompts import PLACEHOLDER_ID, Tokenizer, mark_placeholders, template
from published_way import plain_text

TOKENIZER = Tokenizer()


def test_image_features_equal_the_golden_ones(golden_clip, golden_step):
    image = golden_clip.encode_image(golden_step["images"])
    assert relative(image.embedding, golden_step["image_features"]) < 5e-6
    assert relative(image.tokens, golden_step["image_tokens"]) < 5e-6


@pytest.mark.skipif(not GPU, reason="needs a GPU")
def test_images_are_seen_in_whole_float32(golden_clip, golden_clip_state):
    """Sixty-four at once: a GPU convolves so many in TF32 where it may."""
    images = torch.randn(64, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    there = clip_from_openai_state(golden_clip_state, "golden").to("cuda")
    for found, wanted in zip(there.encode_image(images), golden_clip.encode_image(images), strict=True):
        assert relative(found.cpu(), wanted) < 5e-6


def test_text_features_equal_the_golden_ones(golden_clip, golden_step):
    ids = TOKENIZER([mark_placeholders(caption) for caption in metadata("step_small")["captions"]])
    assert torch.equal(ids, golden_step["replaced_token_ids"])
    assert relative(golden_clip.encode_text(ids), golden_step["text_cls_embeddings"]) < 5e-6


def test_composition_equals_the_golden_one(golden_clip, golden_step):
    """The published code writes the word over the end token of "a photo of"; ours has a placeholder there."""
    composed = golden_clip.compose(TOKENIZER([template("a photo of [*]")]), golden_step["pseudo_words"])
    assert relative(composed, golden_step["composed_text_features"]) < 5e-6


def test_each_row_has_its_own_placeholder_position(golden_clip):
    """The published code takes row 0's position for all rows."""
    prompts = [template("[*]"), template("a photo of [*] , on a beach")]
    words = torch.randn(2, golden_clip.sizes.text_width)
    both = golden_clip.compose(TOKENIZER(prompts), words)
    for row, prompt in enumerate(prompts):
        alone = golden_clip.compose(TOKENIZER([prompt]), words[row : row + 1])
        assert relative(both[row], alone[0]) < 5e-6


def test_short_text_tower_equals_all_positions(golden_clip):
    ids = TOKENIZER([template("a [*] and a dog"), "cat"])
    with torch.no_grad():
        assert relative(golden_clip.encode_text(ids), plain_text(golden_clip, ids)) < 5e-6


def test_several_words_in_one_prompt(golden_clip):
    width = golden_clip.sizes.text_width
    ids = TOKENIZER([template("[*] beside [*]")])
    words = torch.randn(3, 2, width)
    own = golden_clip.compose(ids, words)
    same = golden_clip.compose(ids, words[:, :1].expand(-1, 2, -1))
    assert relative(golden_clip.compose(ids, words[:, 0]), same) < 5e-6
    assert not torch.allclose(own, same)
    with pytest.raises(ValueError, match="placeholders"):
        golden_clip.compose(ids, torch.randn(1, 3, width))
    with pytest.raises(ValueError, match="placeholders"):
        golden_clip.compose(TOKENIZER(["no placeholder"]), torch.randn(1, width))


def test_gradients_reach_the_word_and_no_weight(golden_clip):
    words = torch.randn(1, golden_clip.sizes.text_width, requires_grad=True)
    golden_clip.compose(TOKENIZER([template("a [*]")]), words).sum().backward()
    assert words.grad.abs().max() > 0
    assert all(p.grad is None and not p.requires_grad for p in golden_clip.parameters())
    assert not golden_clip.train().training


def test_any_openclip_vit_by_name_equals_its_own_encoders():
    clip = load_clip("ViT-B/32", pretrained=None)
    assert clip.name == "ViT-B-32"
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32", pretrained=None).eval()
    clip = FrozenCLIP(model, "ViT-B-32")
    images, ids = torch.randn(1, 3, 224, 224), open_clip.get_tokenizer("ViT-B-32")(["a dog"])
    with torch.no_grad():
        assert relative(clip.encode_image(images).embedding, model.encode_image(images)) < 5e-6
        assert relative(clip.encode_text(ids), model.encode_text(ids)) < 5e-6


def test_a_word_without_embedding_is_an_error(golden_clip_state):
    from context_i2w.model.clip_weights import clip_from_openai_state

    state = dict(golden_clip_state)
    state["token_embedding.weight"] = state["token_embedding.weight"].clone()
    dog = TOKENIZER.encode("dog")[0]
    state["token_embedding.weight"][dog] = float("nan")
    clip = clip_from_openai_state(state, "small")
    assert torch.isfinite(clip.encode_text(TOKENIZER(["a cat"]))).all()
    with pytest.raises(UserError, match="small does not know 'dog'"):
        clip.encode_text(TOKENIZER(["a dog"]))


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("ViT-Z/1", None, "unknown to open_clip"),
        ("ViT-B-32", "nowhere.pt", "neither a file nor a tag"),
        ("RN50", None, "vision transformer"),
    ],
)
def test_unusable_models_are_one_clear_error(model, pretrained, message):
    with pytest.raises(UserError, match=message):
        load_clip(model, pretrained)


def test_sizes_by_name_are_those_of_the_model():
    assert sizes_by_name("ViT-B/32") == load_clip("ViT-B-32", pretrained=None).sizes
    assert sizes_by_name("ViT-L/14").image_tokens == 257
    for model in ("RN50", "ViT-B-16-SigLIP"):
        with pytest.raises(UserError, match="vision transformer"):
            sizes_by_name(model)


def test_placeholder_uses_clips_own_row(golden_clip):
    ids = TOKENIZER([template("a [*]")])
    word = golden_clip.token_embedding.weight[PLACEHOLDER_ID][None]
    assert relative(golden_clip.compose(ids, word), golden_clip.encode_text(ids)) < 5e-6


@pytest.mark.parametrize(
    "texts", [["a photo of [*]"], ["a photo of [*] , red", "a photo of [*]", "a photo of [*] , a dog"]]
)
def test_sharing_a_common_beginning_changes_nothing(golden_clip, texts):
    ids = TOKENIZER([template(text) for text in texts])
    words = torch.randn(3, golden_clip.sizes.text_width, requires_grad=True)
    results = []
    for compose in (golden_clip.compose, lambda i, w: plain_text(golden_clip, i.expand(3, -1), w)):
        words.grad = None
        features = compose(ids, words)
        features.square().sum().backward()
        results.append((features.detach(), words.grad))
    for fast, plain in zip(*results, strict=True):
        assert relative(fast, plain) < 5e-6
    with torch.no_grad():
        assert relative(golden_clip.encode_text(ids), plain_text(golden_clip, ids)) < 5e-6
