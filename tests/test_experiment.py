"""The one value: its names, its JSON, its overrides, and the laws that it and its sections refuse to break."""

import dataclasses
import json
import logging
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slowfast_ray.data.config import DataConfig
from slowfast_ray.experiment import EARLIER, GPU, LAPTOP, Experiment, field_types
from slowfast_ray.learning.config import LearningConfig
from slowfast_ray.model.config import ModelConfig
from slowfast_ray.run_config import RunConfig

NAN, INF = float("nan"), float("inf")

# Floats that a careless text form loses: no short decimal, subnormal, next to a power of two, far too small or large.
AWKWARD = [0.1 + 0.2, 5e-324, 1e-5, 1 / 3, float(np.nextafter(1, 2)), 1.7976931348623157e308, 2.0**53 + 2]


def test_an_experiment_cannot_be_changed() -> None:
    experiment = Experiment()
    for owner, name in ((experiment, "data"), (experiment.learning, "lr"), (experiment.run, "seed")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(owner, name, None)
    # What cannot change can be a key: equal experiments are one key.
    assert {Experiment(): 1}[Experiment()] == 1


def test_flatten_names_every_field_in_the_order_of_the_classes() -> None:
    sections = {"data": DataConfig, "model": ModelConfig, "learning": LearningConfig, "run": RunConfig}
    expected = [f"{section}.{field.name}" for section, kind in sections.items() for field in dataclasses.fields(kind)]
    flat = Experiment().flatten()
    assert list(flat) == expected == list(field_types())
    assert flat["learning.lr"] == LearningConfig().lr
    assert flat["data.root"] is None
    assert flat["model.depth"] == 50


positive = st.one_of(st.sampled_from(AWKWARD), st.floats(min_value=0, exclude_min=True, allow_infinity=False))


@settings(max_examples=30, deadline=None)
@given(
    lr=positive,
    weight_decay=positive | st.just(0.0),
    max_grad_norm=positive | st.just(INF),
    momentum=st.floats(0, 1, exclude_max=True),
    min_celsius=st.floats(-273.15, 10),
    slow_frames=st.integers(1, 50),
    eighths=st.integers(1, 64),
    seed=st.integers(0, 2**32 - 1),
    root=st.none() | st.text(),
    num_classes=st.none() | st.integers(2, 10**6),
)
def test_json_gives_back_the_very_same_experiment(
    lr: float,
    weight_decay: float,
    max_grad_norm: float,
    momentum: float,
    min_celsius: float,
    slow_frames: int,
    eighths: int,
    seed: int,
    root: str | None,
    num_classes: int | None,
) -> None:
    experiment = Experiment(
        data=DataConfig(root=root, clip_len=slow_frames * 4, min_celsius=min_celsius),
        model=ModelConfig(alpha=4, width=eighths / 8, num_classes=num_classes, depth=101),
        learning=LearningConfig(
            lr=lr, weight_decay=weight_decay, max_grad_norm=max_grad_norm, momentum=momentum, optimizer="adamw"
        ),
        run=RunConfig(seed=seed),
    )
    again = Experiment.from_json(experiment.to_json())
    assert again == experiment
    # 1.0 == 1: the types come back as well, so that a second trip writes the same text.
    assert again.to_json() == experiment.to_json()
    assert [type(value) for value in again.flatten().values()] == [type(v) for v in experiment.flatten().values()]


def test_json_is_the_flattened_form() -> None:
    assert json.loads(GPU.to_json()) == GPU.flatten()


def test_a_field_that_the_json_lacks_takes_its_default_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    values = Experiment().override({"learning.lr": 0.3, "run.seed": 7, "data.height": 99}).flatten()
    del values["run.seed"], values["data.height"]
    with caplog.at_level(logging.WARNING):
        experiment = Experiment.from_json(json.dumps(values))
    assert experiment == Experiment().override({"learning.lr": 0.3})
    (record,) = caplog.records
    assert "run.seed" in record.getMessage()
    assert "data.height" in record.getMessage()
    assert "learning.lr" not in record.getMessage()


def test_a_whole_json_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    Experiment.from_json(Experiment().to_json())
    assert caplog.records == []


@pytest.mark.parametrize("text", ["[]", "null", "3", '"text"', "{", ""])
def test_json_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"JSON object|Expecting"):
        Experiment.from_json(text)


