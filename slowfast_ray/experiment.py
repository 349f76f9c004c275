"""The one value that everything else is a function of.

An `Experiment` is frozen. Its flattened dotted form (`"learning.lr": 0.01`) is at once the command-line flag, the key
of a search space and the MLflow parameter; its JSON form, saved beside each checkpoint, rebuilds the run. This module
knows neither torch nor Ray.
"""

import difflib
import functools
import json
import logging
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from slowfast_ray.data.config import DataConfig
from slowfast_ray.learning.config import LearningConfig
from slowfast_ray.model.config import ModelConfig
from slowfast_ray.run_config import RunConfig

log = logging.getLogger(__name__)

Value = str | int | float | bool | None

OF_THE_PLACE = (
    "data.memory_budget", "run.num_workers", "run.address", "run.gpus_per_worker", "run.cpus_per_worker",
    "run.hang_timeout_min", "run.storage", "run.tracking_uri",
)  # fmt: skip
"""Fields that say where and by how many processes something is trained; what is learnt is the same."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is trained, on what, how and where."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    learning: LearningConfig = field(default_factory=LearningConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        clip_len, alpha = self.data.clip_len, self.model.alpha
        if clip_len % alpha:
            below, above = clip_len // alpha * alpha, (clip_len // alpha + 1) * alpha
            remedy = f"try {below} or {above}" if below else f"try {above}"
            raise ValueError(
                f"`data.clip_len` (={clip_len}) must be divisible by `model.alpha` (={alpha}), "
                f"since the slow pathway takes every {alpha}th frame; {remedy}."
            )
        batch_size, num_workers = self.learning.batch_size, self.run.num_workers
        if batch_size % num_workers:
            above = (batch_size // num_workers + 1) * num_workers
            raise ValueError(
                f"`learning.batch_size` (={batch_size}) must be divisible by `run.num_workers` (={num_workers}), "
                f"since the workers share each batch equally; try {above}."
            )
        share, micro_batch = batch_size // num_workers, self.learning.micro_batch
        if micro_batch is not None and share % micro_batch:
            divisors = [str(each) for each in range(1, share + 1) if share % each == 0]
            raise ValueError(
                f"`learning.micro_batch` (={micro_batch}) must divide each worker's share of a batch (={share}), which "
                f"is learning.batch_size / run.num_workers; try {' or '.join(divisors[-3:])}."
            )
        # What the last stage of the slow pathway sees of a clip: the stem and three stages halve each side five times.
        seen = clip_len // alpha * math.ceil(self.data.height / 32) * math.ceil(self.data.width / 32)
        if self.model.batch_norm == "train" and (micro_batch or share) * seen < 2:
            raise ValueError(
                f"BatchNorm needs more than one value, but of {micro_batch or share} clip at once of `data.clip_len` "
                f"(={clip_len}) and {self.data.height} x {self.data.width} pixels one is left in the last stage; take "
                f"2 clips at once, by `learning.batch_size` (={batch_size}) or `learning.micro_batch` (={micro_batch})."
            )
        if self.model.channels != 1:
            raise ValueError(
                f"`model.channels` (={self.model.channels}) must be 1, as recordings have one; weights of three are "
                "folded into one when they are loaded."
            )

    def warnings(self) -> list[str]:
        """Settings that were changed and do nothing beside the others, and settings that cannot be meant together."""
        found = self.data.without_effect() + self.model.without_effect() + self.learning.without_effect()
        model, learning = self.model, self.learning
        if learning.precise_batch_norm and model.batch_norm != "train":
            found.append(
                f"`learning.precise_batch_norm` (={learning.precise_batch_norm}) has no effect, since "
                f"model.batch_norm is {model.batch_norm}."
            )
        if (learning.mixup or learning.cutmix) and learning.batch_size // self.run.num_workers < 2:
            found.append(
                "`learning.mixup` and `learning.cutmix` have no effect, since each worker has a single clip of a batch."
            )
        if model.weights is None:
            for name, value, plain in (
                ("freeze_stages", model.freeze_stages, 0),
                ("batch_norm", model.batch_norm, "train"),
            ):
                if value != plain:
                    found.append(f"`model.{name}` (={value}) keeps what was never learnt, since model.weights is None.")
        return found

    def flatten(self) -> dict[str, Value]:
        """All fields under their dotted names, in the order of the classes."""
        return {
            f"{section.name}.{name}": value
            for section in fields(self)
            for name, value in asdict(getattr(self, section.name)).items()
        }

    def override(self, changes: Mapping[str, object]) -> "Experiment":
        """A copy with the dotted names in `changes` set, checked as a whole once all are in place.

        Raises ValueError for an unknown name (with the nearest valid ones), a value of a wrong type, or a combination
        that the experiment refuses.
        """
        per_section: dict[str, dict[str, Value]] = {}
        types_by_name = field_types()
        for name, value in changes.items():
            if name not in types_by_name:
                raise ValueError(_unknown_field(name))
            section, field_name = name.split(".")
            per_section.setdefault(section, {})[field_name] = _as_type(name, value, types_by_name[name])
        return replace(
            self, **{section: replace(getattr(self, section), **new) for section, new in per_section.items()}
        )

    def to_json(self) -> str:
        """The flattened form as JSON; `from_json` gives back an equal experiment."""
        return json.dumps(self.flatten(), indent=2) + "\n"

    @staticmethod
    def from_json(text: str) -> "Experiment":
        """The experiment that `to_json` wrote.

        A field that the text lacks (written by an earlier version) takes its default, and a warning names it.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"An experiment is a JSON object of dotted names, but got {type(values).__name__}.")
        missing = [name for name in field_types() if name not in values]
        if missing:
            log.warning("The saved experiment lacks %s: defaults are used.", ", ".join(missing))
        return Experiment().override(values)


