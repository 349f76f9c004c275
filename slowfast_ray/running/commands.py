"""The command line of a script: flags from the dataclasses, a preset, quiet logs, one clear error for bad input."""

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, Protocol, TypeVar

import torch
import tyro
from rich.console import Console

from slowfast_ray.data.config import DataConfig
from slowfast_ray.experiment import EARLIER, GPU, LAPTOP, Experiment
from slowfast_ray.learning import counts
from slowfast_ray.model import pretrained
from slowfast_ray.model.config import ModelConfig
from slowfast_ray.running import cluster, preflight
from slowfast_ray.running.config import SearchConfig

Preset = Literal["laptop", "gpu", "earlier"]
PRESETS: dict[Preset, Experiment] = {"laptop": LAPTOP, "gpu": GPU, "earlier": EARLIER}

EXIT_SERIOUS = 1
"""Of a strict audit that found what makes figures mislead."""
EXIT_NOT_LEARNT = 1
"""Of a network that could not learn a few batches by heart."""
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
"""What a shell reports of a program that Ctrl-C ended."""


@dataclass(frozen=True, kw_only=True)
class _Flags:
    preset: Preset = "laptop"
    """laptop: quarter width, 40 x 60; gpu: full width, 256 x 384, bf16; earlier: the recipe of the earlier system, 64
    frames of 256 x 384. Without the flag, gpu where there is one."""

    name: str = ""
    """Name of the run: its folder in run.storage and its entry in MLflow. Without the flag: one made from the time."""

    verbose: bool = False
    """Show the logs of Ray and of every step."""

    # Every field takes its value, True and False included: a flag and its value are what MLflow shows.
    experiment: Annotated[Experiment, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff] = field(
        default_factory=Experiment
    )


@dataclass(frozen=True, kw_only=True)
class TrainFlags(_Flags):
    """Flags of a single run."""

    resume: bool = False
    """Go on with the run of this --name from its newest checkpoint."""

    metric: str = counts.VAL_TOP1
    """By which the best epoch is kept: val/top1, val/top5, val/mean_class (val/mean_ap under data.labels multi) or
    val/loss."""

    dry_run: bool = False
    """Show what the run would cost in memory and time, measured on a few steps; train nothing, write nothing."""

    overfit_batches: int | None = None
    """Instead of a run, a check whether the network can learn so many batches by heart; write nothing [batches]."""

    def __post_init__(self) -> None:
        if self.overfit_batches is not None and self.overfit_batches < 1:
            raise ValueError(f"`overfit_batches` (={self.overfit_batches}) must be 1 or more; try 1.")
        instead = [
            flag
            for flag, is_set in (
                ("--resume", self.resume),
                ("--dry-run", self.dry_run),
                ("--overfit-batches", self.overfit_batches is not None),
            )
            if is_set
        ]
        if len(instead) > 1:
            raise ValueError(
                f"{' and '.join(instead)} exclude each other: each does something else than a new run; leave out "
                "all but one."
            )


@dataclass(frozen=True, kw_only=True)
class TuneFlags(_Flags):
    """Flags of a search."""

    resume: str | None = None
    """Go on with the search of this name: with what was interrupted, and with more trials where --search.num-trials
    asks for them. All other flags are as it began, unless they are given."""

    resume_anyway: bool = False
    """Go on although the space, the experiment or the data are no longer what the search began with."""

    dry_run: bool = False
    """Show what the search would cost, measured on a few steps; train nothing that is kept, write nothing."""

    search: SearchConfig = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        if self.resume_anyway and self.resume is None:
            raise ValueError("`resume_anyway` (=True) has no effect without --resume NAME; leave it out.")


@dataclass(frozen=True, kw_only=True)
class AuditFlags:
    """Flags of an audit, which trains nothing: of an experiment, the data alone."""

    json: Path | None = None
    """Write the report as JSON, for programs [path of a new file]."""

    html: Path | None = None
    """Write the report as one page with pictures, for people [path of a new file]."""

    strict: bool = False
    """End with code 1 where there is a serious finding."""

    verbose: bool = False
    """Show the logs of every step."""

    data: DataConfig = field(default_factory=DataConfig)


