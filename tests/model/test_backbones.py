"""Every name and tag of open_clip: equal to its own model and transform, or refused before anything is fetched."""

import copy

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file

from conftest import relative
from context_i2w.errors import UserError
from context_i2w.model.backbones import known_name, supported_config
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.clip_weights import load_clip
from context_i2w.model.images import ImageSource, Preparation

NAMES = [name for name in open_clip.list_models() if name != "toy_clip"]


def accepted(name):
    try:
        return bool(supported_config(name))
    except UserError:
        return False


ACCEPTED = [name for name in NAMES if accepted(name)]
REFUSED = [name for name in NAMES if name not in ACCEPTED]


def distinct_tags():
    """One of the tags for each activation and transform of a model."""
    found = {}
    for name, tag in open_clip.list_pretrained():
        if name in ACCEPTED:
            facts = open_clip.get_pretrained_cfg(name, tag)
            facts = {key: value for key, value in facts.items() if key not in ("url", "hf_hub")}
            found.setdefault((name, repr(sorted(facts.items()))), (name, tag))
    return list(found.values())


def shrunk(config):
    """One block and one or two heads in each tower; sizes of images, patches and heads as they are."""
    config = copy.deepcopy(config)
    vision, text = config["vision_cfg"], config["text_cfg"]
    vision |= {"layers": 1, "width": 2 * vision.get("head_width", 64)}
    text |= {"layers": 1, "width": 32, "heads": 2}
    return config | {"embed_dim": 16}


@pytest.fixture(autouse=True)
def nothing_is_fetched(monkeypatch):
    def fetch(*_, **__):
        raise AssertionError("something was fetched")

    monkeypatch.setattr("open_clip.factory.download_pretrained", fetch)
    monkeypatch.setattr("open_clip.factory.download_pretrained_from_hf", fetch)


@pytest.fixture
def small(monkeypatch):
    configs = open_clip.factory._MODEL_CONFIGS
    monkeypatch.setattr(
        "open_clip.factory._MODEL_CONFIGS", {k: shrunk(v) if k in ACCEPTED else v for k, v in configs.items()}
    )


def assert_equal(clip, network):
    torch.manual_seed(1)
    images = torch.randn(1, 3, clip.sizes.image_size, clip.sizes.image_size)
    ids = open_clip.get_tokenizer("ViT-B-32", clip.sizes.context_length)(["a dog on a beach"])
    with torch.no_grad():
        assert relative(clip.encode_image(images).embedding, network.encode_image(images)) < 5e-6
        assert relative(clip.encode_text(ids), network.encode_text(ids)) < 5e-6


def test_most_of_clips_own_kind_are_accepted():
    assert {"ViT-B-32", "ViT-L-14-336", "ViT-H-14-378-quickgelu", "ViT-bigG-14", "ViT-M-16-alt"} <= set(ACCEPTED)
    assert {"ViT-L-14-worldwide", "coca_base", "RN50", "ViT-B-16-SigLIP", "ViT-L-14-CLIPA"} <= set(REFUSED)
    assert (len(ACCEPTED), len(REFUSED)) == (32, len(NAMES) - 32)


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_towers_equal_open_clips_own(name, small):
    network = open_clip.create_model(name, pretrained=None).eval()
    assert_equal(FrozenCLIP(network, name), network)


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_before_anything_is_fetched(name):
    tag = next(iter(open_clip.list_pretrained_tags_by_model(name)), None)
    with pytest.raises(UserError, match=r"needs CLIP's (vision transformer|causal text tower)"):
        load_clip(name, tag)


@pytest.mark.parametrize(("name", "tag"), distinct_tags())
def test_tags_equal_open_clips_own_model_and_transform(name, tag, small, tmp_path, monkeypatch):
    quick = bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu"))
    save_file(open_clip.create_model(name, pretrained=None).state_dict(), tmp_path / "w.safetensors")
    monkeypatch.setattr("open_clip.factory.download_pretrained", lambda *_, **__: str(tmp_path / "w.safetensors"))
    network = open_clip.create_model(name, pretrained=tag, force_quick_gelu=quick).eval()
    clip = load_clip(name, tag)
    assert_equal(clip, network)
    assert clip.identity.activation == ("QuickGELU" if quick else "GELU")
    transform = image_transform_v2(PreprocessCfg(**network.visual.preprocess_cfg), is_train=False)
    prepare = Preparation(*clip.transform)
    for size in ((97, 131), (500, 333)):
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
        ours = prepare.normalised(prepare.square(image, ImageSource("x")).convert("RGB"))
        assert torch.equal(ours, transform(image))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("colours", ["RGB", "P", "RGBA", "L"])
def test_every_transform_of_open_clip(interpolation, mode, colours):
    cfg = PreprocessCfg(56, interpolation=interpolation, resize_mode=mode, fill_color=7 if colours == "L" else 0)
    prepare = Preparation(56, cfg.mean, cfg.std, interpolation, mode, cfg.fill_color)
    pixels = np.random.default_rng(0).integers(0, 256, (131, 97, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(colours)
    ours = prepare.normalised(prepare.square(image, ImageSource("x")).convert("RGB"))
    assert torch.equal(ours, image_transform_v2(cfg, is_train=False)(image))


@pytest.mark.parametrize(
    ("typed", "name"),
    [("ViT-L/14@336px", "ViT-L-14-336"), ("ViT-B/32", "ViT-B-32"), ("hf-hub:a/b", "hf-hub:a/b"), ("toy", "toy_clip")],
)
def test_names_of_both_worlds(typed, name):
    assert known_name(typed) == name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_cfg": {"hf_tokenizer_name": "google/mt5-base"}}, "causal text tower.* 'hf_tokenizer_name'"),
        ({"text_cfg": {"pool_type": "eos"}}, "'pool_type' 'eos'"),
        ({"text_cfg": {"embed_cls": True}}, "'embed_cls' True"),
        ({"text_cfg": {"vocab_size": 32000}}, "'vocab_size' 32000"),
        ({"text_cfg": {"no_causal_mask": True}}, "'no_causal_mask' True"),
        ({"vision_cfg": {"attentional_pool": True}}, "vision transformer.* 'attentional_pool' True"),
        ({"vision_cfg": {"layers": [1, 2, 3, 4]}}, "'layers' \\[1, 2, 3, 4\\]"),
        ({"vision_cfg": {"width": 2.5}}, "'width' 2.5"),
        ({"multimodal_cfg": {}}, "'multimodal_cfg'"),
    ],
)
def test_what_is_not_clips_is_named(changes, message, monkeypatch):
    config = open_clip.get_model_config("ViT-B-32")
    for key, value in changes.items():
        config[key] = config.get(key, {}) | value
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "changed", config)
    with pytest.raises(UserError, match=message):
        load_clip("changed", None)


def test_a_network_of_another_kind_is_refused_too():
    """Whoever builds one by hand gets the same answer."""
    config = shrunk(open_clip.get_model_config("ViT-B-32"))
    for changes in ({"pool_type": "eos"}, {"vocab_size": 64}, {"pool_type": "last", "no_causal_mask": True}):
        with pytest.raises(UserError, match="needs CLIP's"):
            FrozenCLIP(open_clip.CLIP(**config | {"text_cfg": config["text_cfg"] | changes}), "other")
