"""Checkpoints and shared folders of other shapes than they should be: one line that names file and entry."""

import contextlib
import copy
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from context_i2w.checkpoints.files import CLIPReference, pack_mapper, read_checkpoint
from context_i2w.checkpoints.find import find_checkpoint
from context_i2w.checkpoints.shared import from_pretrained
from context_i2w.errors import UserError
from context_i2w.model.clip_weights import TOY_FOLDER, load_clip
from context_i2w.model.mappers import Pic2Word, Pic2WordOptions

ARCHIVE = Path(__file__).parents[1] / "model" / "files" / "runs_code.torchscript.pt"
WEIRD = [None, True, -1, 0, 10**30, float("nan"), "", "\x00", "\ud800", "../../../etc/passwd", "a" * 5000, [], {}, [[]]]
WEIRD += [{"a": 1}, "a\nb", "/etc/passwd", "n" * 300, 2**63, -5.5]


@pytest.fixture(scope="module")
def toy():
    return load_clip("toy")


@pytest.fixture(scope="module")
def content(toy):
    torch.manual_seed(0)
    mapper = Pic2Word(toy.sizes, Pic2WordOptions(hidden=8))
    return pack_mapper("pic2word", mapper, CLIPReference.of(toy, "toy", "toy"), 3)


@pytest.fixture
def shared(tmp_path):
    shutil.copytree(TOY_FOLDER / "pic2word", tmp_path / "shared")
    return tmp_path / "shared"


def use(source, clip):
    """All that evaluation does with a checkpoint, its CLIP being loaded already."""
    checkpoint = find_checkpoint(source)
    if not checkpoint.belongs_to(clip):
        raise UserError("belongs to another CLIP")
    checkpoint.build_mapper(clip.sizes)


def places(value, path=()):
    for key in value if isinstance(value, dict) else ():
        yield (*path, key)
        yield from places(value[key], (*path, key))


def changed(content, place, value):
    content = copy.deepcopy(content)
    holder = content
    for step in place[:-1]:
        holder = holder[step]
    if value is KeyError:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    return content


def test_no_value_anywhere_in_a_checkpoint_ends_in_a_traceback(tmp_path, content, toy):
    rng = random.Random(0)
    for place in places(content):
        for value in (KeyError, torch.zeros(2, dtype=torch.complex64), *rng.sample(WEIRD, 6)):
            torch.save(changed(content, place, value), tmp_path / "c.pt")
            use_or_refuse(tmp_path / "c.pt", toy)


def test_no_value_anywhere_in_a_config_ends_in_a_traceback(shared, toy):
    config = json.loads((shared / "config.json").read_text())
    for place in places(config):
        for value in (KeyError, *WEIRD):
            (shared / "config.json").write_text(json.dumps(changed(config, place, value)))
            use_or_refuse(shared, toy)


def use_or_refuse(source, clip):
    with contextlib.suppress(UserError):
        use(source, clip)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("mapper",), KeyError, "lacks 'mapper'"),
        (("mapper", "state"), {"a": 1}, r"mapper.state: entry 'a' is 1, not a tensor"),
        (("mapper", "state"), {}, "where tensors under their names should be"),
        (("mapper", "options"), [1], r"mapper.options is \[1\], an object is expected"),
        (("mapper", "options", "hidden"), 10**12, "hidden"),
        (("clip", "weights_hash"), 5, "clip.weights_hash is 5, text or null is expected"),
        (("clip", "configuration", "resize_mode"), "x", "a transform by 'bicubic' and 'x' is not known"),
        (("step",), "x", "step is 'x', a whole number or null is expected"),
    ],
)
def test_the_entry_is_named(tmp_path, content, toy, place, value, message):
    torch.save(changed(content, place, value), tmp_path / "c.pt")
    with pytest.raises(UserError, match=message):
        use(tmp_path / "c.pt", toy)


def test_weights_that_are_not_finite_are_refused(tmp_path, content, toy):
    name = "mlp.output.bias"
    bad = torch.full_like(content["mapper"]["state"][name], float("nan"))
    torch.save(changed(content, ("mapper", "state", name), bad), tmp_path / "c.pt")
    with pytest.raises(UserError, match=f"{name} holds NaN or infinite values"):
        use(tmp_path / "c.pt", toy)


