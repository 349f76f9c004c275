"""Can the network learn a few batches by heart? It can where all fits, and it is said where not, and why."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from slowfast_ray.data import augment
from slowfast_ray.data.batches import Batch
from slowfast_ray.experiment import Experiment
from slowfast_ray.running import preflight
from slowfast_ray.running.training import sanity
from slowfast_ray.running.training.sanity import Outcome, Pass
from tests.running.conftest import flags_of

CPU = torch.device("cpu")


def run(experiment: Experiment, num_batches: int) -> tuple[Outcome, list[Pass]]:
    passes: list[Pass] = []
    ready = preflight.check(experiment, name="one", objective="val/loss")
    return sanity.run(ready, num_batches, CPU, passes.append), passes


def test_a_batch_is_learnt_by_heart_and_nothing_is_left(
    tiny: Experiment, tmp_path: Path, call_script: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "mlflow.db"
    before = store.read_bytes()
    # All that stands against learning by heart is set aside for the check.
    hindered = tiny.override({"model.dropout": 0.9, "learning.mixup": 1.0, "learning.label_smoothing": 0.5})
    with pytest.raises(SystemExit) as ended:
        call_script("train_thermal", *flags_of(hindered), "--overfit-batches", "1")
    shown = capsys.readouterr().out
    assert ended.value.code == 0, shown
    assert "Learnt by heart: 8 clips of 1 batch(es) in " in shown
    assert "\npass 1/200  train/loss " in shown
    assert store.read_bytes() == before, "no MLflow run"
    assert {path.name for path in tmp_path.iterdir()} == {"work", "mlflow.db"}, "no run's folder"


def test_under_several_labels_every_class_of_every_clip_must_be_right(tiny: Experiment) -> None:
    found, passes = run(tiny.override({"data.labels": "multi", "learning.lr": 0.1}), 1)
    assert found.fits
    assert [each.number for each in passes] == list(range(1, len(passes) + 1))
    assert passes[-1].loss < sanity.MAX_LOSS


def test_a_low_loss_of_no_to_everything_is_not_learnt(tiny: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    # Focal loss of several labels falls below the bound by the classes' frequencies alone: here all clips are blank.
    draw = sanity.wiring.Batches.train

    def blank(batches: Any, epoch: int) -> Iterator[Any]:
        for batch in draw(batches, epoch):
            batch.clip_B1THW.zero_()
            yield batch

    monkeypatch.setattr(sanity.wiring.Batches, "train", blank)
    monkeypatch.setattr(sanity, "MAX_PASSES", 40)
    found, passes = run(
        tiny.override({"data.labels": "multi", "learning.loss": "focal", "learning.focal_gamma": 4.0}), 1
    )
    assert passes[-1].loss < sanity.MAX_LOSS, "or nothing was shown"
    assert not found.fits


def test_what_explodes_is_not_learnt_and_ends_with_code_1(
    tiny: Experiment, call_script: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    wild = tiny.override({"learning.lr": 1e30, "learning.max_grad_norm": 1e30})
    with pytest.raises(SystemExit) as ended:
        call_script("train_thermal", *flags_of(wild), "--overfit-batches", "2")
    assert ended.value.code == 1
    shown = capsys.readouterr().out
    assert "Not learnt: 16 clips of 2 batch(es) in " in shown
    assert "try a tenth of `learning.lr` (=1e+30)" in shown


def test_advice_names_what_holds_the_network_back(tiny: Experiment) -> None:
    first, last = Pass(1, 2.0, 0.2), Pass(200, 1.0, 0.5)
    slow = Outcome(fits=False, first=first, last=last, num_clips=8, num_contradictions=2)
    frozen = tiny.override({"model.freeze_stages": 5, "learning.backbone_lr": 0.1, "learning.logit_adjustment": 1.0})
    advice = slow.advice(frozen)
    for named in ("2 of 8 clips", "ten times `learning.lr`", "freeze_stages", "backbone_lr", "logit_adjustment"):
        assert any(named in line for line in advice), named
    assert len(slow.advice(tiny)) == 2, "no advice on what is as it should be"


def test_equal_clips_with_other_labels_contradict_each_other() -> None:
    clip_B1THW = torch.tensor([1.0, 2.0, 1.0, 2.0]).view(4, 1, 1, 1, 1).expand(4, 1, 2, 3, 3)
    label_B = torch.tensor([0, 1, 5, 1])
    batches = [Batch(clip_B1THW[part], label_B[part], torch.arange(2)) for part in (slice(0, 2), slice(2, 4))]
    assert sanity.count_contradictions(batches) == 2, "the first and the third; the others agree"


def test_nothing_is_varied(tiny: Experiment) -> None:
    data = sanity.plain(tiny, 4).data
    variation = augment.draw(data, 3, torch.Generator().manual_seed(1))
    clip_B1THW = torch.rand(3, 1, 8, 20, 30) * 20 + 12
    varied, unvaried = (augment.prepare(clip_B1THW, data, each) for each in (variation, None))
    torch.testing.assert_close(varied, unvaried, rtol=0, atol=1e-4)
    other = augment.prepare(clip_B1THW, tiny.data, augment.draw(tiny.data, 3, torch.Generator().manual_seed(1)))
    assert (other - unvaried).abs().max() > 0.1, "the experiment itself varies"


@pytest.mark.parametrize("num_batches", [0, 5])
def test_too_few_or_too_many_batches_are_refused(tiny: Experiment, num_batches: int) -> None:
    with pytest.raises(ValueError, match=rf"`overfit_batches` \(={num_batches}\) must be within 1\.\.4"):
        run(tiny, num_batches)
