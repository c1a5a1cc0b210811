"""The Space's page by Gradio's own client."""

import importlib.util
import re
from pathlib import Path

import pytest
from PIL import Image
from tests.search.test_retriever import draw

from context_i2w import Retriever

gradio = pytest.importorskip("gradio")
gradio_client = pytest.importorskip("gradio_client")
SPACE = Path(__file__).parents[2] / "examples" / "space"


@pytest.fixture(scope="module")
def app():
    spec = importlib.util.spec_from_file_location("space_app", SPACE / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(6):
        draw(folder / f"p{number}.png", number)
    return folder


@pytest.fixture(scope="module")
def client(app, photos, tmp_path_factory):
    """Of a page that is served as the Space serves it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTEXT_I2W_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        blocks = app.page(Retriever.load("toy", device="cpu"), photos)
        _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, allowed_paths=[str(photos)])
        yield gradio_client.Client(url, verbose=False)
        blocks.close()


def captions(found):
    return [entry["caption"] for entry in found]


def test_hits_are_the_indexs(client, photos, tmp_path):
    found = client.predict(
        gradio_client.handle_file(photos / "p2.png"), "a photo of [*] at night", "blended", 3, api_name="/search"
    )
    index = Retriever.load("toy", device="cpu").index(photos, tmp_path)
    hits = index.search(Image.open(photos / "p2.png"), "a photo of [*] at night", 3, "blended")
    assert captions(found) == [f"{hit.score:.3f}  {hit.name}" for hit in hits]
    assert all(Path(entry["image"]).is_file() for entry in found)


def test_text_alone(client, photos, tmp_path):
    found = client.predict(None, "a red car", "composed", 2, api_name="/search")
    retriever = Retriever.load("toy", device="cpu")
    scores = retriever.encode(texts="a red car") @ retriever.encode(sorted(photos.iterdir())).T
    best = sorted(range(6), key=lambda number: -scores[0, number])[:2]
    assert captions(found) == [f"{scores[0, number]:.3f}  p{number}.png" for number in best]


def test_what_a_visitor_can_mend_is_said(client):
    with pytest.raises(gradio_client.exceptions.AppError, match="choose a reference image, write a description"):
        client.predict(None, "", "composed", 2, api_name="/search")


def test_front_matter_and_requirements_name_one_gradio():
    told = re.search(r"^sdk_version: (.+)$", (SPACE / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert f"gradio=={told.group(1)}" in (SPACE / "requirements.txt").read_text()
