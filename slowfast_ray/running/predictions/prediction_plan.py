"""What recordings to predict with which model: everything that can be wrong is found before anything is started."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint
from slowfast_ray.model import slowfast
from slowfast_ray.running.folders import storage
from slowfast_ray.running.predictions import prediction_truths, windows
from slowfast_ray.running.predictions.prediction_truths import Annotated
from slowfast_ray.running.publishing import model_folder
from slowfast_ray.running.publishing.model_folder import Description
from slowfast_ray.running.tracking import tracking_models


@dataclass(frozen=True)
class Plan:
    """A prediction that can begin."""

    name: str
    """Of the model, as it was given."""
    model: Path
    """Its folder."""
    description: Description
    experiment: Experiment
    recordings: tuple[Path, ...]
    """Absolute paths of files, each with a name of its own."""
    every: int | None
    smooth: int | None
    annotated: Annotated
    out: Path
    """Folder that does not exist yet."""

    def warnings(self) -> list[str]:
        """What makes the predictions worth less, as far as it is known before."""
        said, unknown = [], sorted(self.annotated_classes - set(self.description.classes))
        if unknown:
            said.append(
                f"The model does not know these annotated classes: {', '.join(unknown)}; keyframes of them alone are "
                "left out of the share right."
            )
        window, by_clock = self.experiment.data.window, self.experiment.data.frame_interval_ms is not None
        if self.every is not None and not by_clock and self.every > window:
            said.append(
                f"`every` (={self.every}) is longer than a clip, {window:g} frames: what lies between two clips is not "
                "looked at."
            )
        return said

    @property
    def annotated_classes(self) -> set[str]:
        """What is annotated in these recordings."""
        return self.annotated.classes_in({path.stem for path in self.recordings})


def check(
    model: str,
    recordings: Sequence[Path],
    *,
    every: int | None,
    smooth: int | None,
    out: Path | None,
    annotations: Path | None,
    tracking_uri: str | None,
) -> Plan:
    """The plan. Raises ValueError or OSError for whatever stands in its way; the model is asked for last."""
    windows.check(every=every, smooth=smooth)
    files = _files(recordings)
    out = out or Path(f"predictions-{time.strftime('%Y%m%d-%H%M%S')}")
    if out.exists() or out.is_symlink():
        raise FileExistsError(f"`out` (={out}) exists, and nothing is overwritten; name another folder.")
    storage.check_place(out, "out")
    annotated = prediction_truths.read(annotations)
    folder = tracking_models.fetch(model, tracking_uri).absolute()
    description, experiment = model_folder.read(folder)
    if experiment.data.labels == "person" and annotations is None:
        raise ValueError(
            f"The model {model} looks at one person at a time (`data.labels` person), and needs boxes; name the file "
            "or dataset folder that holds them with --annotations."
        )
    try:  # a damaged file is found now, not in each process
        checkpoint.load_weights(folder, slowfast.build(experiment.model))
    except ValueError as error:
        raise ValueError(f"`model` (={model}) cannot be used. {error}") from error
    plan = Plan(model, folder, description, experiment, files, every, smooth, annotated, out)
    is_foreign = bool(plan.annotated_classes) and plan.annotated_classes.isdisjoint(description.classes)
    if is_foreign and experiment.data.labels != "person":  # of people, the boxes are still good
        raise ValueError(
            f"The model {model} knows none of the annotated classes, {', '.join(sorted(plan.annotated_classes))}, but "
            f"{', '.join(description.classes)}; name annotations in its words, or leave out --annotations."
        )
    return plan


def _is_hdf5(path: Path) -> bool:
    return path.suffix.lower() in (".h5", ".hdf5")


def _files(recordings: Sequence[Path]) -> tuple[Path, ...]:
    """The files that are named, those in folders in alphabetical order."""
    found: list[Path] = []
    missing = [str(path) for path in recordings if not path.exists()]
    if missing:
        raise FileNotFoundError(f"No such recording, nor folder of recordings: {', '.join(missing)}.")
    for path in recordings:
        inside = sorted(each for each in path.iterdir() if _is_hdf5(each)) if path.is_dir() else [path]
        if not inside:
            nested = path / "frames"
            hint = f"; did you mean {nested}?" if nested.is_dir() else "."
            raise ValueError(f"The folder {path} holds no recording (*.h5 or *.hdf5){hint}")
        found += [each.absolute() for each in inside]
    by_name: dict[str, Path] = {}
    for path in found:
        other = by_name.setdefault(path.stem, path)
        if other is not path:
            raise ValueError(
                f"Recordings are told apart by their names, but two are called {path.stem}: {other} and {path}; rename "
                "one, or predict them one after the other."
            )
    return tuple(found)
