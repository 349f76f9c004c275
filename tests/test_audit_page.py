"""The page of an audit in a real browser: nothing is requested, every picture shows, and names from the data stay text.

The browser is the machine's own Chromium, driven by playwright; without either, those tests are skipped by name.
"""

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from slowfast_ray.data.config import DataConfig
from slowfast_ray.running.audits import audit_page, audit_pictures, auditing

EVIL = '<script>document.title="taken"</script><img src=x onerror=alert(1)> $\\frac{$ &amp; "\'日本'


class Opened:
    """A page in the browser that can reach nothing but its own file."""

    def __init__(self, browser: Any, path: Path) -> None:
        self.requested: list[str] = []
        self.said: list[str] = []
        self.page = browser.new_page(viewport={"width": 1120, "height": 900})
        self.page.set_default_timeout(120_000)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.route("**/*", self._route)
        self.page.goto(path.as_uri())

    def _route(self, route: Any) -> None:
        url = route.request.url
        if url.startswith("data:"):
            route.continue_()
            return
        self.requested.append(url)
        route.continue_() if url.startswith("file:") else route.abort()


def render(root: Path, **settings: Any) -> str:
    return audit_page.render(auditing.report(DataConfig(root=str(root), **settings), widest_window=144.0))


def write(folder: Path, page: str) -> Path:
    path = folder / "audit.html"
    path.write_text(page, encoding="utf-8")
    return path


def check(opened: Opened, path: Path, num_pictures: int) -> None:
    """What holds for every page: it is whole, quiet and alone."""
    page = opened.page
    images = page.locator("img").all()
    assert len(images) >= num_pictures
    whole = np.asarray(Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")).astype(int)
    for image in images:
        assert image.evaluate("each => each.complete && each.naturalWidth > 0")
        assert image.get_attribute("alt")
        left, top, width, height = (round(image.bounding_box()[side]) for side in ("x", "y", "width", "height"))
        shown = whole[top : top + height, left : left + width] @ [65536, 256, 1]
        assert len(np.unique(shown)) > 20, "a picture, not a blank"
    assert all(text.strip() for text in page.locator("figcaption").all_inner_texts())
    assert page.locator("figcaption").count() == len(images)
    assert opened.requested == [path.as_uri()]
    assert opened.said == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out"


@pytest.fixture(scope="module")
def evil_page(made_up_root: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a dataset with a name that wants to be more than a name, for a class, an image and a recording."""
    root = Path(shutil.copytree(made_up_root, tmp_path_factory.mktemp("evil") / "<b>evil & root"))
    recording = "<i>R1&"
    (root / "frames" / "SYN1_R1.h5").rename(root / "frames" / f"{recording}.h5")
    for name in ("train", "val"):
        path = root / "annotations" / f"{name}.json"
        content = json.loads(path.read_text())
        for category in content["categories"]:
            category["name"] = EVIL if category["name"] == "standing" else category["name"]
        for image in content["images"]:
            image["sensor_id"] = recording if image["sensor_id"] == "SYN1_R1" else image["sensor_id"]
            image["id"] = f"<u>{image['id']}"
        for annotation in content["annotations"]:
            annotation["image_id"] = f"<u>{annotation['image_id']}"
        path.write_text(json.dumps(content))
    return render(root)


def test_names_from_the_data_are_escaped(evil_page: str) -> None:
    page = evil_page
    assert "&lt;script&gt;document.title=&#34;taken&#34;" in page
    assert "&lt;i&gt;R1&amp;" in page
    assert "&lt;u&gt;" in page
    assert "<title>Audit of &lt;b&gt;evil &amp; root</title>" in page
    for forbidden in ("<script", "<img src=x", "<i>", "<u>", "http:", "https:"):
        assert forbidden not in page
    assert set(re.findall(r'src="([^,"]*)', page)) == {"data:image/png;base64"}


def test_a_page_shows_whole_requests_nothing_and_names_do_nothing(evil_page: str, tmp_path: Path, browser: Any) -> None:
    path = write(tmp_path, evil_page)
    opened = Opened(browser, path)
    check(opened, path, num_pictures=12 + 6)
    assert opened.page.title() == "Audit of <b>evil & root"
    assert EVIL in opened.page.locator("#samples").inner_text()
    for section in ("findings", "baselines", "samples", "classes", "labels", "time", "recordings", "dead-pixels"):
        assert opened.page.locator(f"section#{section}").is_visible()
    opened.page.set_viewport_size({"width": 420, "height": 900})
    assert opened.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nor on a phone"


def test_several_labels_and_recordings_without_times_have_a_page_as_well(made_up_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(made_up_root, tmp_path / "timeless"))
    for path in (root / "frames").glob("*.h5"):
        with h5py.File(path, "r+") as file:
            del file["timestamps"]
    page = render(root, labels="multi")
    assert page.count("<figure>") >= 12 + 2
    assert "val/mean_ap %" in page
    assert 'id="time"' not in page
    assert "ms from one frame" not in page


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (7, 2900, [10, 100, 1000]),
        (30, 600, [30, 100, 300]),
        (135, 209, [135, 209]),
        (90, 210, [100, 120, 150, 200]),
        (0.9, 1.1, [0.9, 1.1]),
    ],
)
def test_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert audit_pictures.round_numbers(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], []),
        ([(5, 9), (0, 3)], [(0, 3), (5, 9)]),
        ([(0, 3), (3, 5)], [(0, 5)]),
        ([(0, 9), (2, 4), (8, 12)], [(0, 12)]),
    ],
)
def test_merged_spans(spans: list[tuple[int, int]], expected: list[tuple[int, int]]) -> None:
    assert audit_pictures.merged(spans) == expected
