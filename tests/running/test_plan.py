"""What a run would cost: computed from its shapes, measured by a few steps, and nothing is left behind."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from slowfast_ray.experiment import EARLIER, Experiment
from slowfast_ray.model import cost
from slowfast_ray.running import preflight
from slowfast_ray.running.training import measuring, plan, wiring
from slowfast_ray.running.training.wiring import Place
from tests.running.conftest import flags_of

CPU = torch.device("cpu")


def planned(experiment: Experiment, num_bytes: int = 2**40) -> dict[str, str]:
    ready = preflight.check(experiment, name="one", objective="val/top1")
    return dict(plan.rows(ready, CPU, num_bytes))


def test_a_dry_run_shows_the_plan_within_80_columns_and_leaves_nothing(
    tiny: Experiment,
    tmp_path: Path,
    call_script: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = tmp_path / "mlflow.db"
    before = store.read_bytes()
    experiment = tiny.override(
        {"learning.num_epochs": 3, "learning.early_stop": 2, "learning.micro_batch": 4, "learning.lr": 0.05}
    )
    call_script("train_thermal", *flags_of(experiment), "--dry-run")
    shown = capsys.readouterr().out
    table = shown[shown.index(" data ") :].splitlines()
    assert max(map(len, table)) <= 80
    found = {line[:16].strip(): line[16:].strip() for line in table if line[:16].strip()}
    # 34 samples in batches of 8; a tenth of 12 steps warms up.
    assert found["steps"].startswith("4 an epoch, 3 epochs, fewer after 2 without a better value")
    assert found["learning rate"].startswith("0.05 for all; rises for 1 steps")
    assert found["batch"] == "8 clips a step, in 2 parts of 4"
    assert found["measured"] == "3 step(s) on 1 CPU thread(s)"
    assert found["in all"].startswith("at most 0:0")
    assert store.read_bytes() == before, "no MLflow run"
    assert {path.name for path in tmp_path.iterdir()} == {"work", "mlflow.db"}, "no run's folder"
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.slow
def test_what_does_not_fit_is_not_measured_and_what_would_is_named(tiny: Experiment) -> None:
    experiment = tiny.override(
        {"data.clip_len": 32, "data.height": 64, "data.width": 64, "model.num_classes": 6, "learning.ema_decay": 0.0}
    )
    estimated = cost.estimate(experiment.model, clip_len=32, height=64, width=64)

    def memory(num_clips: int) -> int:
        return cost.memory_bytes(estimated, micro_batch=num_clips, optimizer="sgd", has_average=False)

    found = planned(experiment, memory(1) - 1)
    assert "measured" not in found
    assert found["does not fit"].startswith("not even one clip at a time; try `data.clip_len` 24 (")
    found = planned(experiment, memory(3))
    assert found["does not fit"] == f"try `learning.micro_batch` 2 ({cost.gibibytes(memory(2))})"
    # What would fill the machine is measured by single clips, and the plan says so.
    assert found["measured"].endswith(", with 1 clip each and scaled to 8")


def test_frozen_stages_and_rates_of_the_parts_are_in_the_plan(tiny: Experiment) -> None:
    found = planned(tiny.override({"model.freeze_stages": 2, "learning.backbone_lr": 0.1, "learning.lr": 0.01}))
    assert found["learning rate"].startswith("classifier 0.01, all before it 0.001;")
    assert found["parameters"].endswith("of them frozen")
    found = planned(tiny.override({"learning.layer_decay": 0.5, "learning.lr": 0.08}))
    rates = "classifier 0.08, res5 0.04, res4 0.02, res3 0.01, res2 0.005, stem 0.0025;"
    assert found["learning rate"].startswith(rates)


def test_time_is_that_of_all_clips_also_where_few_are_measured(tiny: Experiment) -> None:
    experiment = tiny.override({"data.clip_len": 32, "data.height": 64, "data.width": 64})
    whole, single = (measuring.measure(wiring.prepare(experiment, Place()), num_clips) for num_clips in (8, 1))
    assert (whole.num_steps, whole.num_clips, single.num_clips) == (3, 8, 1)
    # A rough law, since other processes share the cores: eight times one clip is about as long as eight clips.
    assert 0.2 < single.step_seconds / whole.step_seconds < 5
    assert 0.2 < single.evaluation_seconds / whole.evaluation_seconds < 5
    assert whole.epoch_seconds(10) == 10 * whole.step_seconds + whole.evaluation_seconds


def test_statistics_taken_anew_are_in_the_time_of_an_epoch(tiny: Experiment) -> None:
    plain, anew = (
        measuring.measure(wiring.prepare(tiny.override({"learning.precise_batch_norm": count}), Place()), 8)
        for count in (0, 3)
    )
    assert plain.statistics_seconds == 0
    assert anew.statistics_seconds > 0
    assert anew.epoch_seconds(0) == anew.statistics_seconds + anew.evaluation_seconds


def test_the_earlier_systems_memory_is_the_one_that_was_noted() -> None:
    # The dataset's notes say 11.6 GB, in colour; 4 clips at once in fp32 come closest, or 8 in 16 bits.
    model = EARLIER.override({"model.num_classes": 14}).model
    for num_clips, precision_bytes in ((4, 4), (8, 2)):
        found = cost.estimate(model, clip_len=64, height=256, width=384, precision_bytes=precision_bytes)
        needed = cost.memory_bytes(found, micro_batch=num_clips, optimizer="sgd", has_average=False)
        assert needed / 1e9 == pytest.approx(11.6, rel=0.07)