@dataclass(frozen=True)
class CompareFlags:
    """Two runs, or trials, by their folders."""

    first: tyro.conf.Positional[Path]
    """Folder of a run or trial [path]."""

    second: tyro.conf.Positional[Path]
    """Folder of another [path]."""

    verbose: bool = False
    """Show the logs of every step."""


@dataclass(frozen=True)
class EvaluateFlags:
    """Flags of an evaluation, which trains nothing: the experiment is the checkpoint's own."""

    checkpoint: tyro.conf.Positional[Path]
    """Folder of a checkpoint, or of a run or trial: then its best epoch [path]."""

    clips: int = 1
    """Clips of each sample, evenly from a quarter of their window before its keyframe to a quarter after [1 to 10]."""

    crops: int = 1
    """1: the whole frame. 3: crops at the beginning, in the middle and at the end of its longer side."""

    out: Path | None = None
    """Folder for the results [path of a new folder]. None: evaluation-EPOCH in the run's folder."""

    root: str | None = None
    """Dataset folder, where it lies elsewhere than in training [path]."""

    track: bool = True
    """Add the results to the run's entry in MLflow."""

    verbose: bool = False
    """Show the logs of every step."""


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
        begun = _begun(arguments) if kind is TuneFlags else None
        if begun is None:
            experiment = replace(PRESETS[preset], model=_model_of(PRESETS[preset], arguments))
            defaults = kind(preset=preset, name=name, experiment=experiment)
        else:
            folder, experiment, search = begun
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
    logging.basicConfig(
        level=logging.WARNING if verbose else logging.ERROR, format="%(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("slowfast_ray").setLevel(logging.INFO if verbose else logging.WARNING)
    if not verbose:
        warnings.simplefilter("ignore")


def _preset_of(arguments: Sequence[str]) -> Preset:
    """The preset decides the defaults that --help shows, so it is read before the other flags."""
    value = _value_of("--preset", arguments)
    if value is None:
        return "gpu" if torch.cuda.is_available() or cluster.joined_has_gpu() else "laptop"
    if value not in PRESETS:
        raise ValueError(f"`--preset` (={value!r}) must be one of {', '.join(PRESETS)}.")
    return value


def _begun(arguments: Sequence[str]) -> tuple[Path, Experiment, SearchConfig] | None:
    """The folder of a search that shall go on, and how it began; None for a new one.

    Raises ValueError where there is no such search.
    """
    name = _value_of("--resume", arguments)
    if name is None:
        return None
    if _value_of("--name", arguments) not in (None, name):
        raise ValueError(f"`name` is that of --resume (={name}), which goes on under its own; leave --name out.")
    folder = Path(_value_of("--run.storage", arguments) or LAPTOP.run.storage, name)
    preflight.check_folder(folder, resume=True, is_search=True)
    experiment = Experiment.from_json((folder / preflight.BEGUN_AS).read_text(encoding="utf-8"))
    return folder, experiment, preflight.read_search(folder)


def _model_of(experiment: Experiment, arguments: Sequence[str]) -> ModelConfig:
    """Weights decide the defaults of the architecture, as the preset does of all else; flags may still say otherwise.

    A run that goes on has weights of its own: what it began with may have been moved since.
    """
    weights = _value_of("--model.weights", arguments)
    if weights is None:
        return experiment.model
    begun = Path(_value_of("--run.storage", arguments) or experiment.run.storage, _value_of("--name", arguments) or "")
    if "--resume" in arguments and (begun / preflight.BEGUN_AS).is_file():
        return Experiment.from_json((begun / preflight.BEGUN_AS).read_text(encoding="utf-8")).model
    return pretrained.architecture(Path(weights).expanduser(), experiment.model)


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
