"""The pictures of a search, from real Optuna studies: every kind of study has all of them, and the page needs nothing.

The browser is the machine's own Chromium, driven by playwright; without either, that test is skipped by name.
"""

import math
import random
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState
from PIL import Image

from slowfast_ray.running.charts import search_pictures
from slowfast_ray.running.charts.search_charts_facts import ENDINGS
from slowfast_ray.running.charts.search_fields import short_names
from slowfast_ray.running.charts.search_pictures import Line

EVIL = '<script>document.title="taken"</script><img src=x onerror=alert(1)> $x$ %{y} &amp; "\'日本'
SINGLE = ["history", "importance", "slice", "parallel", "curves", "cost"]
MIXED = ["finished", "finished", "pruned", "finished", "failed", "infeasible", "stopped", "finished"]
NAN = math.nan

Searched = tuple[optuna.Study, list[Line]]


def finished(number: int, value: float, sample: dict[str, Any], curve: dict[int, float], seconds: float) -> Line:
    """A finished trial without an interval."""
    return Line(
        number=number, ending="finished", sample=sample, curve=curve, value=value, low=NAN, high=NAN, seconds=seconds
    )


def searched(endings: Sequence[str], *, num_objectives: int = 1, name: str = "data.noise") -> Searched:
    """A study with a conditional space that ended as told, and its lines; the objective depends on lr alone."""
    draws = random.Random(0)
    study = optuna.create_study(
        directions=[StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE][:num_objectives],
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    lines: list[Line] = []
    for number, ending in enumerate(endings):
        trial = study.ask()
        sample: dict[str, Any] = {
            "learning.lr": trial.suggest_float("learning.lr", 1e-4, 1, log=True),
            "learning.optimizer": trial.suggest_categorical("learning.optimizer", ["sgd", "adamw"]),
            "model.depth": trial.suggest_int("model.depth", 2, 6),
            "data.clip_len": trial.suggest_categorical("data.clip_len", [32, 16, 8]),
            "data.flip": trial.suggest_categorical("data.flip", [True, False, None]),
            "model.dropout": trial.suggest_float("model.dropout", 0, 0.5),
            name: trial.suggest_categorical(name, [EVIL, "none", None]),
            "run.seed": 0,
        }
        if sample["learning.optimizer"] == "sgd":
            sample["learning.momentum"] = trial.suggest_float("learning.momentum", 0.5, 0.99)
        num_epochs = {"finished": 6, "stopped": 4, "pruned": draws.choice([1, 3])}.get(ending, 0)
        top = 0.9 - 0.1 * abs(math.log10(sample["learning.lr"]) + 2)
        curve = {epoch: top * (1 - math.exp(-epoch / 2)) for epoch in range(1, num_epochs + 1)}
        value, seconds = curve.get(num_epochs, NAN), 2.0 + num_epochs * sample["data.clip_len"]
        if num_objectives == 1:
            for epoch, each in curve.items():
                trial.report(each, epoch)
        if ending == "finished":
            study.tell(trial, [value, seconds][:num_objectives])
        else:
            is_pruned = ending == "pruned" and num_objectives == 1
            study.tell(trial, state=TrialState.PRUNED if is_pruned else TrialState.FAIL)
        lines.append(
            Line(
                number=number, ending=ending, sample=sample, curve=curve, value=value, low=value - 0.05,
                high=value + 0.04, seconds=seconds,
            )
        )  # fmt: skip
    return study, lines


def draw(found: Searched, folder: Path, *, objective: str = "val/mean_class", higher_is_better: bool = True) -> str:
    """The page; all files are there, and every PNG is a picture."""
    study, lines = found
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a search's log shall not fill with a library's doubts
        wrote = search_pictures.draw(
            study, lines, objective=objective, higher_is_better=higher_is_better, folder=folder
        )
    stems = SINGLE if len(study.directions) == 1 else ["pareto", *SINGLE[2:]]
    assert wrote == [*(folder / f"{stem}.png" for stem in stems), folder / "search.html"]
    assert sorted(folder.iterdir()) == sorted(wrote)
    for path in wrote[:-1]:
        shades = Image.open(path).convert("L").getcolors()
        assert shades is not None
        assert len(shades) > 20, f"{path.name} is blank"
    page = wrote[-1].read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)">', page) == stems
    return page


