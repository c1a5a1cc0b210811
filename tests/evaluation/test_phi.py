"""φ files of SEARLE and LinCIR through `src/eval_retrieval.py`, against what their own code computed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

import eval_retrieval
import reproduce
from conftest import pillow_13
from context_i2w.benchmarks import BENCHMARKS
from context_i2w.benchmarks.protocols import PROTOCOLS, under
from context_i2w.checkpoints.files import read_checkpoint
from context_i2w.evaluation.evaluate import query_features
from context_i2w.evaluation.features import EncodingOptions, encode
from context_i2w.model.images import Preparation
from context_i2w.model.prompts import Tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"
PHI = GOLDEN / "phi"
FILES = {"searle": PHI / "searle_phi_last.pt", "lincir": PHI / "lincir_phi_best.pt"}
CLIP_FILE = GOLDEN / "clip_small_weights.safetensors"
INPUTS = json.loads((PHI / "inputs.json").read_text())
VARIANTS = {"targetpad": "pad", "clip": {"searle": "centre", "lincir": "rgb-first"}}
DEFAULTS = [("searle", "targetpad"), ("lincir", "clip")]
EVERY = [*DEFAULTS, ("searle", "clip"), ("lincir", "targetpad")]
NAMES = {"cirr_recall_at": "R@", "cirr_group_recall_at": "R_subset@", "fiq_recall_at": "R@", "circo_map_at": "mAP@",
         "circo_recall_at": "R@"}  # fmt: skip
DOLLAR = 259


@pytest.fixture(scope="module")
def root(golden_data, tmp_path_factory):
    """The benchmarks without the queries at which their codes stop, and the small CIRCO."""
    root = tmp_path_factory.mktemp("data")
    link(root / "cirr", golden_data / "cirr", "dev", "test1", "image_splits")
    link(root / "fashion-iq", golden_data / "fashion-iq", "images", "image_splits")
    for split, name in (("val", "cirr_val"), ("test1", "cirr_test1")):
        file = Path("cirr/captions", f"cap.rc2.{split}.json")
        write(root / file, [e for e in read(golden_data / file) if e["pairid"] not in INPUTS["left_out"][name]])
    for garment in ("dress", "shirt", "toptee"):
        file, gone = Path("fashion-iq/json", f"cap.{garment}.val.json"), INPUTS["left_out"][f"fiq_{garment}"]
        write(root / file, [e for number, e in enumerate(read(golden_data / file)) if number not in gone])
    for split in ("val", "test"):
        write(root / "CIRCO/annotations" / f"{split}.json", read(PHI / "circo" / f"{split}.json"))
    images = root / "CIRCO/COCO2017_unlabeled"
    info = "image_info_unlabeled2017.json"
    write(images / "annotations" / info, read(PHI / "circo" / info))
    (images / "unlabeled2017").mkdir()
    for ours, theirs in read(PHI / "circo" / "images.json").items():
        (images / "unlabeled2017" / ours).symlink_to(golden_data / "coco" / "val2017" / theirs)
    return root


def link(folder, source, *names):
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(source / name)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    """JSON, rankings by group and query, and the folder of submissions of one evaluation by the command."""

    def evaluate(family: str, variant: str, mode: str, *more: str):
        folder = tmp_path_factory.mktemp(f"{family}-{variant}-{mode}")
        command = ["--resume", FILES[family], "--pretrained", CLIP_FILE, "--protocol", family, "--methods", "composed"]
        if (family, variant) not in DEFAULTS:
            command += ["--preparation", preparation(family, variant)]
        command += ["--eval-mode", mode, "--data-root", root, "--device", "cpu", "--workers", 0, *more]
        command += ["--output", folder / "out.json", "--rankings", folder / "out.jsonl"]
        if mode == "cirr_test" or more:
            command += ["--submission-dir", folder]
        eval_retrieval.main([str(word) for word in command])
        return read(folder / "out.json"), [json.loads(line) for line in open(folder / "out.jsonl")], folder

    return evaluate


def preparation(family, variant):
    view = VARIANTS[variant]
    return view if isinstance(view, str) else view[family]


def check_metrics(found, expected):
    for name, value in expected.items():
        if name == "evaluator_semantic_map_at10":
            check = {f"mAP@10 {aspect}": score for aspect, score in value.items()}
        else:
            prefix, k = name.rsplit("_at", 1)
            check = {NAMES[prefix + "_at"] + k: value}
        assert {metric: found[metric] for metric in check} == pytest.approx(check, abs=1e-4)


def check_lists(rankings, names, golden, near, length):
    wanted = golden.tolist()
    assert len(rankings) == len(wanted)
    for number, (entry, places) in enumerate(zip(rankings, wanted)):
        if number not in near.get("list_2e-6", []):
            assert entry["top"][:length] == [names[place] for place in places[:length]], (number, entry["id"])


@pytest.mark.parametrize(("family", "variant"), EVERY)
def test_every_metric_and_list(run, family, variant):
    about, golden = read(PHI / f"{family}.json"), load_file(PHI / f"{family}.safetensors")
    for mode in ("cirr", "fashion", "circo"):
        output, rankings, _ = run(family, variant, mode)
        assert output["protocol"]["protocol"] == family
        for group, rows in output["results"].items():
            name = mode if mode != "fashion" else f"fiq_{group}"
            check_metrics(rows["composed"], about["metrics"][variant][name])
            if group != "mean":
                top = golden[f"{variant}.{name}.{'top50' if mode == 'circo' else 'top10'}"]
                lists = [entry for entry in rankings if entry["group"] == group]
                near = about["near_ties"][variant].get(name, {})
                check_lists(lists, INPUTS[name]["gallery"], top, near, top.shape[1])


@pytest.mark.parametrize(("family", "name"), [("searle", "SEARLE"), ("lincir", "LinCIR")])
def test_reproduction_names_the_family(root, tmp_path, monkeypatch, family, name):
    monkeypatch.chdir(tmp_path)
    link(tmp_path / "data", root, "cirr")
    clip = ["--pretrained", str(CLIP_FILE), "--protocol", family, "--device", "cpu", "--workers", "0"]
    reproduce.main(["--resume", str(FILES[family]), *clip])
    tables = read(tmp_path / "reproduction.json")["tables"]
    found = next(table["results"]["all"] for table in tables if table["benchmark"] == "cirr")
    check_metrics(found[name], read(PHI / f"{family}.json")["metrics"][dict(DEFAULTS)[family]]["cirr"])


@pytest.mark.parametrize(("family", "variant"), DEFAULTS)
def test_every_submission(run, family, variant):
    near = read(PHI / f"{family}.json")["near_ties"][variant]
    *_, folder = run(family, variant, "cirr_test")
    for kind, theirs in (("recall", "cirr"), ("recall_subset", "cirr_subset")):
        check_submission(read(folder / f"cirr_test_composed_{kind}.json"), f"{family}_{theirs}", near["cirr_test"])
    *_, folder = run(family, variant, "circo", "--circo-split", "test")
    ours = {query: list(map(str, names)) for query, names in read(folder / "circo_composed_test.json").items()}
    check_submission(ours, f"{family}_circo", near["circo_test"])


def check_submission(ours, theirs, near):
    theirs = read(PHI / "submissions" / f"{theirs}.json")
    assert ours.keys() == theirs.keys()
    lists = [query for query in theirs if isinstance(theirs[query], list)]
    ties = {lists[number] for number in near.get("list_2e-6", [])}
    assert all(ours[query] == theirs[query] for query in theirs if query not in ties)


@pytest.fixture(scope="module")
def clip():
    return read_checkpoint(FILES["searle"]).load_clip(pretrained=str(CLIP_FILE))


@pillow_13
@pytest.mark.parametrize(
    ("family", "variant", "mode"),
    [
        *[("searle", "targetpad", mode) for mode in ("cirr", "fashion", "circo")],
        *[("lincir", "clip_nohalf", mode) for mode in ("cirr", "circo")],
        ("searle", "clip", "cirr"),
    ],
)
def test_every_feature(root, clip, family, variant, mode):
    golden = load_file(PHI / f"{family}.safetensors")
    mapper = read_checkpoint(FILES[family]).build_mapper(clip.sizes)
    kind = BENCHMARKS[mode]
    options = {k: v for k, v in PROTOCOLS[family].options.items() if k in kind.options.__dataclass_fields__}
    benchmark = kind.load(root, kind.options(**options))
    benchmark = under(benchmark, family, preparation(family, variant.removesuffix("_nohalf")))
    encoded = encode(benchmark, clip, {"composed": mapper}, EncodingOptions(workers=0), ["composed"])
    prepare = Preparation(clip.sizes.image_size, clip.image_mean, clip.image_std)

    def see(sources):
        return clip.encode_image(torch.stack([prepare(source) for source in sources]))

    for group in benchmark.groups:
        name = mode if mode != "fashion" else f"fiq_{group.name}"
        close(query_features(group, "composed", encoded), golden[f"{variant}.{name}.query"])
        of_gallery = golden[f"{variant.removesuffix('_nohalf')}.{name}.gallery"]
        close(see(group.gallery).embedding, of_gallery)
        close(encoded.image_features[: len(of_gallery)], normalize(of_gallery, dim=-1)) if mode != "fashion" else None
        if mode != "fashion":
            order = INPUTS[mode]["references_in_pseudo_order"]
            place = dict(zip(group.gallery_names, group.gallery))
            words = golden[f"{variant}.{name}.pseudo"]
            with torch.no_grad():
                found = mapper(None, see([place[reference] for reference in order]))
            close(found / words.abs().max(), words / words.abs().max())


def close(found, wanted):
    assert float((found - wanted).abs().max()) <= 1e-5


@pytest.mark.parametrize("mode", ["cirr", "cirr_test", "circo"])
def test_every_token(root, mode):
    kind = BENCHMARKS[mode]
    group = kind.load(root, kind.options(prompt="that")).groups[0]
    for dollar, most in (("first", 1), ("every", 77)):
        tokenizer = Tokenizer(dollar=dollar)
        ids = tokenizer([prompts[0] for prompts in group.prompts])
        several = 0
        for row, marked, wanted in zip(ids, tokenizer.places(ids), INPUTS[mode]["token_ids"], strict=True):
            places = [place for place, token in enumerate(wanted) if token == DOLLAR]
            assert row[: len(wanted)].tolist() == wanted
            assert marked.nonzero().flatten().tolist() == places[:most]
            several += len(places) > 1
        assert several
