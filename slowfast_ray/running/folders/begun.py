"""What a run or a search began as, in its folder: so that it goes on as the same, on the same samples."""

import json
from pathlib import Path

from slowfast_ray.data.dataset import Dataset
from slowfast_ray.experiment import OF_THE_PLACE, Experiment
from slowfast_ray.learning import checkpoint
from slowfast_ray.running import provenance
from slowfast_ray.running.folders import storage
from slowfast_ray.running.folders.mirror import Mirror
from slowfast_ray.running.searching.config import SearchConfig

BEGUN_AS = "experiment.json"
"""In a run's folder: the experiment that it began as."""
SEARCH = "search.json"
"""In a search's folder: its space and its settings, as it began."""
STUDY = "study.db"
"""In a search's folder: an Optuna storage, which optuna-dashboard opens."""
COMMANDS = "commands.txt"
"""In a search's folder: the command lines that began it and went on with it, one each."""
IDENTITY = "identity"
"""In the folder of a run that is kept at a URL: tells it from an earlier one of that name, which was deleted there."""
MEMBERS = "split.json"
"""In a run's folder: which samples train, validate, and were left out."""


def check_same(experiment: Experiment, objective: str | None, folder: Path, data: Dataset) -> None:
    """Raises ValueError where a run would be resumed as another experiment than it began as, or on other data."""
    before = Experiment.from_json((folder / BEGUN_AS).read_text(encoding="utf-8")).flatten()
    now = experiment.flatten()
    newest = checkpoint.newest(folder)
    if newest is not None:
        before["metric"], now["metric"] = checkpoint.read_progress(newest).objective, objective
    changed = [name for name in now if now[name] != before[name] and name not in OF_THE_PLACE]
    if changed:
        shown = ", ".join(f"`{name}` (={now[name]}, was {before[name]})" for name in changed)
        raise ValueError(
            f"A run is resumed as the experiment that it began as, but {shown} in {folder}; give the same flags, or "
            "another --name."
        )
    for name, value in (("dataset", data.source.fingerprint), ("split", data.fingerprint)):
        began_with = read_fingerprint(folder, name)
        if began_with != value:
            raise ValueError(
                f"The {name} is not the one that the run in {folder} began with: its fingerprint is {value}, but was "
                f"{began_with}; restore the data, or choose another --name."
            )


def split_fingerprint(folder: Path) -> str:
    """Of the split that a run or trial began with; for a trial, its search noted it above. Raises ValueError."""
    above = folder.absolute().parent
    return read_fingerprint(folder if (folder / MEMBERS).is_file() else above, "split")


def read_fingerprint(folder: Path, name: str) -> str:
    """The fingerprint of the `dataset` or the `split` that the run in `folder` began with.

    Raises ValueError where it was not noted.
    """
    try:
        return str(json.loads((folder / MEMBERS).read_text(encoding="utf-8"))[f"{name}_fingerprint"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / MEMBERS} does not say on which samples the run began ({type(error).__name__}); it was written "
            "by another version, or damaged: train again under another --name."
        ) from error


def read_search(folder: Path) -> SearchConfig:
    """The settings that the search in `folder` began with. Raises ValueError where they cannot be read."""
    try:
        return SearchConfig(**json.loads((folder / SEARCH).read_text(encoding="utf-8"))["search"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / SEARCH} does not say how the search began ({error}); it was written by another version, or "
            "damaged: search again under another name."
        ) from error


def identity_of(folder: Path) -> str:
    """What tells the run in `folder` from an earlier one of that name; empty where its folder alone is what it has."""
    path = folder / IDENTITY
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def note_command(folder: Path) -> None:
    """Adds the command of this start to those of the run in `folder`."""
    with (folder / COMMANDS).open("a", encoding="utf-8") as file:
        file.write(f"{provenance.command()}\n")


def first_command(folder: Path) -> str:
    """The command that began the run in `folder`; that of this process where none is noted yet."""
    try:
        return (folder / COMMANDS).read_text(encoding="utf-8").splitlines()[0]
    except (OSError, IndexError):
        return provenance.command()


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is whole or as it was before, whenever the process is killed."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.rename(path)


def check_home(home: Mirror, *, resume: bool, is_search: bool = False) -> None:
    """Raises ValueError unless a run's place is free and can be made, or, to resume, holds a run that began."""
    folder = home.folder
    if resume:
        if not (folder / BEGUN_AS).is_file():
            raise ValueError(f"There is nothing to resume: {home.place} holds no run; leave out --resume.")
        if (folder / SEARCH).is_file() != is_search:
            holds, other = ("a single run", "train_thermal.py") if is_search else ("a search", "tune_thermal.py")
            raise ValueError(f"{folder} holds {holds}, which {other} resumes; choose another name.")
        study = folder / STUDY
        if is_search and next(folder.glob("trial-*"), None) and not (study.is_file() and study.stat().st_size):
            raise ValueError(
                f"{study}, which knows what the trials in {folder} are, is gone or empty; restore it, or search again "
                "under another name."
            )
    elif home.exists():
        raise ValueError(f"{home.place} exists, and nothing is overwritten; choose another --name.")
    elif folder.exists():
        raise ValueError(
            f"{folder} is left of a run that {home.url} does not hold; remove it, or choose another --name."
        )
    if home.url:
        home.check_writable()
        return
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    storage.check_writable(existing, "run.storage")