def test_json_with_a_field_of_another_version_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"`learning\.nesterov`"):
        Experiment.from_json(json.dumps({**Experiment().flatten(), "learning.nesterov": True}))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lr", "learning.lr"),
        ("seed", "run.seed"),
        ("data.cliplen", "data.clip_len"),
        ("clip_len", "data.clip_len"),
        ("learning.learning.lr", "learning.lr"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"`{re.escape(typed)}` is no field .* did you mean .*{re.escape(meant)}"):
        Experiment().override({typed: 1})


def test_a_name_near_to_none_is_answered_with_all() -> None:
    with pytest.raises(ValueError, match="valid names") as raised:
        Experiment().override({"qqqqqqqq": 1})
    assert all(name in str(raised.value) for name in field_types())


@pytest.mark.parametrize(
    ("name", "value", "plain"),
    [
        ("learning.lr", np.float64(0.02), 0.02),
        ("learning.lr", np.float32(0.5), 0.5),
        ("learning.lr", 1, 1.0),
        ("learning.batch_size", np.int64(16), 16),
        ("learning.batch_size", 16.0, 16),
        ("learning.optimizer", np.str_("adamw"), "adamw"),
        ("model.depth", np.int64(101), 101),
        ("model.depth", 101.0, 101),
        ("model.num_classes", None, None),
        ("model.num_classes", np.int32(3), 3),
        ("data.root", "folder", "folder"),
    ],
)
def test_values_become_plain_python(name: str, value: object, plain: Any) -> None:
    # Samplers return numpy scalars, and a search space of floats gives 16.0 for 16; JSON and MLflow want neither.
    found = Experiment().override({name: value}).flatten()[name]
    assert found == plain
    assert type(found) is type(plain)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("learning.batch_size", True, "int"),
        ("learning.batch_size", np.True_, "int"),
        ("learning.batch_size", "8", "int"),
        ("learning.batch_size", 2.5, "int"),
        ("learning.batch_size", None, "int"),
        ("learning.batch_size", [8], "int"),
        ("learning.batch_size", NAN, ""),
        ("learning.batch_size", INF, ""),
        ("learning.lr", "0.1", "float"),
        ("learning.lr", False, "float"),
        ("learning.lr", None, "float"),
        ("data.root", 3, "str or None"),
        ("run.storage", None, "str"),
        ("model.num_classes", "14", "int or None"),
        ("learning.optimizer", "SGD", "'sgd', 'adamw'"),
        ("learning.precision", None, "'fp32', 'bf16'"),
        ("model.depth", 18, "50, 101"),
        ("model.depth", "50", "50, 101"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_by_name(name: str, value: object, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"`{name}`")) as raised:
        Experiment().override({name: value})
    assert expected in str(raised.value)


def test_override_changes_what_it_names_and_nothing_else() -> None:
    before = GPU  # whose sections differ from the defaults: a section that is built anew would show
    after = before.override({"learning.lr": 0.2, "run.seed": 5})
    assert {name for name, value in after.flatten().items() if value != before.flatten()[name]} == {
        "learning.lr",
        "run.seed",
    }
    assert before.learning.lr != 0.2
    assert before.override({}) == before