@pytest.mark.parametrize(("head", "message"), [(b"", "an empty file"), (b"version https://git-lfs", "Git LFS pointer")])
def test_files_that_were_not_fetched_say_so(tmp_path, shared, head, message):
    for path in (tmp_path / "c.pt", shared / "mapper.safetensors"):
        path.write_bytes(head)
        with pytest.raises(UserError, match=message):
            find_checkpoint(path if path.suffix == ".pt" else shared)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"state_dict_retrieval_fuse": {}, "state_dict_text_condition": {}},
            "KEDs, whose 'state_dict_retrieval_fuse'",
        ),
        ({"state_dict_more": {}}, "of another method, whose 'state_dict_more' are not implemented"),
    ],
)
def test_networks_that_we_do_not_have_are_not_dropped(tmp_path, entries, message):
    mapper = {"layers.0.0.weight": torch.zeros(8, 4), "fc_out.weight": torch.zeros(4, 8)}
    torch.save({"epoch": 1, "state_dict": {}, "state_dict_img2text": mapper} | entries, tmp_path / "m.pt")
    with pytest.raises(UserError, match=message):
        read_checkpoint(tmp_path / "m.pt")


@pytest.mark.parametrize(("entry", "method"), [("phi_s", "FTI4CIR"), ("CLIPTextModelWithProjection", "RTD")])
def test_files_of_other_methods_name_them(tmp_path, entry, method):
    torch.save({"epoch": 1, entry: {"w": torch.zeros(1)}}, tmp_path / "m.pt")
    with pytest.raises(UserError, match=f"it is of {method}, which is not implemented"):
        read_checkpoint(tmp_path / "m.pt")


@pytest.mark.parametrize("named", ["../clip.pt", "/etc/passwd", "..", "", "sub/clip.pt"])
def test_a_shared_folder_names_nothing_outside_itself(shared, named):
    config = json.loads((shared / "config.json").read_text())
    (shared / "config.json").write_text(json.dumps(changed(config, ("clip", "pretrained"), named)))
    with pytest.raises(UserError, match="no tag and no file of its own folder"):
        from_pretrained(shared)
    (shared / "config.json").write_text(json.dumps(changed(config, ("clip", "model"), f"local-dir:{named or '.'}")))
    with pytest.raises(UserError, match="no tag and no file of its own folder"):
        from_pretrained(shared)


def test_a_file_in_the_working_directory_is_not_a_shared_folders(shared, tmp_path, monkeypatch):
    config = json.loads((shared / "config.json").read_text())
    (shared / "config.json").write_text(json.dumps(changed(config, ("clip", "pretrained"), "clip.safetensors")))
    monkeypatch.chdir(tmp_path)
    shutil.copy(TOY_FOLDER / "toy_clip.safetensors", tmp_path / "clip.safetensors")
    with pytest.raises(UserError, match=r"shared/clip.safetensors.*neither a file nor a tag"):
        from_pretrained(shared).load_clip()
    shutil.move(tmp_path / "clip.safetensors", shared / "clip.safetensors")
    assert from_pretrained(shared).load_clip().identity == load_clip("toy").identity


def test_an_archive_in_a_shared_folder_runs_nothing(shared, tmp_path, monkeypatch):
    config = json.loads((shared / "config.json").read_text())
    (shared / "config.json").write_text(json.dumps(changed(config, ("clip", "pretrained"), "clip.pt")))
    shutil.copy(ARCHIVE, shared / "clip.pt")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="tensors under their names"):
        from_pretrained(shared).load_clip()
    assert list((tmp_path / "here").iterdir()) == []


def load_whole(path):
    checkpoint = read_checkpoint(path)
    checkpoint.build_mapper(checkpoint.load_clip().sizes)


def test_published_files_of_odd_shapes(tmp_path):
    clip = {"visual.conv1.weight": torch.zeros(4, 3, 8, 8), "text_projection": torch.zeros(4, 4)}
    mapper = {"module.layers.0.0.weight": torch.zeros(8, 4), "module.fc_out.weight": torch.zeros(4, 8)}
    for state in (mapper, {}, {"a": 1}, {1: torch.zeros(1)}, {"layers.0.0.weight": torch.tensor(1.0)}, 5):
        for own in (clip, 7, torch.zeros(2), {"visual.conv1.weight": torch.zeros(1)}, {1: 2}):
            torch.save({"epoch": "x", "state_dict": own, "state_dict_img2text": state}, tmp_path / "m.pt")
            with pytest.raises(UserError) as error:
                load_whole(tmp_path / "m.pt")
            assert "\n" not in str(error.value)


def test_safetensors_without_tensors(shared):
    save_file({}, shared / "mapper.safetensors")
    with pytest.raises(UserError, match="where tensors under their names should be"):
        from_pretrained(shared)
