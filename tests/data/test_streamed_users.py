"""Whatever looks at all frames of a dataset does so as well where they stay on disk, and comes to the same."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slowfast_ray.data import audit, baselines, dataset, frames, source, views
from slowfast_ray.data.frames import MemoryFrames
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint
from slowfast_ray.running import data_facts
from slowfast_ray.running.audits import audit_page, auditing
from slowfast_ray.running.evaluations import evaluating
from slowfast_ray.running.predicting import Predictor
from slowfast_ray.running.publishing import evidence_check, exported_clips, model_folder
from slowfast_ray.running.training import worker


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Nothing is left in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def pair(tiny_in: Callable[[Path], Experiment], tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, ...]:
    """In memory, and streamed."""
    tiny = tiny_in(tmp_path_factory.mktemp("runs"))
    return tiny.override({"data.memory_budget": 1.0}), tiny.override({"data.memory_budget": 0.0})


@pytest.mark.slow
def test_a_training_and_its_evaluation_are_the_same(pair: tuple[Experiment, ...], tmp_path: Path) -> None:
    rows: list[list[dict[str, Any]]] = []
    said = []
    for name, experiment in zip(("memory", "disk"), pair, strict=True):
        rows.append([])
        worker.train(experiment, tmp_path / name, "val/loss", rows[-1].append)
        newest = checkpoint.newest(tmp_path / name)
        assert newest is not None
        data = dataset.load(experiment.data)
        assert data.is_streamed == (name == "disk")
        predictions = checkpoint.read_predictions(newest)
        evidence_check.check(newest, experiment, data, predictions)
        of_views = evaluating.predict(newest, experiment, data, views.views(2, 3))
        model_folder.write(tmp_path / name / "model", newest, data)
        predictor = Predictor.load(tmp_path / name / "model")
        clips = exported_clips.of_dataset(predictor, experiment.data.root)
        chosen = torch.arange(len(clips))
        said.append([predictions.logits_SK, of_views.logits_SK, clips.prepared(chosen), clips.frames(chosen)])
        assert data_facts.dataset_input(data)["profile"]["frames"] == 1040
    for mine, theirs in zip(*said, strict=True):
        assert torch.equal(mine, theirs)
    timed = {"train/clips_per_second", "epoch_seconds", "checkpoint"}
    assert len(rows[0]) == len(rows[1]) == 1
    same = [key for key in rows[0][0] if key.startswith(("train/loss", "train/top1", "val/")) and key not in timed]
    assert len(same) > 4
    assert all(rows[0][0][key] == rows[1][0][key] for key in same)


@pytest.mark.slow
def test_audits_and_their_pages_are_the_same(pair: tuple[Experiment, ...]) -> None:
    in_memory, streamed = (auditing.report(experiment.data) for experiment in pair)
    assert in_memory.audit.findings == streamed.audit.findings
    assert in_memory.audit.findings
    assert in_memory.to_json() == streamed.to_json()
    assert audit_page.render(in_memory) == audit_page.render(streamed)


def test_an_audit_of_what_is_refused_is_the_same(pair: tuple[Experiment, ...], made_up_root: Path) -> None:
    found = [
        audit.of_folder(made_up_root, replace(experiment.data, split="leave-one-session-out", fold=99))
        for experiment in pair
    ]
    assert found[0].facts.refusal is not None
    assert found[0].findings == found[1].findings
    np.testing.assert_equal(asdict(found[0].facts), asdict(found[1].facts))


def test_of_many_samples_a_part_is_fitted(pair: tuple[Experiment, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset.load(pair[0].data)
    every_third = data.train.rows(torch.arange(0, len(data.train), 3))
    assert len(every_third) == len(every_third.ids) == -(-len(data.train) // 3)
    expected = baselines.mean_frame_regression(replace(data, train=every_third))
    assert (expected != baselines.mean_frame_regression(data)).any()
    monkeypatch.setattr(baselines, "MAX_FITTED", -(-len(data.train) // 3))
    np.testing.assert_array_equal(baselines.mean_frame_regression(data), expected)


def test_frames_that_are_many_for_a_gpu_stay_with_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    # No GPU is asked for its memory here, nor for anything else.
    class Gpu:
        total_memory = 4_000

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Gpu)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda index: 1.0)
    many = MemoryFrames(torch.arange(300.0).view(3, 10, 10))
    assert many.num_bytes > frames.MAX_GPU_SHARE * Gpu.total_memory
    on_gpu = many.on(torch.device("cuda"))
    assert (on_gpu.frames_NHW.device.type, on_gpu.device) == ("cpu", torch.device("cuda"))
    elsewhere = MemoryFrames(many.frames_NHW, torch.device("meta"))
    clip_B1THW = elsewhere.gather(torch.tensor([[0, 2]]))
    assert (clip_B1THW.device.type, clip_B1THW.shape) == ("meta", (1, 1, 2, 10, 10))


def test_a_budget_decides_at_the_byte(pair: tuple[Experiment, ...]) -> None:
    num_bytes = dataset.load(pair[0].data).frames.num_bytes
    root = dataset.load(pair[0].data).root
    assert isinstance(source.read(root, num_bytes / 1e9).frames, MemoryFrames)
    assert not isinstance(source.read(root, (num_bytes - 1) / 1e9).frames, MemoryFrames)
    source.read.cache_clear()
