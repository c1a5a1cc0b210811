"""The page in headless Chromium, on a desk and on a phone, in both colour schemes."""

import importlib.util
import os
import threading
import time
from pathlib import Path

import pytest
from PIL import Image
from tests.demo.test_demo import HOSTILE, NAMES, engine  # noqa: F401 (a fixture)
from tests.search.test_retriever import draw

from context_i2w.demo.gallery import render
from context_i2w.demo.server import Demo, serve
from context_i2w.errors import UserError
from screenshot import DEVICES, open_chromium, show_as

pytestmark = pytest.mark.browser
SECONDS = 30
SCREENS = [(device, scheme) for device in DEVICES for scheme in ("light", "dark")]
COMPLETE = "return [...document.querySelectorAll('#results img')].every((i) => i.complete && i.naturalWidth > 0)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    try:
        browser = open_chromium(tmp_path_factory.mktemp("chromium"), "--use-fake-device-for-media-stream")
    except UserError as error:
        pytest.skip(str(error))
    permissions = ["clipboardReadWrite", "clipboardSanitizedWrite", "videoCapture"]
    browser.execute_cdp_cmd("Browser.grantPermissions", {"permissions": permissions})
    yield browser
    browser.quit()


@pytest.fixture
def page(browser, engine):  # noqa: F811
    demo = Demo(engine, ["a sketch of [*]"])
    server = serve(demo, port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    show_as(browser, "desk", "light")
    browser.get_log("browser")  # forgets what earlier tests left there
    yield Page(browser, f"http://127.0.0.1:{server.server_address[1]}/", demo)
    server.shutdown()
    server.server_close()


class Page:
    """What a person does with the page, and sees on it."""

    def __init__(self, browser, address, demo):
        from selenium.webdriver.support.ui import WebDriverWait

        self.browser = browser
        self.address = address
        self.demo = demo
        self.wait = WebDriverWait(browser, SECONDS, poll_frequency=0.05)
        self.open()

    def open(self, query=""):
        self.browser.get(self.address + query)
        self.answered(1)

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def find(self, selector):
        return self.browser.find_elements("css selector", selector)

    def one(self, selector):
        return self.browser.find_element("css selector", selector)

    def answers(self):
        return int(self.run("return document.body.dataset.answers || 0"))

    def answered(self, times):
        """Waits for so many answers since the page was opened."""
        self.wait.until(lambda _: self.answers() >= times)

    def then(self, action):
        """Does something and waits for the answer to it."""
        before = self.answers()
        action()
        self.answered(before + 1)

    def reload(self):
        self.run("window.before = true")
        self.browser.refresh()
        self.wait.until(lambda _: self.run("return !window.before"))
        self.answered(1)

    def describe(self, text):
        def type_it():
            self.one("#description").clear()
            self.one("#description").send_keys(text)

        self.then(type_it)
        self.wait.until(lambda _: self.run("return new URLSearchParams(location.search).get('q') ?? ''") == text)
        self.wait.until(lambda _: self.one("#answer").get_attribute("aria-busy") == "false")

    def press(self, *keys):
        from selenium.webdriver.common.keys import Keys

        for key in keys:
            self.browser.switch_to.active_element.send_keys(getattr(Keys, key, key))

    def focused(self):
        return self.run("return document.activeElement.id")

    def results(self):
        return [button.text for button in self.find("#results button")]

    def references(self):
        return [image.get_attribute("alt") for image in self.find("#references img")]

    def slide(self, value):
        slider = "const follow = document.getElementById('follow'); follow.value = arguments[0];"
        self.then(lambda: self.run(slider + "follow.dispatchEvent(new Event('input'))", value))

    def maps(self):
        return [image.get_attribute("src") for image in self.find("#maps img")]


def axe():
    """axe-core's source: AXE_CORE names a newer file than the one of requirements-dev.txt."""
    if "AXE_CORE" in os.environ:
        return Path(os.environ["AXE_CORE"]).read_text(encoding="utf-8")
    found = importlib.util.find_spec("axe_core_python")
    if found is None:
        pytest.skip("axe-core is not installed: pip install axe-core-python")
    return Path(found.origin).with_name("axe.min.js").read_text(encoding="utf-8")


def violations(page):
    page.run(axe())  # by the driver: the page's own policy lets no foreign script in
    script = "axe.run({resultTypes: ['violations']}).then((found) => arguments[0](found.violations), arguments[0])"
    found = page.browser.execute_async_script(script)
    assert isinstance(found, list), found
    return [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found]


@pytest.mark.parametrize(("device", "scheme"), SCREENS)
def test_every_screen(page, device, scheme):
    show_as(page.browser, device, scheme)
    page.open()
    width, height = DEVICES[device]
    assert page.run("return [innerWidth, innerHeight]") == [width, height]
    dark = page.run("return getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    assert dark == (scheme == "dark")
    page.press("TAB")
    assert page.one(".skip").is_displayed()
    page.press("TAB")
    assert page.focused() == "description"
    first = page.one("#results img").rect
    assert page.one("#description").rect["y"] < 160
    assert first["y"] + first["height"] < height  # query and answer on the first screen
    gallery = [button.rect for button in page.find("#gallery button")]
    if device == "phone":
        assert len({round(place["y"]) for place in gallery}) == 1
    else:
        assert all(place["x"] > first["x"] + 500 for place in gallery)
    assert violations(page) == []
    page.one("summary").click()
    page.wait.until(lambda _: page.maps())
    page.then(page.one("#compare").click)
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert violations(page) == []
    page.one("#results button").click()
    assert violations(page) == []
    page.press("ESCAPE")
    page.one("#description").send_keys("[*7]")
    page.wait.until(lambda _: page.one("#error").is_displayed())
    assert violations(page) == []
    assert page.run("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("device", "scheme"), SCREENS)
def test_the_gallery_in_a_file_looks_the_same(page, engine, tmp_path, device, scheme):  # noqa: F811
    look = engine.look(engine.index.path("a.png"), "a.png")
    answer = engine.answer(look, f"[*] {HOSTILE}", k=4, compare=True)
    file = tmp_path / "gallery.html"
    file.write_text(render("Composed image retrieval", "5 images", [("a.png", look, answer)], engine.index), "utf-8")
    show_as(page.browser, device, scheme)
    page.browser.get(file.as_uri())
    background = page.run("return getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(244, 245, 247)", "dark": "rgb(20, 23, 27)"}[scheme]
    assert page.run("return document.documentElement.scrollWidth") <= DEVICES[device][0]
    assert page.run("return [...document.images].every((i) => i.naturalWidth > 0)")
    assert violations(page) == []


def test_results_fill_the_width(page):
    for device, least in (("phone", 3), ("desk", 5)):
        show_as(page.browser, device, "light")
        page.open("?q=red&k=24")
        tops = [button.rect["y"] for button in page.find("#results button")]
        assert tops.count(tops[0]) >= min(least, len(tops))
        grid = page.one(".results").rect
        assert page.one("#answer").rect["width"] - grid["width"] < 40


def test_typing_changes_results_and_heat_maps(page):
    assert page.maps() == []  # nothing is computed for what is folded away
    page.then(page.one("summary").click)
    page.describe("a sketch of [*]")
    results, maps = page.results(), page.maps()
    assert page.one("#prompt").text == "composed as: a sketch of [*]"
    page.describe("on a beach")
    assert page.one("#prompt").text == "composed as: a photo of [*] , on a beach"
    assert page.results() != results
    assert len(maps) == len(page.maps()) == 3
    assert all(now != before for now, before in zip(page.maps(), maps))
    now = page.maps()
    page.one("#change").click()
    assert all(change != heat for change, heat in zip(page.maps(), now))
    assert "Pic2Word" in page.one("#words").text


def test_the_slider_needs_no_pass(page, engine, monkeypatch):  # noqa: F811
    page.describe("red")
    recommended = page.results()
    hits = engine.index.search(engine.index.path(page.references()[0]), "red", k=4)  # the published query
    clip = engine.retriever.clip
    for name in ("encode_image", "encode_text", "compose"):
        monkeypatch.setattr(clip, name, lambda *_, name=name: pytest.fail(f"{name} was called"))
    page.slide(0)
    stays = page.results()
    assert stays != recommended
    assert "follow=0" in page.browser.current_url
    page.then(lambda: page.one("#mix option:not(:checked)").click())
    assert page.results() != stays
    page.slide(100)
    assert page.results()[:4] == [f"{hit.rank} · {hit.score:.3f} · {hit.name}" for hit in hits]
    page.then(lambda: page.browser.execute_script("history.go(-3)"))
    assert page.results() == recommended
    page.then(lambda: page.one("#k option[value='24'], #k option:nth-child(2)").click())
    page.then(page.one("#compare").click)
    assert not page.one("#error").is_displayed()


def test_references_by_file(page, tmp_path):
    before = page.results()
    page.then(lambda: page.one("#file").send_keys(str(draw(tmp_path / "my photo.png", 123))))
    assert page.references() == ["my photo.png"]
    assert page.results() != before
    after = page.results()
    page.reload()  # the server still has it
    assert page.references() == ["my photo.png"]
    assert page.results() == after
    (tmp_path / "no.png").write_text("no picture")
    page.one("#file").send_keys(str(tmp_path / "no.png"))
    page.wait.until(lambda _: "not one of JPEG" in page.one("#error").text)
    assert (page.references(), page.results()) == (["my photo.png"], after)  # still an answer to what is shown


TRANSFER = """
const [kind, done] = arguments;
const canvas = Object.assign(document.createElement("canvas"), {width: 60, height: 50});
canvas.getContext("2d").fillRect(5, 5, 20, 30);
canvas.toBlob((blob) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([blob], `by ${kind}.png`, {type: "image/png"}));
  const given = kind === "drop" ? {dataTransfer: transfer} : {clipboardData: transfer};
  const Kind = kind === "drop" ? DragEvent : ClipboardEvent;
  const event = new Kind(kind, {...given, bubbles: true, cancelable: true});
  (kind === "drop" ? document.body : window).dispatchEvent(event);
  done();
}, "image/png");
"""


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_references_by_drop_and_paste(page, kind):
    page.then(lambda: page.browser.execute_async_script(TRANSFER, kind))
    assert page.references() == [f"by {kind}.png"]


def test_a_reference_by_camera(page):
    page.one("#camera").click()
    page.wait.until(lambda _: page.run("return document.getElementById('video').videoWidth") > 0)
    page.then(page.one("#shoot").click)
    assert page.references() == ["camera.jpg"]
    assert page.run("return document.getElementById('video').srcObject.active") is False


def test_several_references_and_text_alone(page):
    page.one("#add").click()
    page.then(page.find("#gallery button")[2].click)
    assert len(page.references()) == 2
    assert page.one("#prompt").text == "composed as: a photo of [*1] and [*2]"
    page.then(page.one("summary").click)
    page.wait.until(lambda _: len(page.maps()) == 6)
    page.describe("[*2] without [*1]")
    assert len(page.results()) == 2 * (len(NAMES) - 2)
    page.find("#references button")[0].click()
    page.wait.until(lambda _: "asks for" in page.one("#error").text)
    assert page.results() == []
    page.describe("a sketch of [*]")
    page.one("#add").click()
    page.then(page.find("#gallery button")[4].click)
    assert page.one("#prompt").text == "composed as: a sketch of [*1] and [*2]"
    page.then(page.one("#references button").click)
    assert page.one("#prompt").text == "composed as: a sketch of [*]"
    page.describe("is red")
    page.then(page.one("#references button").click)
    assert [heading.text for heading in page.find("#results h2")] == ["text only"]
    assert len(page.results()) == len(NAMES)
    page.one("#description").clear()
    page.one("#description").send_keys(" ")
    page.wait.until(lambda _: "Choose a reference" in page.one("#status").text)
    assert page.results() == []


def test_picking_another_reference_and_the_baselines(page):
    before = page.results()
    page.then(page.find("#gallery button")[3].click)
    assert page.results() != before
    assert [button.get_attribute("aria-selected") for button in page.find("#gallery button")].count("true") == 1
    page.then(page.one("#compare").click)
    titles = [heading.text for heading in page.find("#results h2")]
    assert titles == ["image only", "text only", "image + text", "Context-I2W", "Pic2Word"]
    page.then(page.one("#examples button").click)
    assert page.one("#prompt").text == "composed as: a sketch of [*]"
    about = page.one("#about").text
    assert "5 pictures" in about
    assert "golden" in about
    assert "Context-I2W, Pic2Word" in about


def test_the_gallery_is_one_tab_stop_with_a_filter(page, monkeypatch):
    stops = page.run("return [...document.querySelectorAll('#gallery button')].map((b) => b.tabIndex)")
    assert sorted(stops) == [-1] * (len(NAMES) - 1) + [0]
    page.run("document.querySelector('#gallery button').focus()")
    page.press("ARROW_RIGHT", "END", "HOME", "ARROW_DOWN")
    page.then(lambda: page.press("ENTER"))
    second = page.find("#gallery button")[1].get_attribute("data-name")
    assert page.references() == [second]
    page.one("#filter").send_keys("DEEP")
    page.wait.until(lambda _: len(page.find("#gallery button")) == 1)
    assert page.one("#total").text == "1 of 1"
    monkeypatch.setattr("context_i2w.demo.server.PAGE_OF_IMAGES", 2)
    page.open()
    page.wait.until(lambda _: page.one("#total").text == "5 of 5")  # more come as the end is reached


def test_a_result_is_a_door(page, engine):  # noqa: F811
    page.describe("red")
    page.run("document.querySelector('#results button').focus()")
    page.press("ENTER")
    name = page.one("#viewed").text
    assert f"1 · {page.one('#score').text.split()[-1]} · {name}" == page.results()[0] != ""
    full = Image.open(engine.index.path(name)).size
    natural = "const i = document.getElementById('full'); return [i.naturalWidth, i.naturalHeight]"
    page.wait.until(lambda _: tuple(page.run(natural)) == full)
    page.press("ARROW_RIGHT")
    second = page.one("#viewed").text
    assert second != name
    page.press("ARROW_LEFT")
    assert page.one("#viewed").text == name
    page.one("#copy").click()
    page.wait.until(lambda _: page.one("#said").text == "path copied")
    path = page.browser.execute_async_script("navigator.clipboard.readText().then(arguments[0], arguments[0])")
    assert path == str(engine.index.path(name).resolve())
    got = page.browser.execute_async_script(
        "fetch(document.getElementById('download').href).then(async (r) => arguments[0]"
        "([r.headers.get('content-disposition'), (await r.arrayBuffer()).byteLength]))"
    )
    assert got[0].startswith("attachment")
    assert got[1] == engine.index.path(name).stat().st_size
    page.press("ESCAPE")
    assert not page.one("#viewer").is_displayed()
    page.find("#results button")[1].click()
    page.then(page.one("#use").click)
    assert page.references() == [second]
    assert page.focused() == "description"
    page.one("#results button").click()
    page.then(page.one("#join").click)
    assert len(page.references()) == 2
    assert page.one("#prompt").text == "composed as: a photo of [*1] and [*2] , red"


def test_the_query_lives_in_the_address(page):
    first = page.references()
    page.describe("a sketch of [*]")
    page.then(page.find("#gallery button")[3].click)
    page.slide(40)
    page.then(lambda: page.one("#k option:nth-child(2)").click())
    shown = page.results()
    page.reload()
    assert page.results() == shown
    assert [page.one(f"#{name}").get_attribute("value") for name in ("description", "follow", "k")] == [
        *("a sketch of [*]", "40", "24")
    ]
    for _ in range(3):
        page.then(page.browser.back)
    assert page.references() == first
    assert page.one("#description").get_attribute("value") == "a sketch of [*]"
    page.then(page.browser.back)
    assert page.one("#description").get_attribute("value") == ""


def test_keys(page):
    page.run("document.querySelector('#compare').focus()")
    page.press("/")  # in a box that takes no text it would be lost
    page.run("document.activeElement.blur()")
    page.press("/")
    assert page.focused() == "description"
    page.press("/")
    assert page.one("#description").get_attribute("value") == "/"
    page.run("document.querySelector('.skip').focus()")
    page.press("ENTER")
    assert page.focused() == "description"


def test_waiting_is_seen_and_said(page, monkeypatch):
    go = threading.Event()
    search = page.demo.search
    monkeypatch.setattr(page.demo, "search", lambda question: go.wait(SECONDS) and search(question))
    page.one("#description").send_keys("red")
    page.wait.until(lambda _: page.one("#answer").get_attribute("aria-busy") == "true")
    assert page.one("#status").text == "Searching…"
    go.set()
    page.wait.until(lambda _: page.one("#answer").get_attribute("aria-busy") == "false")
    assert "4 results" in page.one("#status").text


def test_a_mistake_clears_what_it_contradicts_and_the_page_goes_on(page):
    assert page.results()
    page.one("#description").send_keys("[*2]")
    page.wait.until(lambda _: "asks for [*2]" in page.one("#error").text)
    assert (page.results(), page.one("#prompt").text, page.maps()) == ([], "", [])
    assert page.one("#answer").get_attribute("aria-busy") == "false"
    page.describe("red")
    assert page.results()
    assert not page.one("#error").is_displayed()


def test_pictures_load_and_nothing_is_run_or_fetched_from_elsewhere(page):
    page.describe(f"[*] {HOSTILE}")
    page.wait.until(lambda _: page.run(COMPLETE))
    assert HOSTILE in page.one("#prompt").text
    assert not page.find("#prompt *")
    entries = page.run("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert len(entries) > len(NAMES)
    assert all(entry.startswith((page.address, "data:")) for entry in entries)
    assert [entry for entry in page.browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_photographs_appear_at_once_and_are_not_decoded_again(browser, engine, tmp_path, monkeypatch):  # noqa: F811
    for number in range(12):
        draw(tmp_path / "photos" / f"{number}.jpg", number, (4000, 3000))
    retriever = engine.retriever
    index = retriever.index(tmp_path / "photos", tmp_path / "cache")
    wanted = type(engine)(index, {"Context-I2W": retriever})
    looks = wanted.look(index.path("0.jpg"), "0.jpg")
    monkeypatch.setattr(wanted, "look", lambda *_, **__: looks)
    for module in ("model.images", "search.pictures"):
        monkeypatch.setattr(f"context_i2w.{module}.open_header", lambda *_: pytest.fail("an original was decoded"))
    server = serve(Demo(wanted, []), port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page = Page(browser, f"http://127.0.0.1:{server.server_address[1]}/", None)
        started = time.perf_counter()
        page.wait.until(lambda _: page.run(COMPLETE))
        assert time.perf_counter() - started < 5  # scripts/measure/photographs.py measures it
        assert len(page.results()) == 11
    finally:
        server.shutdown()
        server.server_close()
