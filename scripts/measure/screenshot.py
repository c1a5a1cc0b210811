"""Makes the pictures of docs/images/ by headless Chromium: the page on a desk and a phone, light and dark; the gallery.

Needs `pip install selenium`, Chromium and chromedriver (Debian: apt install chromium chromium-driver):
    python scripts/measure/screenshot.py
    python scripts/measure/screenshot.py --resume CKPT --images my_photos/ --output DIR \
        --prompts "a sketch of [*]" "on a beach"
"""

import io
import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from context_i2w.command_line import with_values
from context_i2w.demo.options import parse_demo
from context_i2w.errors import UserError, exit_on_user_error

SWITCHES = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--disable-dev-shm-usage", "--hide-scrollbars"),
]
SECONDS = 60
COLOURS = 256  # of the stored PNG: small; chosen so that few but strong colours stay what they are
DEVICES = {"desk": (1280, 900), "phone": (390, 844)}
NAMES = {
    ("desk", "light"): "page.png",
    ("desk", "dark"): "page_dark.png",
    ("phone", "light"): "phone.png",
    ("phone", "dark"): "phone_dark.png",
}


def open_chromium(profile: Path, *switches: str) -> Any:
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
    for switch in [*SWITCHES, *switches, f"--user-data-dir={profile}"]:
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def show_as(browser: Any, device: str, scheme: str) -> None:
    """From now on the browser's window is that of one of DEVICES, its user's colour scheme "light" or "dark"."""
    width, height = DEVICES[device]
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": device == "phone"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    preference = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [preference]})


def _wait(browser: Any, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, SECONDS).until(lambda b: b.execute_script(script))


def _show(browser: Any, page: str) -> None:
    browser.get(page)
    _wait(browser, "return Number(document.body.dataset.answers || 0) > 0")


def _save(browser: Any, path: Path) -> None:
    from PIL import Image

    _wait(browser, "return [...document.images].every((i) => i.complete || i.loading === 'lazy')")
    image = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    stored = image.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=10, dither=Image.Dither.NONE)
    stored.save(path, optimize=True)
    print(f"wrote {path} ({path.stat().st_size / 1e3:.0f} kB)")


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    defaults = {"output": "docs/images", "compare": True, "k": 8, "heat_maps": True}
    chosen = parse_demo(argv, __doc__, "python scripts/measure/screenshot.py", **defaults)
    from context_i2w.demo.run import prepared, prompts_for, references, write_gallery  # imports torch
    from context_i2w.demo.server import Demo, serve
    from context_i2w.distributed import join
    from context_i2w.evaluation.setup import device_asked

    folder = Path(chosen.what.output)
    folder.mkdir(parents=True, exist_ok=True)
    engine = prepared(with_values(chosen, output=str(folder / "gallery.html")), join(device_asked(chosen.machine)))
    prompts = prompts_for(chosen, engine)
    looks = references(chosen, engine)
    server = serve(Demo(engine, prompts), port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    query = {"ref": f"name:{looks[0][0]}", "q": prompts[0]}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        browser = open_chromium(Path(scratch) / "profile")
        try:
            page = f"http://127.0.0.1:{server.server_address[1]}/?{urlencode(query)}"
            _show(browser, page)  # the first answer takes longer than any after it
            for (device, scheme), name in NAMES.items():
                show_as(browser, device, scheme)
                _show(browser, page)
                _save(browser, folder / name)
            gallery = Path(scratch) / "gallery.html"
            write_gallery(with_values(chosen, output=str(gallery)), engine, looks[:1], prompts[:1])
            show_as(browser, "desk", "light")
            browser.get(gallery.as_uri())
            _save(browser, folder / "gallery.png")
        finally:
            browser.quit()
            server.shutdown()
            server.server_close()


if __name__ == "__main__":
    main()