def test_fields_that_are_valid_only_together_can_be_set_together() -> None:
    # Neither order of setting them one by one would pass: the experiment is checked once all are in place.
    assert Experiment().override({"data.clip_len": 12, "model.alpha": 4}).data.clip_len == 12
    with pytest.raises(ValueError, match="clip_len"):
        Experiment().override({"data.clip_len": 12})
    # Within a section likewise: 50..60 shares no value with the default 10..35.
    warm = Experiment().override({"data.min_celsius": 50, "data.max_celsius": 60.0}).data
    assert (warm.min_celsius, warm.max_celsius) == (50.0, 60.0)
    four = Experiment().override({"learning.batch_size": 3, "run.num_workers": 3})
    assert (four.learning.batch_size, four.run.num_workers) == (3, 3)


@pytest.mark.parametrize(("clip_len", "alpha", "remedies"), [(30, 8, [24, 32]), (5, 8, [8]), (9, 4, [8, 12])])
def test_clip_len_is_divisible_by_alpha_and_the_remedy_is_valid(clip_len: int, alpha: int, remedies: list[int]) -> None:
    with pytest.raises(ValueError, match=rf"clip_len` \(={clip_len}\).*alpha` \(={alpha}\)") as raised:
        Experiment(data=DataConfig(clip_len=clip_len), model=ModelConfig(alpha=alpha))
    proposed = [int(number) for number in re.findall(r"\d+", str(raised.value).split("try")[1])]
    assert proposed == remedies
    for each in proposed:
        Experiment(data=DataConfig(clip_len=each), model=ModelConfig(alpha=alpha))


@pytest.mark.parametrize(("batch_size", "num_workers", "remedy"), [(8, 3, 9), (1, 4, 4), (10, 4, 12)])
def test_workers_share_a_batch_equally_and_the_remedy_is_valid(batch_size: int, num_workers: int, remedy: int) -> None:
    with pytest.raises(ValueError, match=rf"batch_size` \(={batch_size}\).*num_workers` \(={num_workers}\)") as raised:
        Experiment(learning=LearningConfig(batch_size=batch_size), run=RunConfig(num_workers=num_workers))
    assert f"try {remedy}." in str(raised.value)
    Experiment(learning=LearningConfig(batch_size=remedy), run=RunConfig(num_workers=num_workers))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("data.clip_len", v) for v in (0, -8)),
        *(("data.frame_interval", v) for v in (0, -1)),
        *((f"data.{side}", v) for side in ("height", "width") for v in (0, -1)),
        *((f"data.{chance}", v) for chance in ("flip_prob", "erase_prob") for v in (-0.1, 1.1, NAN)),
        *(("data.max_shift", v) for v in (-0.1, 1.0, NAN)),
        *(("data.min_crop", v) for v in (0.0, -0.5, 1.1, NAN)),
        *(("data.gain_jitter", v) for v in (-0.1, 1.0, NAN)),
        *(("data.offset_jitter_celsius", v) for v in (-1.0, INF, NAN)),
        *(("data.min_celsius", v) for v in (35.0, 36.0, -300.0, NAN, -INF)),
        *(("data.max_celsius", v) for v in (10.0, 9.0, NAN, INF)),
        *(("model.width", v) for v in (0.0, -0.25, 0.3, 1 / 16, NAN, INF)),
        *(("model.alpha", v) for v in (0, -4)),
        *(("model.lateral_kernel", v) for v in (0, -5, 4)),
        *(("model.dropout", v) for v in (-0.1, 1.0, NAN)),
        *(("model.num_classes", v) for v in (1, 0, -1)),
        *(("model.freeze_stages", v) for v in (-1, 6)),
        *(("model.unfreeze_every", v) for v in (0, -1)),
        *((f"learning.{count}", v) for count in ("lr_batch", "micro_batch", "early_stop") for v in (0, -1)),
        *((f"learning.{factor}", v) for factor in ("backbone_lr", "layer_decay") for v in (0.0, 1.1, NAN)),
        *((f"learning.{alpha}", v) for alpha in ("mixup", "cutmix") for v in (-0.1, 101.0, NAN)),
        *(("learning.ema_decay", v) for v in (-0.1, 1.0, NAN)),
        ("learning.precise_batch_norm", -1),
        *(("learning.lr", v) for v in (0.0, -0.1, NAN, INF)),
        *((f"learning.{count}", v) for count in ("batch_size", "num_epochs") for v in (0, -1)),
        *(
            (f"learning.{share}", v)
            for share in ("momentum", "warmup_fraction", "label_smoothing")
            for v in (-0.1, 1.0, NAN)
        ),
        *(("learning.weight_decay", v) for v in (-1e-9, INF, NAN)),
        *(("learning.max_grad_norm", v) for v in (0.0, -1.0, NAN)),
        ("run.seed", -1),
        *(("run.num_workers", v) for v in (0, -2)),
        ("run.storage", ""),
    ],
)
def test_each_law_names_its_field(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"`{name}`")):
        Experiment().override({name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("data.flip_prob", v) for v in (0.0, 1.0)),
        *(("data.max_shift", v) for v in (0.0, 0.99)),
        ("data.min_crop", 1.0),
        ("data.gain_jitter", 0.0),
        ("data.offset_jitter_celsius", 0.0),
        ("data.min_celsius", -273.15),
        ("model.width", 0.125),
        ("model.alpha", 1),
        ("model.lateral_kernel", 1),
        ("model.dropout", 0.0),
        ("model.num_classes", 2),
        ("learning.weight_decay", 0.0),
        ("learning.warmup_fraction", 0.0),
        ("learning.label_smoothing", 0.0),
        ("learning.max_grad_norm", INF),
        ("learning.num_epochs", 1),
        ("run.seed", 0),
    ],
)
def test_each_law_allows_its_border(name: str, value: Any) -> None:
    assert Experiment().override({name: value}).flatten()[name] == value