@functools.cache
def field_types() -> dict[str, Any]:
    """The type annotation of every field of an Experiment, by its dotted name."""
    found: dict[str, Any] = {}
    for section, section_type in typing.get_type_hints(Experiment).items():
        assert is_dataclass(section_type)
        for name, annotation in typing.get_type_hints(section_type).items():
            found[f"{section}.{name}"] = annotation
    return found


def _unknown_field(name: str) -> str:
    valid = list(field_types())
    # Many people type the last part only ("lr"), so that part is compared as well.
    last = name.split(".")[-1]
    near = (
        [known for known in valid if known.split(".")[1] == last]
        or difflib.get_close_matches(name, valid, n=3, cutoff=0.6)
        or [known for known in valid if difflib.SequenceMatcher(None, known.split(".")[1], last).ratio() > 0.7]
    )
    remedy = f"did you mean {' or '.join(near)}?" if near else f"valid names: {', '.join(valid)}."
    return f"`{name}` is no field of an experiment; {remedy}"


def _as_type(name: str, value: object, annotation: Any) -> Value:
    """`value` as the plain Python value that `annotation` asks for; numpy scalars and whole floats are accepted."""
    if hasattr(value, "item"):  # numpy scalars, as samplers return them
        value = value.item()  # pyright: ignore[reportAttributeAccessIssue]
    options = typing.get_args(annotation)
    if typing.get_origin(annotation) is Literal:
        for option in options:
            if value == option:  # the option itself: 50.0 equals 50 and is not it
                return typing.cast(Value, option)
        raise ValueError(f"`{name}` (={value!r}) must be one of {', '.join(map(repr, options))}.")
    accepted = options if isinstance(annotation, types.UnionType) else (annotation,)
    if value is None and type(None) in accepted:
        return None
    if isinstance(value, bool):
        if bool in accepted:
            return value
    elif float in accepted and isinstance(value, int | float):
        return float(value)
    elif int in accepted and isinstance(value, int | float) and math.isfinite(value) and int(value) == value:
        return int(value)
    elif str in accepted and isinstance(value, str):
        return value
    expected = " or ".join("None" if kind is type(None) else kind.__name__ for kind in accepted)
    raise ValueError(f"`{name}` (={value!r}) must be of type {expected}, but is {type(value).__name__}.")


LAPTOP = Experiment()
"""A quarter-width SlowFast at the sensor's own size: minutes on two CPU cores."""

GPU = Experiment(
    data=DataConfig(clip_len=32, frame_interval=2, height=256, width=384),
    model=ModelConfig(width=1.0, dropout=0.5),
    learning=LearningConfig(lr=0.01, batch_size=8, num_epochs=12, precision="bf16", ema_decay=0.0, mixup=0.0),
)
"""The paper's SlowFast R50 at 256 x 384, in bf16: the size that published Kinetics weights have."""

EARLIER = Experiment(
    data=DataConfig(clip_len=64, frame_interval=1, height=256, width=384, min_celsius=5.0, max_celsius=45.0),
    model=ModelConfig(width=1.0, alpha=8, lateral_kernel=5, lateral_norm=False, slow_frames="every", dropout=0.8),
    learning=LearningConfig(
        lr=0.005,
        backbone_lr=0.1,
        optimizer="sgd",
        batch_size=8,
        num_epochs=100,
        warmup_fraction=0.1,
        early_stop=20,
        ema_decay=0.0,
        mixup=0.0,
    ),
)
"""The earlier system's recipe for this sensor, as far as it is known: MMAction2's SlowFast R50 4x16, hand-tuned, from
Kinetics weights, which `model.weights` names. Not known are its batch size (8 here), its precision (fp32 here) and its
augmentation (the defaults here). The 11.6 GB of GPU memory that it took would be 4 clips at once in fp32, or 8 in 16
bits (model/cost.py)."""