def charts(found: Searched, *, objective: str = "val/mean_class", higher_is_better: bool = True) -> dict[str, Any]:
    """The charts that would be drawn, by name."""
    drawn, _ = search_pictures.charts(*found, objective=objective, higher_is_better=higher_is_better)
    return {each.stem: each for each in drawn}


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of a mixed search in which a field and the objective have a name that attacks the page."""
    folder = tmp_path_factory.mktemp("evil")
    draw(searched(MIXED, name=EVIL), folder, objective=EVIL)
    return folder


def test_a_mixed_search_has_all_pictures_and_two_draws_are_the_same(evil: Path, tmp_path: Path) -> None:
    draw(searched(MIXED, name=EVIL), tmp_path, objective=EVIL)
    for path in evil.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    ("endings", "says"),
    [
        ([], "0 trials: none."),
        (["finished"], "Importances need at least two finished trials"),
        (["pruned"] * 12, "Importances need at least two finished trials"),
        (["failed"] * 12, "No trial has a value of "),
        (["infeasible", "failed"], "No trial has values by epoch."),
    ],
    ids=["none", "one", "all pruned", "all failed", "failed and infeasible"],
)
def test_a_search_with_little_to_show_says_so_in_words(endings: list[str], says: str) -> None:
    found = charts(searched(endings))
    assert list(found) == SINGLE
    assert any(says in note.text for each in found.values() for panel in each.panels for note in panel.notes)


@pytest.mark.parametrize("endings", [[], ["finished"]], ids=["none", "one"])
def test_a_search_of_hardly_a_trial_has_all_pictures(endings: list[str], tmp_path: Path) -> None:
    draw(searched(endings), tmp_path)


def test_trials_with_the_same_value_have_no_importances_and_still_all_pictures(tmp_path: Path) -> None:
    study = optuna.create_study(direction="maximize")
    lines = []
    for number in range(3):
        trial = study.ask()
        study.tell(trial, 0.5 + 0 * trial.suggest_float("x", 0, 1))
        lines.append(finished(number, 0.5, trial.params, {1: 0.5}, NAN))
    assert "Importances need at least two finished trials" in draw((study, lines), tmp_path)


def test_two_hundred_trials_of_a_diverging_loss_are_drawn() -> None:
    study, lines = searched(MIXED * 25)
    lines[0] = replace(lines[0], value=4e4, low=NAN, high=NAN)
    found = charts((study, lines), objective="val/loss", higher_is_better=False)
    assert found["history"].panels[0].y.is_log
    assert found["history"].panels[0].y.label == "val/loss (lower is better)"


def test_two_objectives_have_a_pareto_front_instead_of_history() -> None:
    study, lines = searched(MIXED * 3, num_objectives=2)
    _, front = charts((study, lines))["pareto"].panels[0].series
    assert sorted(zip(front.x, front.y, strict=True)) == sorted(tuple(each.values) for each in study.best_trials)


def test_two_objectives_of_which_no_trial_finished(tmp_path: Path) -> None:
    assert "No trial has finished. 2 trials: 2 failed." in draw(searched(["failed"] * 2, num_objectives=2), tmp_path)


def test_charts_show_what_the_trials_were() -> None:
    study, lines = searched(MIXED)
    found = charts((study, lines))
    series = {each.label: each for each in found["history"].panels[0].series if each.label}
    assert list(series["finished"].x) == [0, 1, 3, 7]
    assert list(series["finished"].y) == [lines[number].value for number in (0, 1, 3, 7)]
    assert list(series["failed"].x) == [4]
    assert series["failed"].y[0] < min(each.value for each in lines if each.value > 0), "below all others"
    steps = series["best so far"]
    assert list(steps.y[1::2]) == list(np.maximum.accumulate(series["finished"].y))
    assert steps.x[-1] == 7
    best = max((line for line in lines if line.ending == "finished"), key=lambda line: line.value)
    assert series[f"best: trial {best.number}"].y == [best.value]

    panels = {panel.x.label: panel for panel in found["slice"].panels}
    named = ["lr", "optimizer", "depth", "clip_len", "flip", "dropout", "noise", "momentum"]
    assert list(panels) == named, "the seed is the same for all"
    assert panels["lr"].x.is_log
    assert not panels["dropout"].x.is_log
    assert [text for _, text in panels["clip_len"].x.ticks] == ["8", "16", "32"]
    assert [text for _, text in panels["flip"].x.ticks] == ["True", "False", "None"]
    with_momentum = sum("learning.momentum" in line.sample for line in lines)
    dots = [each for each in panels["momentum"].series if each.label in ENDINGS]
    assert 0 < sum(len(each.x) for each in dots) == with_momentum < len(lines)
    assert any(note.text == "not used" for note in found["parallel"].panels[0].notes)

    importance = found["importance"].panels[0]
    assert sum(each.x[1] for each in importance.series) == pytest.approx(100)
    assert sum(bool(each.label or each.hover) for each in found["curves"].panels[0].series) >= 6


def test_the_pareto_front_over_cost_only_rises() -> None:
    front, *_ = charts(searched(["finished"] * 30))["cost"].panels[0].series
    assert list(front.x) == sorted(front.x)
    assert list(front.y) == sorted(front.y)


def test_choices_that_are_equal_but_not_the_same_stand_apart() -> None:
    study = optuna.create_study(direction="maximize")
    lines = []
    for number, value in enumerate([1, True, "1", None, 1.0]):
        study.enqueue_trial({"data.mix": value})
        trial = study.ask()
        trial.suggest_categorical("data.mix", [1, "1", None])
        study.tell(trial, 0.1 * number)
        lines.append(finished(number, 0.1 * number, {"data.mix": value}, {}, 1.0))
    (panel,) = charts((study, lines))["slice"].panels
    assert [text for _, text in panel.x.ticks] == ["1", "1", "None", "True", "1"]
    assert len({round(x) for each in panel.series if each.label == "finished" for x in each.x}) == 5


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["learning.lr", "data.clip_len"], ["lr", "clip_len"]),
        (["data.seed", "run.seed", "model.depth"], ["data.seed", "run.seed", "depth"]),
        (["lr"], ["lr"]),
    ],
)
def test_names_are_short_as_long_as_they_differ(names: list[str], expected: list[str]) -> None:
    assert short_names(names) == expected


def test_drawing_leaves_the_callers_figures_and_backend_alone(tmp_path: Path) -> None:
    before = plt.get_backend()
    plt.switch_backend("svg")
    try:
        mine = plt.figure()
        draw(searched(["failed"]), tmp_path)
        assert plt.get_backend() == "svg"
        assert [plt.figure(number) for number in plt.get_fignums()] == [mine]
        plt.close(mine)
    finally:
        plt.switch_backend(before)


def test_names_are_escaped(evil: Path) -> None:
    page = (evil / "search.html").read_text(encoding="utf-8")
    assert "<script>document" not in page
    assert "<img src=x" not in page
    assert "<title>Search for &lt;script&gt;document.title=&quot;taken&quot;" in page
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=[\"']?(https?:)?//", page)
    assert not re.search(r"<script[^>]*\ssrc", page)
    assert page.count("default-src 'none'") == 1


def test_the_page_is_interactive_without_a_network_and_names_do_nothing(evil: Path, browser: Any) -> None:
    requested: list[str] = []
    said: list[str] = []
    page = browser.new_page(viewport={"width": 1120, "height": 900})
    page.set_default_timeout(120_000)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: requested.append(request.url))
    page.context.set_offline(True)
    url = (evil / "search.html").as_uri()
    page.goto(url)
    for stem in SINGLE:
        page.locator(f"section#{stem} .js-plotly-plot .main-svg").first.wait_for()  # until it is visible
        page.locator(f"section#{stem} path.point, section#{stem} path.js-line").first.wait_for(state="attached")
    point = page.locator("#history path.point").first
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#history .hoverlayer .hovertext")
    told = page.locator("#history .hoverlayer").inner_html()
    assert "trial 2, pruned" in told
    assert "learning.lr = " in told
    assert page.title() == f"Search for {EVIL}"
    assert page.evaluate("document.querySelectorAll('img, a[href^=http]').length") == 0
    buttons = [each.get_attribute("data-title") for each in page.locator(".modebar-btn").all()]
    assert "Download plot as a PNG" in buttons
    assert not [each for each in buttons if each and ("Share" in each or "Plotly" in each)], "nothing is uploaded"
    page.set_viewport_size({"width": 420, "height": 900})
    # Nothing sticks out, once plotly has followed.
    page.wait_for_function("document.documentElement.scrollWidth <= window.innerWidth", timeout=120_000)
    assert requested == [url]
    assert said == []
    page.close()
