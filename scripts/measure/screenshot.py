"""Makes the pictures of docs/images/: the page in the browser and the HTML gallery, by headless Chromium.

Needs `pip install selenium`, Chromium and chromedriver (Debian: apt install chromium chromium-driver):
    python scripts/measure/screenshot.py
    python scripts/measure/screenshot.py --resume CKPT --images my_photos/ --output DIR \
        --prompts "a sketch of [*]" "on a beach"
"""

import argparse
import io
import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from context_i2w.demo import options as demo_arguments
from context_i2w.demo.engine import Engine
from context_i2w.demo.run import load, make_index, prompts_for, references, write_gallery
from context_i2w.demo.server import Demo, serve
from context_i2w.errors import UserError, exit_on_user_error

SWITCHES = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--disable-dev-shm-usage", "--hide-scrollbars"),
]
SECONDS = 60
COLOURS = 128  # of the stored PNG: small, and good enough for a page


def open_chromium(profile: Path, width: int = 1280, height: int = 1000) -> Any:
    """A selenium driver of headless Chromium with an empty profile. Raises UserError if something is not installed."""
    try:
        from selenium import webdriver
    except ImportError:
        raise UserError("selenium is not installed: `pip install selenium`") from None
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        raise UserError("Chromium or chromedriver is not installed (Debian: apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for switch in [*SWITCHES, f"--window-size={width},{height}", f"--user-data-dir={profile}"]:
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def picture_page(browser: Any, engine: Engine, reference: str, description: str, path: Path) -> None:
    """The page after a reference has been picked and a description typed."""
    from selenium.webdriver.support.ui import WebDriverWait

    server = serve(Demo(engine, [description]), port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        wait = WebDriverWait(browser, SECONDS)
        answers = "return Number(document.body.dataset.answers || 0)"
        browser.get(f"http://127.0.0.1:{server.server_address[1]}/")
        wait.until(lambda b: b.execute_script(answers) >= 1)
        browser.execute_script(
            "choose({name: arguments[0]}, '/thumbnail?name=' + encodeURIComponent(arguments[0]), '')", reference
        )
        wait.until(lambda b: b.execute_script(answers) >= 2)
        browser.find_element("css selector", "#compare").click()
        browser.find_element("css selector", "#description").send_keys(description)
        wait.until(lambda b: description in b.find_element("css selector", "#prompt").text)
        _save(browser, path)
    finally:
        server.shutdown()
        server.server_close()


def picture_file(browser: Any, file: Path, path: Path) -> None:
    browser.set_window_size(1280, 600)
    browser.get(file.resolve().as_uri())
    _save(browser, path)


def _save(browser: Any, path: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    loaded = "return [...document.images].every((i) => i.loading === 'lazy' || i.complete)"
    WebDriverWait(browser, SECONDS).until(lambda b: b.execute_script(loaded))
    frame = "window.outerHeight - window.innerHeight"
    height = browser.execute_script(f"return document.documentElement.scrollHeight + {frame}")
    browser.set_window_size(1280, min(max(height, 600), 2000))
    shown = "return [...document.images].every((i) => i.complete)"
    WebDriverWait(browser, SECONDS).until(lambda b: b.execute_script(shown))
    image = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"wrote {path} ({path.stat().st_size / 1e3:.0f} kB)")


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The demo's own options; --output is a folder here."""
    parser = demo_arguments.make_parser(__doc__)
    parser.set_defaults(output="docs/images", compare=True, k=8, heat_maps=True)
    return parser.parse_args(argv)


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    chosen = options(argv)
    folder = Path(chosen.output)
    folder.mkdir(parents=True, exist_ok=True)
    retrievers = load(chosen)
    engine = Engine(make_index(chosen, next(iter(retrievers.values()))), retrievers)
    prompts = prompts_for(chosen, engine)
    looks = references(chosen, engine)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        browser = open_chromium(Path(scratch) / "profile")
        try:
            picture_page(browser, engine, looks[0][0], prompts[0], folder / "page.png")
            chosen.output = str(Path(scratch) / "gallery.html")
            write_gallery(chosen, engine, looks[:1], prompts[:1])
            picture_file(browser, Path(chosen.output), folder / "gallery.png")
        finally:
            browser.quit()


if __name__ == "__main__":
    main()
