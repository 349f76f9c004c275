"""MLflow's own page over a search, in a real browser: trials side by side, as people compare them.

    SLOWFAST_RAY_PICTURES=docs/pictures .venv/bin/python -m pytest tests/running/test_mlflow_page.py

draws the pictures of docs/comparing.md again. The metrics are made up; store, server, page and browser are real.
"""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from PIL import Image

from slowfast_ray.running.tracking.tracking_view import share_view
from tests.running import made_up_search
from tests.running.made_up_search import BOUNDS, FIELDS, METRICS, OBJECTIVE, SAMPLES, final_of, history_of, name_of
from tests.running.test_tracking_outage import Server

STATE_COLUMN = "tags.`slowfast_ray.state`"
# Without the assistant's panel, as once it has been closed.
QUIET = """
localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
"""
DRAWN = """selector => [...document.querySelectorAll(selector)].some(each => {
    const empty = Object.assign(document.createElement('canvas'), {width: each.width, height: each.height});
    return each.toDataURL() != empty.toDataURL();
})"""
OF_PICTURES = {"width": 1400, "height": 1000}
WIDE = {"width": 2600, "height": 900}
"""For tables: the grid writes only the columns that show."""


@dataclass(frozen=True)
class Shown:
    """Addresses of a server over the made-up search."""

    plain: str
    """As somebody opens the experiment who knows of no view."""
    with_view: str


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("shown")
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    uri = f"sqlite:///{folder}/mlflow.db"
    search_id = made_up_search.write(uri, folder)
    client = MlflowClient(uri)
    experiment_id = client.get_run(search_id).info.experiment_id
    view = share_view(client, experiment_id, parameters=FIELDS, metrics=METRICS, search_id=search_id)
    server = Server(folder)
    page = f"{server.uri}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
    yield Shown(page, f"{server.uri}/{view}")
    server.kill()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page of a browser that was never here before."""
    context = browser.new_context(viewport=OF_PICTURES)
    context.add_init_script(QUIET)
    context.set_default_timeout(120_000)
    yield context.new_page()
    context.close()


@pytest.fixture
def picture(tmp_path: Path) -> Any:
    """Takes a picture of a page: into $SLOWFAST_RAY_PICTURES, where that is set, with all room for the table."""
    folder = os.environ.get("SLOWFAST_RAY_PICTURES")

    def take(page: Any, name: str, height: int) -> None:
        if folder:
            page.set_viewport_size({**OF_PICTURES, "height": height})
            page.get_by_role("button", name="Toggle sidebar").click()
            page.wait_for_timeout(1500)  # charts are drawn again for the new width, after a pause with no end to see
        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        assert len(shot.getcolors(1 << 24) or ()) > 100, "not an empty page"
        path = Path(folder or tmp_path) / f"mlflow_{name}.png"
        shot.quantize(256, Image.Quantize.FASTOCTREE).save(path, optimize=True)
        if folder:
            page.get_by_role("button", name="Toggle sidebar").click()

    return take


def rows(page: Any) -> list[str]:
    """The names of the runs that the table shows, from top to bottom."""
    cells = page.locator("[role=gridcell][col-id='attributes.`Run Name`']")
    placed = [(cell.bounding_box()["y"], cell.locator("a").inner_text()) for cell in cells.all()]
    return [name for _, name in sorted(placed)]


def columns(page: Any) -> list[str]:
    """The columns that the table shows, from left to right."""
    heads = page.locator("[role=columnheader][col-id*='`']:not(.ag-header-group-cell)")
    placed = [(head.bounding_box()["x"], head.get_attribute("col-id")) for head in heads.all()]
    return [name for _, name in sorted(placed)]


def cell(page: Any, run: str, column: str) -> str:
    """The text of one cell."""
    index = page.locator("[role=row]").filter(has_text=run).first.get_attribute("row-index")
    return page.locator(f"[role=row][row-index='{index}'] [col-id='{column}']").inner_text().strip()


def assert_cells(page: Any, number: int) -> None:
    """The table shows what the store has of a trial: all fields, all metrics, the state."""
    name, *values = name_of(number), *SAMPLES[number]
    shown = [cell(page, name, f"params.`{field}`") for field in FIELDS] + [cell(page, name, STATE_COLUMN)]
    assert shown == [str(value) for value in values]
    told = {**(history_of(number) or [{}])[-1], **final_of(number)}
    for metric in METRICS:
        text = cell(page, name, f"metrics.`{metric}`")
        assert text == "-" if metric not in told else float(text) == told[metric]


def wait_for_rows(page: Any, name: str = "trial-007") -> None:
    page.locator("[role=gridcell] a", has_text=name).first.wait_for()


def assert_parallel(page: Any, axes: str, canvas: str) -> None:
    """Parallel coordinates are drawn, lines and all, with an axis for each field and one for the objective."""
    page.locator(axes).nth(len(FIELDS)).wait_for()
    assert page.locator(axes).all_text_contents() == [*FIELDS, OBJECTIVE]
    page.wait_for_function(DRAWN, arg=canvas)


def choose(page: Any, selector: str, option: str) -> None:
    """In a list of the comparison page."""
    page.locator(f"{selector}:visible").click()
    page.get_by_role("option", name=option, exact=True).click()


def test_the_view_opens_with_its_columns_first_and_the_best_trial_on_top(shown: Shown, page: Any, picture: Any) -> None:
    page.set_viewport_size(WIDE)
    page.goto(shown.with_view)
    wait_for_rows(page)
    by_worth = sorted(range(8), key=lambda number: -final_of(number)[OBJECTIVE])
    assert rows(page) == [name_of(number) for number in by_worth], "without finalists and other searches"
    assert columns(page) == [
        "attributes.`Run Name`",
        *(f"metrics.`{name}`" for name in (OBJECTIVE, *BOUNDS)),
        STATE_COLUMN,
        *(f"params.`{name}`" for name in FIELDS),
        *(f"metrics.`{name}`" for name in METRICS[3:]),
    ]
    for number in range(8):
        assert_cells(page, number)
    picture(page, "table", 680)


@pytest.mark.slow
def test_the_plain_page_shows_the_search_folded_and_a_link_to_the_view(shown: Shown, page: Any, picture: Any) -> None:
    page.set_viewport_size(WIDE)
    page.goto(shown.plain)
    wait_for_rows(page, "first")
    assert rows(page) == ["other", "first"]
    assert not [column for column in columns(page) if column.startswith(("metrics.", "params."))]
    row = page.locator("[role=gridcell][col-id='attributes.`Run Name`']").filter(has_text="first")
    row.locator("button").first.click()
    wait_for_rows(page)
    assert sorted(rows(page)) == sorted(["first", "finalist-002 seed=1", "other", *map(name_of, range(8))])
    picture(page, "plain", 640)
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Trials of first, best first").click()
    opened.value.set_viewport_size(WIDE)
    wait_for_rows(opened.value)
    assert len(rows(opened.value)) == 8
    assert_cells(opened.value, 0)


@pytest.mark.slow
def test_a_view_from_the_menu_can_be_filtered_and_shows_trials_below_their_search(shown: Shown, page: Any) -> None:
    page.set_viewport_size(WIDE)
    page.goto(shown.plain)
    wait_for_rows(page, "first")
    page.get_by_test_id("saved-views-trigger").click()
    page.get_by_text("Trials of first", exact=True).click()
    wait_for_rows(page)
    box = page.get_by_test_id("search-box")
    box.fill("""tags."slowfast_ray.state" = 'finished' and metrics."final/objective" > 0.45""")
    box.press("Enter")
    page.locator("[role=gridcell] a", has_text="trial-007").wait_for(state="detached")
    left = {"trial-000", "trial-001", "trial-002", "trial-005", "trial-006", "finalist-002"}
    assert {name.split()[0] for name in rows(page)} == left
    # No filter and the order by time: what folds trials below their search; the columns stay.
    box.fill("")
    box.press("Enter")
    page.get_by_test_id("sort-select-dropdown").click()
    page.get_by_test_id("sort-select-Created").click()
    page.locator("[role=gridcell] a", has_text="other").first.wait_for()
    page.locator("[role=gridcell][col-id='attributes.`Run Name`']").filter(has_text="first").locator("button").click()
    wait_for_rows(page)
    for number in range(8):
        assert_cells(page, number)


@pytest.mark.slow
def test_selected_trials_are_compared_in_plots(shown: Shown, page: Any, picture: Any) -> None:
    page.goto(shown.with_view)
    wait_for_rows(page)
    for number in range(8):
        page.locator("[role=row]", has_text=f"trial-{number:03d}").get_by_role("checkbox").click()
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("Comparing 8 Runs from 1 Experiment").wait_for()
    page.locator(".js-plotly-plot .parcoords").first.wait_for()
    page.get_by_role("button", name="Clear All").click()
    for index, names in enumerate((FIELDS, [OBJECTIVE])):
        for name in names:
            page.locator("[role=tabpanel]:visible").get_by_role("combobox").nth(index).click()
            page.keyboard.type(name)
            page.get_by_role("option", name=name, exact=True).wait_for(state="attached")
            page.keyboard.press("Enter")
            page.keyboard.press("Escape")
    assert_parallel(page, ".js-plotly-plot .axis-title", ".js-plotly-plot canvas")
    picture(page, "parallel", 620)

    page.get_by_role("tab", name="Box Plot").click()
    choose(page, "#x-axis-selector", "data.clip_len")
    choose(page, "#y-axis-selector", OBJECTIVE)
    page.locator(".js-plotly-plot .boxlayer path.box").first.wait_for()
    assert page.locator(".js-plotly-plot .boxlayer path.box").count() == 3, "one for each length of clip"
    picture(page, "box", 680)

    page.get_by_role("tab", name="Contour Plot").click()
    choose(page, "#xaxis-selector", "learning.lr")
    choose(page, "#yaxis-selector", "data.clip_len")
    choose(page, "#zaxis-selector", OBJECTIVE)
    page.locator(".js-plotly-plot .contour").first.wait_for()
    picture(page, "contour", 620)

    page.get_by_role("switch", name="Parameters - Show diff only").click()
    assert page.get_by_text("learning.batch_size", exact=True).count()
    assert not page.get_by_text("learning.momentum", exact=True).count(), "the same in all trials"


@pytest.mark.slow
def test_the_charts_of_the_view(shown: Shown, page: Any, picture: Any) -> None:
    page.goto(f"{shown.with_view}&compareRunsMode=CHART")
    page.get_by_text("All fields together").wait_for()
    assert_parallel(page, ".parcoords .axis .label", ".parcoords canvas.foreground")
    page.get_by_text("Each field alone").wait_for()
    page.locator(".js-plotly-plot .scatterlayer path.point").first.wait_for()
    picture(page, "charts", 1000)
    page.get_by_text("Curves", exact=True).scroll_into_view_if_needed()
    page.locator(".js-plotly-plot .scatterlayer path.js-line").first.wait_for()