@pytest.mark.parametrize(
    ("micro_batch", "num_workers", "remedies"), [(3, 1, [2, 4, 8]), (8, 2, [1, 2, 4]), (5, 1, [8])]
)
def test_micro_batches_divide_a_workers_share_and_the_remedies_are_valid(
    micro_batch: int, num_workers: int, remedies: list[int]
) -> None:
    run = RunConfig(num_workers=num_workers)
    expected = rf"micro_batch` \(={micro_batch}\) must divide each worker's share of a batch \(={8 // num_workers}\)"
    with pytest.raises(ValueError, match=expected) as raised:
        Experiment(learning=LearningConfig(batch_size=8, micro_batch=micro_batch), run=run)
    for remedy in remedies:
        assert re.search(rf"\b{remedy}\b", str(raised.value).split("try")[1])
        Experiment(learning=LearningConfig(batch_size=8, micro_batch=remedy), run=run)


@pytest.mark.parametrize("changes", [{"learning.micro_batch": 1}, {"learning.batch_size": 1}, {"run.num_workers": 8}])
def test_batch_norm_needs_more_than_one_value(changes: dict[str, object]) -> None:
    small = LAPTOP.override({"data.clip_len": 8, "data.height": 32, "data.width": 32})
    with pytest.raises(ValueError, match=r"BatchNorm needs more than one value.*`data.clip_len` \(=8\) and 32 x 32"):
        small.override(changes)
    for more in ({"data.clip_len": 16}, {"data.width": 33}, {"model.batch_norm": "frozen"}):
        small.override({**changes, **more})


def test_a_network_for_colours_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`model.channels` \(=3\) must be 1"):
        Experiment(model=ModelConfig(channels=3))


@pytest.mark.parametrize("preset", [LAPTOP, GPU, EARLIER], ids=["laptop", "gpu", "earlier"])
def test_presets_are_valid_and_come_back_from_json(preset: Experiment) -> None:
    assert Experiment.from_json(preset.to_json()) == preset
    # A search over a preset starts from it: overriding it by itself changes nothing.
    assert preset.override(preset.flatten()) == preset
    # The dataset decides the classes, and the machine the folder: a preset must not.
    assert preset.model.num_classes is None
    assert preset.data.root is None
