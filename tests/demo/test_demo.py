"""The demo without a browser: maps, words, the HTML gallery, the server's answers and refusals, the command line."""

import http.client
import io
import json
import re
import shutil
import threading
from html.parser import HTMLParser
from urllib.parse import quote

import pytest
import torch
from PIL import Image
from tests.checkpoints.test_checkpoints import published_file
from tests.search.test_retriever import draw

import demo as script
from context_i2w import Retriever
from context_i2w.demo import server as server_module
from context_i2w.demo.engine import Engine, by_title
from context_i2w.demo.gallery import render
from context_i2w.demo.run import explain
from context_i2w.demo.server import MAX_UPLOAD, Demo, is_loopback, serve
from context_i2w.errors import UserError
from context_i2w.model.attention import attention_maps
from context_i2w.model.clip import ImageFeatures
from context_i2w.model.mappers import ContextI2W, ContextI2WOptions, Pic2Word
from context_i2w.model.nearest_words import NearestWords
from context_i2w.model.queries import RECOMMENDED

HOSTILE = "<img src=x onerror=alert(1)>&'\"</script>"
NAMES = ["a.png", "<b onload='x'>&.png", "deep/c.png", "ä ö.png", "e.png"]


@pytest.fixture(scope="module")
def engine(golden_clip, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("demo")
    for number, name in enumerate(NAMES):
        draw(folder / "photos" / name, number)
    draw(folder / "secret.png", 77)
    options = ContextI2WOptions(queries=2, depth=2, heads=2, head_width=8, hidden=16, gate=0.5)
    retrievers = [
        Retriever(golden_clip, ContextI2W(golden_clip.sizes, options)),
        Retriever(golden_clip, Pic2Word(golden_clip.sizes)),
    ]
    index = retrievers[0].index(folder / "photos", cache=folder / "cache")
    return Engine(index, by_title(retrievers, ["a", "b"]))


def test_maps_are_those_of_the_mappers_own_forward(golden_mapper, golden_mapper_tensors, monkeypatch):
    """Attention is recorded where the mapper computes it, and compared."""
    seen = []
    block = type(golden_mapper.extractor.blocks[0])
    original = block.attention
    monkeypatch.setattr(block, "attention", lambda self, *x: seen.append(original(self, *x)) or seen[-1])
    condition, tokens = golden_mapper_tensors["input.c"], golden_mapper_tensors["input.x"]
    image = ImageFeatures(torch.zeros(5, 64), tokens)
    with torch.no_grad():
        golden_mapper(condition, image)
    patches = tokens.shape[1] - 1
    wanted = torch.stack([weights.mean(dim=2) for weights in seen]).mean(dim=0)
    maps = attention_maps(golden_mapper, condition, image)
    assert torch.allclose(maps.queries * maps.on_patches[..., None], wanted[..., :patches], atol=1e-6)
    assert torch.allclose(maps.queries.sum(-1), torch.ones(maps.queries.shape[:2]))
    with torch.no_grad():
        rotated = golden_mapper.selector(condition, tokens)
    assert torch.allclose(maps.strength, (rotated.norm(dim=-1) / tokens.norm(dim=-1))[:, 1:])


def test_nearest_words_of_a_words_own_embedding(golden_clip):
    nearest = NearestWords(golden_clip)
    place = [nearest.words.index(word) for word in ("dog", "beach")]
    [dog, beach] = nearest(nearest.embeddings[place] * 3, 2)
    assert dog[0] == ("dog", pytest.approx(1))
    assert beach[0][0] == "beach"
    assert len(dog) == 2
    assert "jekyll" not in nearest.words


def test_answer_has_a_row_for_each_method(engine):
    look = engine.look(engine.index.path("a.png"), "a.png")
    answer = engine.answer(look, "a sketch of [*]", k=3, compare=True)
    assert list(answer.rows) == ["image only", "text only", "image + text", "Context-I2W", "Pic2Word"]
    assert all(len(hits) == 3 and "a.png" not in [hit.name for hit in hits] for hits in answer.rows.values())
    assert [heat.title for heat in answer.maps] == ["Intent View Selector", "extractor query 1", "extractor query 2"]
    for method in (None, "composed"):
        found = engine.answer(look, "a sketch of [*]", k=3, method=method).rows["Context-I2W"]
        query = engine.index.path("a.png"), "a sketch of [*]"
        assert found == engine.index.search(*query, k=3, method=method or RECOMMENDED)
    others = engine.answer(look, "on a beach")
    assert all(a.picture != b.picture and a.change != b.change for a, b in zip(answer.maps, others.maps))
    assert list(others.rows) == ["Context-I2W", "Pic2Word"]
    assert answer.words["Context-I2W"] != others.words["Context-I2W"]
    assert answer.words["Pic2Word"] == others.words["Pic2Word"]


def test_clip_alone_answers_by_image_and_words(engine):
    alone = Retriever(engine.retriever.clip)
    clip = Engine(engine.index, by_title([alone], [""]))
    look = clip.look(engine.index.path("a.png"), "a.png")
    answer = clip.answer(look, "a sketch of [*]", k=3, compare=True)
    assert list(answer.rows) == ["image only", "text only", "image + text", "CLIP without a mapper"]
    expected = engine.index.search(engine.index.path("a.png"), "a sketch of [*]", k=3, method="slerp")
    assert answer.rows["CLIP without a mapper"] == expected
    assert (answer.maps, answer.words) == ([], {})
    about = Demo(clip, []).about()
    assert (about["mixes"], about["mix"], about["follow"]) == ({"slerp": "the words"}, "slerp", 65)
    question = {"name": "a.png", "description": "a sketch of [*]", "k": 3, "weight": 0.35}
    found = [hit["name"] for hit in Demo(clip, []).search(question)["rows"][0]["hits"]]
    assert found == [hit.name for hit in expected]
    with pytest.raises(UserError, match="CLIP alone makes none"):
        explain(clip, [("a.png", look)], ["red"])


def test_mappers_of_one_method_are_told_apart_by_their_files(golden_clip):
    two = [Retriever(golden_clip, Pic2Word(golden_clip.sizes)) for _ in range(2)]
    assert list(by_title(two, ["x.pt", "y.pt"])) == ["Pic2Word (x.pt)", "Pic2Word (y.pt)"]
    blind = Retriever(golden_clip, ContextI2W(golden_clip.sizes, ContextI2WOptions(depth=1, condition=False)))
    assert list(by_title([blind], ["z.pt"])) == ["Context-I2W without context"]


class Elements(HTMLParser):
    """Tags with attributes, and text, as a browser would see them."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)


def test_gallery_escapes_and_fetches_nothing(engine):
    look = engine.look(engine.index.path("a.png"), "a.png")
    answer = engine.answer(look, f"[*] {HOSTILE}", k=5, compare=True)
    page = Elements(render(HOSTILE, HOSTILE, [(HOSTILE, look, answer)], engine.index))
    assert {tag for tag, _ in page.tags} <= {
        *("html", "meta", "title", "style", "body", "header", "main", "h1", "p", "section", "div", "h2", "h3", "span"),
        *("figure", "img", "figcaption", "details", "summary"),
    }
    assert all(set(attributes) <= {"src", "alt", "class"} for tag, attributes in page.tags if tag == "img")
    assert all(attributes["src"].startswith("data:image/jpeg;base64,") for tag, attributes in page.tags if tag == "img")
    text = "".join(page.text)
    assert text.count(HOSTILE) >= 4
    assert "<b onload='x'>&.png" in text


def test_gallery_survives_a_vanished_file_and_an_odd_name(engine):
    look = engine.look(engine.index.path("a.png"), "a.png")
    answer = engine.answer(look, "", with_maps=False)
    assert render("\udcff.jpg", "", [("\udcff", look, answer)], engine.index).encode()
    path = engine.index.path("e.png")
    content = path.read_bytes()
    path.unlink()
    shutil.rmtree(engine.index.store.folder / "thumbnails")
    try:
        assert "no longer there" in render("", "", [("a", look, answer)], engine.index)
    finally:
        path.write_bytes(content)


@pytest.fixture(scope="module")
def address(engine):
    server = serve(Demo(engine, ["a sketch of [*]"]), port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address
    server.shutdown()
    server.server_close()


@pytest.fixture
def ask(address):
    def request(method, path, body=None, **headers):
        connection = http.client.HTTPConnection(*address, timeout=30)
        given = {"X-Context-I2W": "1", **{name.replace("_", "-"): value for name, value in headers.items()}}
        connection.request(method, path, body, {name: value for name, value in given.items() if value is not None})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, json.loads(content) if "json" in answer.headers["Content-Type"] else content

    return request


def question(**fields):
    return json.dumps(fields)


def png(size=(40, 30), color="red"):
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, "PNG")
    return out.getvalue()


def test_page_and_its_files(ask, address):
    for path in server_module.STATIC:
        status, content = ask("GET", path)
        assert (status, len(content) > 500) == (200, True)
        assert not re.search(rb"https?://|//[a-z]+\.[a-z]", content)
    assert address[0] == "127.0.0.1"


def test_gallery_pictures_are_named_by_the_index_only(ask, engine):
    status, page = ask("GET", "/images?offset=0")
    assert (status, page["total"]) == (200, 5)
    assert {image["name"] for image in page["images"]} == set(NAMES)
    for image in page["images"]:
        assert ask("GET", image["picture"])[1][:2] == b"\xff\xd8"


OUTSIDE = ["../secret.png", "deep/../../secret.png", "/etc/passwd", "..%2fsecret.png", "a.png\0", "", "./a.png", "deep"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_outside_the_folder_are_refused(ask, engine, name):
    full = str(engine.index.files.root.parent / "secret.png")
    for wanted in (name, full):
        assert ask("GET", f"/thumbnail?name={quote(wanted)}")[0] == 404
        assert ask("POST", "/search", question(name=wanted, description=""))[0] == 404
    assert ask("GET", f"/{quote(name or 'x', safe='/')}")[0] == 404


def test_search_by_name_and_by_upload(ask, engine):
    status, found = ask("POST", "/search", question(name="a.png", description="a sketch of [*]", k=4, compare=True))
    assert status == 200
    assert found["prompt"] == "a sketch of [*]"
    assert [row["title"] for row in found["rows"]][-2:] == ["Context-I2W", "Pic2Word"]
    expected = [hit.name for hit in engine.index.search(engine.index.path("a.png"), "a sketch of [*]", k=4)]
    assert [hit["name"] for hit in found["rows"][3]["hits"]] == expected
    assert len(found["maps"]) == 3
    content = engine.index.path("deep/c.png").read_bytes()
    status, taken = ask("POST", "/upload", content)
    assert status == 200
    status, by_upload = ask("POST", "/search", question(upload=taken["upload"], description="", k=5))
    assert by_upload["rows"][0]["hits"][0]["score"] <= 1
    assert len(by_upload["rows"][0]["hits"]) == 5  # an upload is no image of the gallery, so none is left out


def test_uploads_are_bounded_in_bytes_and_pixels(ask, monkeypatch):
    assert ask("POST", "/upload", b"", Content_Length=str(MAX_UPLOAD + 1))[0] == 413
    monkeypatch.setattr(server_module, "MAX_PIXELS", 40 * 30 - 1)
    status, answer = ask("POST", "/upload", png())
    assert (status, "1,199" in answer["error"]) == (413, True)


@pytest.mark.parametrize(
    "content", [b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", png()[:60]]
)
def test_uploads_that_are_no_pictures(ask, content):
    status, answer = ask("POST", "/upload", content)
    assert status in (415, 422)
    assert answer["error"]


def test_only_so_many_references_are_kept(engine, monkeypatch):
    monkeypatch.setattr(server_module, "KEPT", 2)
    demo = Demo(engine, [])
    keys = [demo.upload(png(color=color))["upload"] for color in ("red", "blue", "green")]
    with pytest.raises(server_module.Refused, match="no longer there"):
        demo.search({"upload": keys[0], "description": ""})
    assert demo.search({"upload": keys[2], "description": ""})["rows"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", 400),
        ("[]", 400),
        (question(name="a.png", description="x" * 1001), 400),
        (question(name="a.png", description=3), 400),
        (question(name="a.png", description="", k=0), 400),
        (question(name="a.png", description="", k=True), 400),
        (question(description=""), 404),
        (question(references=[], description=""), 422),
        (question(references=[], description="a [*]"), 422),
        (question(references=[{"name": "a.png"}] * 5, description=""), 400),
        (question(references=[{"name": "a.png"}] * 2, description="red"), 422),
        (question(references=["a.png"], description=""), 404),
        (question(name="a.png", description="", weight=2), 400),
        (question(name="a.png", description="", weight=float("nan")), 400),
        (question(name="a.png", description="", mix="x"), 400),
        (question(name="a.png", description="\ud800"), 400),
        ("[" * 60000, 400),
        (question(upload="a.png", description=""), 404),
        (question(name="a.png", description="[*2]"), 422),
        ("x" * (70 << 10), 413),
    ],
)
def test_odd_questions_get_a_reason(ask, body, status):
    found, answer = ask("POST", "/search", body)
    assert (found, bool(answer["error"])) == (status, True)


def test_other_sites_are_refused(ask):
    body = question(name="a.png", description="")
    assert ask("GET", "/images", Host="evil.example")[0] == 403
    assert ask("POST", "/search", body, Host="evil.example:80")[0] == 403
    assert ask("POST", "/search", body, X_Context_I2W=None)[0] == 403
    assert ask("GET", "/images", Host="localhost:80")[0] == 200
    assert ask("POST", "/elsewhere", body)[0] == 404


def test_loopback():
    assert all(map(is_loopback, ["127.0.0.1", "localhost", "::1", "127.8.8.8"]))
    assert not any(map(is_loopback, ["0.0.0.0", "192.168.0.3", "example.org", "localhost.example.org", ""]))


def test_a_port_in_use_is_one_line(engine, address):
    with pytest.raises(UserError, match="can't be listened on"):
        serve(Demo(engine, []), port=address[1])


@pytest.fixture
def command(tmp_path, monkeypatch, golden_clip_state, golden_mapper_state):
    """The script over a folder of pictures, with a published checkpoint."""
    monkeypatch.chdir(tmp_path)
    checkpoint = published_file(tmp_path / "c.pt", golden_clip_state, golden_mapper_state)
    for number in range(5):
        draw(tmp_path / "photos" / f"{number}.png", number)
    common = ["--resume", str(checkpoint), "--images", "photos", "--cache", "cache", "--device", "cpu"]
    return lambda *more: script.main([*common, *more])


def test_script_writes_a_gallery_and_features(command, tmp_path, capsys):
    command("--query", "photos/1.png", "--prompts", "a [*]", "red", "--k", "2", "--compare", "--export", "f.npy")
    page = Elements((tmp_path / "demo.html").read_text())
    assert sum(tag == "img" for tag, _ in page.tags) == 2 * (1 + 4 * 2)
    assert "1.png" not in [text.split(" ")[1] for text in page.text if re.match(r"\d\. ", text)]
    assert (tmp_path / "f.npy").is_file()
    assert "wrote demo.html" in capsys.readouterr().out


def test_script_searches_files_by_clip_alone(command, tmp_path, capsys):
    """Random weights of the smallest of open_clip's models: nothing is fetched."""
    torch.save(Retriever.from_clip("ViT-S-32-alt", None).clip.state_dict(), tmp_path / "clip.pt")
    (tmp_path / "some.txt").write_text("photos/1.png\nphotos/2.png\n")
    alone = ["--model", "ViT-S-32-alt", "--pretrained", "clip.pt", "--cache", "cache", "--device", "cpu"]
    script.main([*alone, "--images", "some.txt", "--prompts", "red", "--k", "1"])
    assert "2 images of some.txt" in capsys.readouterr().out
    assert "CLIP without a mapper" in (tmp_path / "demo.html").read_text()


def test_a_missing_folder_is_named_before_clip_is_fetched(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(Retriever, "from_clip", None)
    with pytest.raises(SystemExit):
        script.main(["--model", "ViT-L-14", "--pretrained", "openai", "--images", str(tmp_path / "none")])
    assert "none: no such folder of images" in capsys.readouterr().err


def test_script_explains(command, capsys):
    command("--explain", "--query", "photos/1.png", "--prompts", "a sketch of [*]", "red")
    lines = capsys.readouterr().out.splitlines()
    assert "  a sketch of [*]" in lines
    assert sum("Context-I2W: " in line for line in lines) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--serve", "--explain"], "exclude each other"),
        (["--query", "none.png"], "none.png: no such file"),
        (["--k", "0"], "--k 0"),
        (["--parameters", "nprobe=3"], "needs --factory"),
        (["--images", "nowhere"], "no such folder of images"),
        (["--images", "coco", "--data-root", "nowhere"], "no data folder"),
        (["--output", "photos"], "photos"),
        (["--prompts", "[*3]"], "asks for"),
    ],
)
def test_script_mistakes_are_one_line(command, capsys, more, message):
    with pytest.raises(SystemExit) as caught:
        command(*more)
    assert caught.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
