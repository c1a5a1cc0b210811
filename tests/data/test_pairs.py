"""The list of pairs: reading, errors, faults; crops and the order of batches."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.made_pairs import encoded, jpeg, png_bomb, ten_faults, write_list
from torchvision.transforms import RandomResizedCrop

from conftest import pillow_13
from context_i2w.data.augmentation import TrainPreparation
from context_i2w.data.options import ViewOptions
from context_i2w.data.packed_strings import Strings
from context_i2w.data.pairs import EpochBatches, ImagePairs, ListColumns, read_pair_list
from context_i2w.data.random_crops import chances, crop_box
from context_i2w.data.similar_order import similar_order
from context_i2w.errors import UserError
from context_i2w.model.images import ImageSource, Preparation
from context_i2w.model.prompts import Tokenizer

PREPARATION = Preparation(16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@given(st.lists(st.text(), max_size=20))
def test_strings_are_a_list_of_strings(texts):
    packed = Strings(texts)
    assert len(packed) == len(texts)
    assert list(packed) == texts
    if texts:
        assert packed[-1] == texts[-1]
    with pytest.raises(IndexError):
        packed[len(texts)]


def test_a_list_is_read_with_any_column_names(tmp_path):
    path = write(tmp_path / "a.csv", 'where,what,how,more\nx.jpg,"a, b",<|replace|> b,1\ny.jpg,NA,null,2\n')
    pairs = read_pair_list(path, ListColumns("where", "what", "how", ","))
    assert list(pairs.images) == ["x.jpg", "y.jpg"]
    assert list(pairs.masked) == ["<|replace|> b", "null"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filepath\tcaption\n1\t2\n", "no column 'title', 'masked_title'; found 'filepath', 'caption'; give the right"),
        ("filepath\ttitle\n1\t2\n", "no column 'masked_title'.*scripts/mask_captions.py"),
        ("filepath\ttitle\tmasked_title\n", "no rows"),
        ("", "not a list"),
        ("filepath\ttitle\tmasked_title\na\tb\tc\td\te\n" * 3, "more columns than the header"),
    ],
)
def test_faulty_lists_are_explained(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_pair_list(write(tmp_path / "list.tsv", text))


def test_a_missing_list_is_explained(tmp_path):
    with pytest.raises(UserError, match=r"no such list; docs/training\.md"):
        read_pair_list(tmp_path / "none.tsv")


def test_images_are_found_beside_the_list_though_the_first_is_missing(tmp_path):
    path = write_list(tmp_path, 5)
    (tmp_path / "images" / "0.jpg").unlink()
    assert read_pair_list(path).images[1] == str(tmp_path / "images" / "1.jpg")


def test_faults_are_skipped_or_read_and_counted(tmp_path):
    content = b"filepath\ttitle\tmasked_title\n"
    wanted = Counter({"no such file": 1, "empty caption": 2, "caption is not UTF-8": 1})
    for number in range(7):  # the kinds that concern the image
        members, kind = ten_faults(number)
        write(tmp_path / f"{number}.jpg", members.get("jpg", members.get("png")))
        content += f"{number}.jpg\tx\t<|replace|> {number}\n".encode()
        wanted.update([kind] if kind else [])
    write(tmp_path / "ok.jpg", jpeg(1))
    content += b"ok.jpg\tx\tcaf\xe9\nok.jpg\tx\t \nok.jpg\tx\nnone.jpg\tx\ty\nok.jpg\tx\tgood\n"
    pairs = read_pair_list(write(tmp_path / "list.tsv", content))
    batch = ImagePairs(pairs, PREPARATION, True, 0, 77)[0, list(range(len(pairs)))]
    assert Counter(kind for _, kind in batch.broken) == wanted
    assert batch.size == len(batch.images) == len(pairs) - wanted.total() == 5
    empty = ImagePairs(pairs, PREPARATION, True, 0, 77)[0, [0]]
    assert empty.size == 0
    assert empty.images is None
    captions = [row for row in range(len(pairs)) if not pairs.masked[row].strip()]
    assert (
        ImagePairs(pairs, PREPARATION, True, 0, 77)[0, captions].broken
        == ((str(tmp_path / "ok.jpg"), "empty caption"),) * 2
    )


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", pytest.param("YCbCr", marks=pillow_13), "I", "I;16", "F"]
)
def test_every_mode_is_read_or_counted(crop, mode):
    content = encoded(Image.new(mode, (20, 30)), "TIFF")
    image = TrainPreparation(PREPARATION, crop)("name", "drawn", content)[0]
    assert image.shape == (3, 16, 16)


def test_crops_depend_on_what_they_are_drawn_from_alone(tmp_path):
    path = write(tmp_path / "a.png", encoded(Image.effect_noise((60, 50), 80).convert("RGB"), "PNG"))
    crop = TrainPreparation(PREPARATION, True)
    torch.manual_seed(1)
    one = crop(str(path), "0-1-2")[0]
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(crop("other", "0-1-2", path.read_bytes())[0], one)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(crop(str(path), "0-1-3")[0], one)
    whole = TrainPreparation(PREPARATION, False)(str(path), "0-1-2")[0]
    assert torch.equal(PREPARATION.normalised(whole), PREPARATION(ImageSource(str(path))))


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([(0.9, 1.0), (0.1, 1.0)]), st.integers(0, 2**62))
def test_crops_are_torchvisions(height, width, scale, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        expected = RandomResizedCrop.get_params(Image.new("1", (width, height)), scale, (3 / 4, 4 / 3))
    assert crop_box(height, width, chances([seed], scale)[0]) == expected


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("view", [ViewOptions(crop=0.3), ViewOptions(colour=1.0), ViewOptions(0.3, 1.0)])
def test_a_view_is_another_picture_of_the_same_target(tmp_path, crop, view):
    path = str(tmp_path / "a.png")
    noise = Image.effect_noise((60, 50), 80)
    Image.merge("RGB", [noise, noise.rotate(90), noise.rotate(180)]).save(path)
    seen, target = TrainPreparation(PREPARATION, crop, view)(path, "0-1-2")
    assert torch.equal(target, TrainPreparation(PREPARATION, crop)(path, "0-1-2")[0])
    assert not torch.equal(seen, target)
    again, other = (TrainPreparation(PREPARATION, crop, view)(path, drawn)[0] for drawn in ("0-1-2", "0-1-3"))
    assert torch.equal(again, seen)
    assert not torch.equal(other, seen)


def test_as_many_views_change_colour_as_asked_for(tmp_path):
    path = str(write(tmp_path / "a.png", encoded(Image.new("RGB", (20, 20), (200, 40, 40)), "PNG")))
    prepare = TrainPreparation(PREPARATION, False, ViewOptions(colour=0.5))
    changed = [not torch.equal(*prepare(path, f"0-0-{row}")) for row in range(200)]
    assert 70 < sum(changed) < 130
    told = TrainPreparation(PREPARATION, False, ViewOptions(colour=1.0, told=True))
    same = [
        torch.equal(*told(path, "0-0-1", caption=text)) for text in ("a <|replace|> on sand", "A Red <|replace|>", "")
    ]
    assert same == [True, False, True]
    with pytest.raises(UserError, match="at most 1 is possible"):
        ViewOptions(crop=2)
    with pytest.raises(UserError, match="--view-colour SHARE"):
        ViewOptions(crop=0.5, told=True)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(Exception, match="pixel bound"):
        TrainPreparation(PREPARATION, True)("bomb", "0", png_bomb())


@given(st.integers(1, 200), st.integers(1, 16), st.integers(1, 4), st.integers(0, 3), st.data())
def test_processes_share_the_batches_of_one_process(count, size, world, epoch, data):
    def batches(size, rank=0, world=1, start=0):
        sampler = EpochBatches(count, size, 7, rank, world)
        sampler.epoch, sampler.start = epoch, start
        assert len(list(sampler)) == len(sampler)
        return [rows for _, rows in sampler]

    whole = batches(size * world)
    start = data.draw(st.integers(0, len(whole)))
    parts = [batches(size, rank, world, start) for rank in range(world)]
    assert [[*itertools.chain(*rows)] for rows in zip(*parts)] == whole[start:]
    used = [*itertools.chain(*whole)]
    assert len(set(used)) == len(used) == count // (size * world) * size * world


def test_another_column_changes_the_condition_and_nothing_else(tmp_path):
    path = write_list(tmp_path, 4)
    masked, whole = (
        ImagePairs(read_pair_list(path, ListColumns(masked=name)), PREPARATION, False, 0, 77)[0, [2, 0, 1]]
        for name in ("masked_title", "title")
    )
    assert torch.equal(masked.images, whole.images)
    assert torch.equal(whole.condition_ids[0], Tokenizer()(["a thing"])[0])
    assert not torch.equal(masked.condition_ids, whole.condition_ids)


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 99))
@settings(deadline=None)
def test_a_similar_order_has_every_row_once(count, leaf, seed):
    embeddings = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    order = similar_order(embeddings, leaf, np.random.default_rng(seed))
    assert sorted(order) == list(range(count))
    assert np.array_equal(order, similar_order(embeddings, leaf, np.random.default_rng(seed)))


def test_neighbours_in_a_similar_order_look_alike():
    centres = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    labels = np.random.default_rng(0).integers(16, size=800)
    embeddings = centres[labels] + 0.2 * torch.randn(800, 32, generator=torch.Generator().manual_seed(1))
    orders = [similar_order(embeddings, 25, np.random.default_rng(seed)) for seed in (0, 1)]
    for order in orders:
        same = np.mean(labels[order[1:]] == labels[order[:-1]])
        assert same > 0.4  # 1 in 16 at random
    assert not np.array_equal(*orders)
