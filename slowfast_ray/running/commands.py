"""The command line of a script: flags from the dataclasses, a preset, quiet logs, one clear error for bad input."""

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

import torch
import tyro
from rich.console import Console

from slowfast_ray.data import remote
from slowfast_ray.data.long_work import SHOWN
from slowfast_ray.experiment import LAPTOP, Experiment
from slowfast_ray.model import pretrained
from slowfast_ray.model.config import ModelConfig
from slowfast_ray.running.flags import PRESETS, Preset, TrainFlags, TuneFlags
from slowfast_ray.running.folders import begun, mirror, sending
from slowfast_ray.running.folders.mirror import Mirror
from slowfast_ray.running.nodes import cluster
from slowfast_ray.running.searching.config import SearchConfig

EXIT_SERIOUS = 1
"""Of a strict audit that found what makes figures mislead."""
EXIT_NOT_LEARNT = 1
"""Of a network that could not learn a few batches by heart."""
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
"""What a shell reports of a program that Ctrl-C ended."""


class Plain(Protocol):
    """Flags without an experiment."""

    @property
    def verbose(self) -> bool:
        """Whether logs are shown."""
        ...


Flags = TypeVar("Flags", TrainFlags, TuneFlags)
PlainFlags = TypeVar("PlainFlags", bound=Plain)


def parse(kind: type[Flags], docstring: str, arguments: Sequence[str] | None = None) -> Flags:
    """The flags of a script, whose docstring opens with its question.

    Ends the program with code 2 and one clear error where they are wrong.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with exits_cleanly():
        preset = _preset_of(arguments)
        stem = Path(sys.argv[0]).stem.split("_")[0]
        name = f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        resumed = _resumed(arguments) if kind is TuneFlags else None
        if resumed is None:
            experiment = replace(PRESETS[preset], model=_model_of(PRESETS[preset], arguments))
            defaults = kind(preset=preset, name=name, experiment=experiment)
        else:
            folder, experiment, search = resumed
            defaults = kind(preset=preset, name=folder.name, experiment=experiment, search=search)  # pyright: ignore
        flags = tyro.cli(kind, args=arguments, default=defaults, description=docstring.splitlines()[0])
    quiet_logs(verbose=flags.verbose)
    cluster.end_by_sigterm_as_by_ctrl_c()
    return flags


def parse_plain(kind: type[PlainFlags], docstring: str, arguments: Sequence[str] | None = None) -> PlainFlags:
    """The flags of a script that trains nothing, and needs no preset; with the errors of `parse`."""
    with exits_cleanly():
        flags = tyro.cli(kind, args=arguments, description=docstring.splitlines()[0])
    quiet_logs(verbose=flags.verbose)
    return flags


@contextmanager
def exits_cleanly(*kinds: type[Exception], interrupted: str = "Interrupted.") -> Iterator[None]:
    """Prints an error of these kinds (by default ValueError and OSError) as one line, and ends the program with code 2.

    Only checks belong inside: what fails later is a bug or an accident, and keeps its traceback. A run itself belongs
    inside with the kind RefusedError only. Ctrl-C prints `interrupted`, and ends the program with the code that shells
    give it.
    """
    accepted = kinds or (ValueError, OSError)
    try:
        yield
    except KeyboardInterrupt:
        Console().print(interrupted)
        raise SystemExit(EXIT_INTERRUPTED) from None
    except accepted as error:
        Console(stderr=True).print(f"[red bold]error:[/] {_escaped(str(error))}", highlight=False, soft_wrap=True)
        raise SystemExit(EXIT_BAD_INPUT) from None


def quiet_logs(*, verbose: bool) -> None:
    """The package's own notes at INFO when verbose, at WARNING otherwise; other libraries at ERROR unless verbose."""
    there = set(logging.getLogger().handlers)
    logging.basicConfig(
        level=logging.WARNING if verbose else logging.ERROR, format="%(levelname)s %(name)s: %(message)s"
    )
    own, shown = logging.getLogger("slowfast_ray"), logging.INFO if verbose else logging.WARNING
    own.setLevel(logging.INFO)
    # The file of a run (running/folders/logs.py) takes more than the terminal, so that the terminal has its own filter.
    for handler in set(logging.getLogger().handlers) - there:
        handler.addFilter(
            lambda record: (
                not record.name.startswith(own.name) or record.levelno >= shown or vars(record).items() >= SHOWN.items()
            )
        )
    if not verbose:
        warnings.simplefilter("ignore")


def _preset_of(arguments: Sequence[str]) -> Preset:
    """The preset decides the defaults that --help shows, so it is read before the other flags."""
    value = _value_of("--preset", arguments)
    if value is None:
        return (
            "gpu" if torch.cuda.is_available() or cluster.has_gpu(_value_of("--run.address", arguments)) else "laptop"
        )
    if value not in PRESETS:
        raise ValueError(f"`--preset` (={value!r}) must be one of {', '.join(PRESETS)}.")
    return value


def _resumed(arguments: Sequence[str]) -> tuple[Path, Experiment, SearchConfig] | None:
    """The folder of a search that shall go on, and how it began; None for a new one.

    Raises ValueError where there is no such search.
    """
    name = _value_of("--resume", arguments)
    if name is None:
        return None
    if _value_of("--name", arguments) not in (None, name):
        raise ValueError(f"`name` is that of --resume (={name}), which goes on under its own; leave --name out.")
    if "/" in name:
        raise ValueError(f"`resume` (={name}) is a name, not a path; try {Path(name).name}.")
    home = _home_of(_value_of("--run.storage", arguments) or LAPTOP.run.storage, name)
    begun.check_home(home, resume=True, is_search=True)
    folder = home.folder
    experiment = Experiment.from_json((folder / begun.BEGUN_AS).read_text(encoding="utf-8"))
    if not home.url:  # it may have been moved or copied since
        experiment = experiment.override({"run.storage": os.fspath(folder.parent.absolute())})
    return folder, experiment, begun.read_search(folder)


def _model_of(experiment: Experiment, arguments: Sequence[str]) -> ModelConfig:
    """Weights decide the defaults of the architecture, as the preset does of all else; flags may still say otherwise.

    A run that goes on has weights of its own: what it began with may have been moved since.
    """
    weights = _value_of("--model.weights", arguments)
    if weights is None:
        return experiment.model
    if "--resume" in arguments:
        storage = _value_of("--run.storage", arguments) or experiment.run.storage
        folder = _home_of(storage, _value_of("--name", arguments) or "").folder
        if (folder / begun.BEGUN_AS).is_file():
            return Experiment.from_json((folder / begun.BEGUN_AS).read_text(encoding="utf-8")).model
    if remote.is_url(weights):
        here = pretrained.architecture(remote.fetched_weights(weights), experiment.model)
        return replace(here, weights=weights)
    return pretrained.architecture(Path(weights).expanduser(), experiment.model)


def _home_of(storage: str, name: str) -> Mirror:
    """Where a run that goes on keeps its files; what is at a URL is brought."""
    home = mirror.of(storage, name, "driver")
    sending.bring(home)
    return home


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """The value of a flag, the last where it is given twice; None where it is not given, or as None."""
    found = None
    for position, argument in enumerate(arguments):
        name, sign, value = argument.partition("=")
        if name == flag:
            found = value if sign else "".join(arguments[position + 1 : position + 2])
    return None if found == "None" else found


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
