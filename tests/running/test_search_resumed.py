"""A search that goes on: what became of its folders meanwhile is told, and nothing is trained twice."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from slowfast_ray.experiment import Experiment
from slowfast_ray.running.searching import tuner
from slowfast_ray.running.searching.config import SearchConfig
from slowfast_ray.running.searching.tuner import SearchResult

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("own_ray")]

SPACE = {"learning.lr": tune.loguniform(1e-6, 0.1)}


def search(experiment: Experiment, *, resume: bool = False, **config: Any) -> SearchResult:
    settings = SearchConfig(max_concurrent=1, scheduler="none", **config)
    ready = tuner.check(experiment, SPACE, settings, name="search", resume=resume)
    return tuner.search(ready, SPACE, settings, resume=resume)


@pytest.mark.slow
def test_trials_whose_folders_are_gone_or_damaged_are_named_and_cannot_win(
    tiny: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = search(tiny, num_trials=4)
    shutil.rmtree(tmp_path / "runs/search/trial-001")
    (tmp_path / "runs/search/trial-002/epoch-001/progress.json").write_text("{", encoding="utf-8")
    (tmp_path / "runs/search/trial-003/epoch-001/predictions.safetensors").write_bytes(b"torn")
    capsys.readouterr()
    again = search(tiny, resume=True, num_trials=2, finalists=1, finalist_seeds=1)
    said = capsys.readouterr().out
    assert "trial-001 cannot win any more: " in said
    assert "trial-002 cannot win any more: " in said
    assert "trial-003 cannot win any more: " in said
    assert "trial-000 cannot win any more: " not in said
    assert "`search.num_trials` (=2) has no effect: 4 trials have begun." in said
    assert [trial.state for trial in again.trials] == ["finished"] * 4
    assert again.best is not None
    assert again.best.number == 0
    assert again.best.values == first.trials[0].values
    assert again.decision is not None
    assert [each.number for each in again.decision.report.finalists] == [0]


@pytest.mark.slow
def test_finalists_of_more_trials_join_those_that_are_trained(tiny: Experiment, tmp_path: Path) -> None:
    asked = {"objectives": "val/loss", "finalists": 1, "finalist_seeds": 1}
    first = search(tiny, num_trials=2, **asked)
    folder = tmp_path / "runs/search"
    trained = {each: each.stat().st_mtime_ns for each in folder.glob("finalist-*/epoch-001/progress.json")}
    assert first.decision is not None
    assert len(trained) == len(first.decision.report.finalists)
    second = search(tiny, resume=True, num_trials=4, **{**asked, "finalists": 3})
    assert second.decision is not None
    assert second.decision.report.finalists[0].values == first.decision.report.finalists[0].values
    assert {each: each.stat().st_mtime_ns for each in trained} == trained, "nothing is trained twice"
    assert len(second.decision.report.finalists) >= 3
    assert len(list(folder.glob("finalist-*/epoch-001/progress.json"))) == len(second.decision.report.finalists)

    strange = next(folder.glob("finalist-000-*/epoch-001/experiment.json"))
    began = json.loads(strange.read_text())
    began["learning.lr"] *= 2
    strange.write_text(json.dumps(began))
    third = search(tiny, resume=True, num_trials=4, **{**asked, "finalists": 3})
    assert third.decision is None
    assert "finalist-000-seed-1-fold-0 was trained as another experiment" in third.halted
    assert strange.exists(), "nothing is lost"
