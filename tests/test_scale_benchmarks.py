"""The benchmarks of scale run, at a size that takes seconds, and what they count is there."""

import dataclasses
import importlib
import shutil
import sqlite3
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from slowfast_ray.running.searching import study
from slowfast_ray.running.tracking import tracking

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
driver_playing: Any = importlib.import_module("driver_playing")
driver_scale: Any = importlib.import_module("driver_scale")
in_flight: Any = importlib.import_module("in_flight")
scaling: Any = importlib.import_module("scaling")

SMALL = {"num_trials": 7, "num_epochs": 4, "slots": 3, "grace_epochs": 2, "data_frames": 260}


def curves_in(folder: Path) -> dict[int, int]:
    """Epochs of each trial, by the study."""
    with sqlite3.connect(folder / "study.db") as connection:
        rows = connection.execute(
            "SELECT number, COUNT(*) FROM trials JOIN trial_intermediate_values USING (trial_id) GROUP BY number"
        )
        return dict(rows.fetchall())


@pytest.mark.slow
def test_every_trial_and_epoch_that_was_played_is_in_the_study_and_in_mlflow(tmp_path: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, tmp_path)
    played = driver_scale.play(driver_scale.Flags(**SMALL), tmp_path)
    assert sum(played.endings.values()) == 7
    assert set(played.endings) == {"finished", "pruned"}
    assert Counter(study.endings(played.folder / "study.db")) == played.endings
    epochs = curves_in(played.folder)
    assert sum(epochs.values()) == played.epochs == sum(mark.num_reports for mark in played.marks)
    assert played.num_unsent == 0
    client = MlflowClient(played.uri)
    (experiment,) = client.search_experiments(filter_string="name = 'slowfast_ray'")
    runs = client.search_runs([experiment.experiment_id])
    children = [run for run in runs if MLFLOW_PARENT_RUN_ID in run.data.tags]
    assert len(children) == 7
    assert Counter(run.data.tags[tracking.STATE] for run in children) == played.endings
    sent = {
        int(run.data.tags[tracking.STORAGE][-3:]): len(client.get_metric_history(run.info.run_id, "val/top1"))
        for run in children
    }
    assert sent == epochs
    assert all(client.list_artifacts(run.info.run_id, "report") for run in children)


def test_where_no_store_answers_all_waits_in_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    marks: list[Any] = []
    played = driver_scale.play(driver_scale.Flags(**SMALL, tracking=False), tmp_path, marks.append)
    assert marks == played.marks
    assert [mark.num_ended for mark in marks] == [0, 7]
    assert len(curves_in(played.folder)) == 7
    (journal,) = played.folder.glob("tracking-*.jsonl")
    lines = journal.read_text().splitlines()
    assert len(lines) == 1 + played.num_unsent
    assert sum('"kind":"Measured"' in line for line in lines) > played.epochs, "epochs, and what trials came to"


def test_the_script_says_where_a_report_costs_twice_as_much() -> None:
    start = driver_playing.Mark(
        num_ended=0, num_reports=10, report_ms=4.0, report_p95_ms=5.0, report_cpu_ms=3.0, suggestion_ms=9.0,
        end_ms=9.0, seconds_a_report=0.1, cpu_seconds_a_report=0.05, process_seconds_a_report=0.2, view_ms=1.0,
        memory_mb=1.0, study_mb=1.0, journal_mb=1.0, num_waiting=0,
    )  # fmt: skip
    marks = [
        dataclasses.replace(start, num_ended=num, report_cpu_ms=ms) for num, ms in ((0, 3.0), (100, 5.9), (200, 6))
    ]
    played = driver_scale.Played(
        marks=marks, folder=Path(), uri="", endings=Counter(finished=2, pruned=1), epochs=9, simulated_seconds=3600.0,
        slot_seconds=1800.0, num_unsent=0, sent_per_second=7.0,
    )  # fmt: skip
    said = list(driver_scale.said_of(driver_scale.Flags(slots=1), played))
    assert "takes, until 200 trials have ended, twice" in said[0]
    assert "2.0 times as much" in said[0]
    assert "10 reports a second as measured" in said[1]
    assert "20 if it waited" in said[1]
    assert "5 on one core" in said[1]
    assert "50 of 5 s" in said[2]
    assert "50% of the slots' time" in said[-1]
    never = dataclasses.replace(played, marks=marks[:2])
    assert "never takes twice" in next(driver_scale.said_of(driver_scale.Flags(slots=1), never))


def test_one_worker_is_measured_with_the_threads_of_those_it_is_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(scaling.torch.cuda, "is_available", lambda: False)
    cases = scaling.cases_of(scaling.Flags(workers=(1, 2, 4), batch=16, share=8))
    for case in cases:
        assert case.threads in (8 // case.num_workers, 2) or case.num_workers == 1
        assert scaling.Case(1, case.batch if case.batch == 16 else 8, case.threads) in cases
    assert {case.threads for case in cases if case.num_workers == 1} == {2, 4, 8}
    monkeypatch.setattr(scaling.torch.cuda, "is_available", lambda: True)
    assert {case.threads for case in scaling.cases_of(scaling.Flags())} == {None}
    with pytest.raises(ValueError, match="must hold 1"):
        scaling.cases_of(scaling.Flags(workers=(2,)))


def test_efficiency_is_what_workers_do_together_over_what_they_would_do_alone() -> None:
    alone, pair = scaling.Case(1, 8, 1), scaling.Case(2, 16, 1)
    found = {
        alone: [scaling.Measured(10.0, 0.1), scaling.Measured(20.0, 0.1)],
        pair: [scaling.Measured(18.0, 9.0), scaling.Measured(40.0, 9.0)],
    }
    assert scaling.efficiency(found, pair, alone) == [0.9, 1.0]


@pytest.mark.slow
def test_one_worker_alone_is_measured_by_the_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    smallest = scaling.LAPTOP.override({"model.width": 0.125, "data.clip_len": 8, "data.height": 20, "data.width": 30})
    monkeypatch.setattr(scaling, "PRESETS", {"laptop": smallest})
    num_threads = scaling.torch.get_num_threads()
    flags = ["--workers", "1", "--num-epochs", "2", "--repeats", "1", "--data-frames", "260", "--batch", "8"]
    monkeypatch.setattr(sys, "argv", ["scaling.py", *flags])
    scaling.main()
    scaling.torch.set_num_threads(num_threads)
    printed = capsys.readouterr().out
    assert "strong" in printed
    assert "weak" in printed
    assert "Medians of 1 training(s) of 2 epochs each" in printed


def test_trials_that_all_start_at_once_are_drawn_blindly() -> None:
    curves = in_flight.Curves.read(in_flight.Flags().table, "val/mean_class", 0.0)
    at_once = [in_flight.replay(curves, sampler, 30, 30, seed=1) for sampler in ("random", "tpe")]
    assert at_once[0] == at_once[1]
    one_by_one = [in_flight.replay(curves, sampler, 1, 30, seed=1) for sampler in ("random", "tpe")]
    assert one_by_one[0] != one_by_one[1]
    assert [each.wall for each in one_by_one] == pytest.approx([each.cost for each in one_by_one])
    assert at_once[0].wall < 3 < one_by_one[0].wall
