"""The page in headless Chromium: upload, type, results change, heat maps change."""

import threading

import pytest
from tests.demo.test_demo import HOSTILE, engine  # noqa: F401 (a fixture)
from tests.search.test_retriever import draw

from context_i2w.demo.server import Demo, serve
from context_i2w.errors import UserError
from screenshot import open_chromium

pytestmark = pytest.mark.browser
SECONDS = 30


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    try:
        browser = open_chromium(tmp_path_factory.mktemp("chromium"))
    except UserError as error:
        pytest.skip(str(error))
    yield browser
    browser.quit()


@pytest.fixture
def page(browser, engine):  # noqa: F811
    server = serve(Demo(engine, ["a sketch of [*]"]), port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser.get_log("browser")  # forgets what earlier tests left there
    browser.get(f"http://127.0.0.1:{server.server_address[1]}/")
    yield Page(browser)
    server.shutdown()
    server.server_close()


class Page:
    """What a person does with the page, and sees on it."""

    def __init__(self, browser):
        from selenium.webdriver.support.ui import WebDriverWait

        self.browser = browser
        self.wait = WebDriverWait(browser, SECONDS)
        self.answered(1)

    def find(self, selector):
        return self.browser.find_elements("css selector", selector)

    def answered(self, times):
        """Waits for so many answers since the page was opened."""
        self.wait.until(lambda b: int(b.execute_script("return document.body.dataset.answers || 0")) >= times)

    def answers(self):
        return int(self.browser.execute_script("return document.body.dataset.answers || 0"))

    def describe(self, text):
        before = self.answers()
        [box] = self.find("#description")
        box.clear()
        box.send_keys(text)
        self.answered(before + 1)

    def results(self):
        figures = self.find("#results figure")
        return [(figure.get_attribute("title"), figure.text) for figure in figures]

    def maps(self):
        return [image.get_attribute("src") for image in self.find("#maps img")]


def test_typing_changes_results_and_heat_maps(page):
    page.describe("a sketch of [*]")
    results, maps = page.results(), page.maps()
    assert page.find("#prompt")[0].text == "composed as: a sketch of [*]"
    page.describe("on a beach")
    assert page.find("#prompt")[0].text == "composed as: a photo of [*] , on a beach"
    assert page.results() != results
    assert len(maps) == len(page.maps()) == 3
    assert all(now != before for now, before in zip(page.maps(), maps))
    now = page.maps()
    page.find("#change")[0].click()
    assert all(change != heat for change, heat in zip(page.maps(), now))


def test_upload_becomes_the_reference(page, tmp_path):
    before = page.results()
    page.find("#file")[0].send_keys(str(draw(tmp_path / "my photo.png", 123)))
    page.answered(2)
    assert page.find("#reference-name")[0].text == "my photo.png"
    assert page.results() != before
    assert page.find("#reference")[0].get_attribute("src").startswith("data:image/jpeg")
    (tmp_path / "no.png").write_text("no picture")
    page.find("#file")[0].send_keys(str(tmp_path / "no.png"))
    page.wait.until(lambda _: "not one of JPEG" in page.find("#error")[0].text)


def test_picking_another_reference_and_the_baselines(page):
    before = page.results()
    page.find("#gallery button")[3].click()
    page.answered(2)
    assert page.results() != before
    page.find("#compare")[0].click()
    page.answered(3)
    titles = [heading.text for heading in page.find("#results h2")]
    assert titles == ["image only", "text only", "image + text", "Context-I2W", "Pic2Word"]
    page.find("#examples button")[0].click()
    page.answered(4)
    assert page.find("#prompt")[0].text == "composed as: a sketch of [*]"


def test_pictures_load_and_nothing_is_run_or_fetched_from_elsewhere(page):
    page.describe(f"[*] {HOSTILE}")
    page.wait.until(
        lambda b: b.execute_script(
            "return [...document.querySelectorAll('#results img')].every((i) => i.complete && i.naturalWidth > 0)"
        )
    )
    assert HOSTILE in page.find("#prompt")[0].text
    assert not page.find("#prompt *")
    entries = page.browser.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
    origin = page.browser.current_url
    assert all(entry.startswith((origin, "data:")) for entry in entries)
    assert [entry for entry in page.browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_mistake_is_shown_and_the_page_goes_on(page):
    [box] = page.find("#description")
    box.send_keys("[*2]")
    page.wait.until(lambda _: "asks for [*2]" in page.find("#error")[0].text)
    page.describe("red")
    assert not page.find("#error")[0].is_displayed()
