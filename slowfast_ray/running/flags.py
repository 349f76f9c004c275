"""The flags of each script, as dataclasses: their names, defaults, units and laws."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from slowfast_ray.data.config import DataConfig
from slowfast_ray.experiment import EARLIER, GPU, LAPTOP, Experiment
from slowfast_ray.learning import counts
from slowfast_ray.running.searching.config import SearchConfig

Preset = Literal["laptop", "gpu", "earlier"]
PRESETS: dict[Preset, Experiment] = {"laptop": LAPTOP, "gpu": GPU, "earlier": EARLIER}


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
        run = self.experiment.run
        if run.cpus_per_worker is not None and not run.needs_ray:
            raise ValueError(
                f"`run.cpus_per_worker` (={run.cpus_per_worker}) has no effect, since one worker on this machine "
                "trains in this process, on all of its cores; leave it out, or take OMP_NUM_THREADS."
            )
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
class FetchFlags:
    """What to fetch, and where to."""

    url: tyro.conf.Positional[str]
    """Of a run, a search or a trial: s3://BUCKET/runs/NAME or gs://BUCKET/runs/NAME."""

    folder: tyro.conf.Positional[Path]
    """To be made on this machine [path]."""

    verbose: bool = False
    """Show the logs."""


@dataclass(frozen=True)
class SyncFlags:
    """Where to look for what MLflow missed."""

    folders: tyro.conf.Positional[tuple[Path, ...]] = (Path("runs"),)
    """Folders of runs or searches, or of several of these [paths]."""

    tracking_uri: str | None = None
    """Address of the store, where it has another one now [URI]. None: as it was."""

    verbose: bool = False
    """Show the logs of every step."""


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


@dataclass(frozen=True)
class ExportFlags:
    """Flags of an export, which trains nothing: the experiment is the model's own."""

    model: tyro.conf.Positional[str]
    """Folder of a model [path], or its address in MLflow: models:/NAME/VERSION or models:/NAME@ALIAS."""

    out: tyro.conf.Positional[Path]
    """Folder for the programs [path of a new folder]."""

    root: str | None = None
    """Dataset folder whose validation samples the export is checked on [path]. None: the made-up dataset."""

    recordings: tuple[Path, ...] = ()
    """Recordings to check it on instead [paths of HDF5 files]."""

    tracking_uri: str | None = None
    """MLflow store of a models:/ address [URI]. None: the variable MLFLOW_TRACKING_URI, else sqlite:///mlflow.db."""

    verbose: bool = False
    """Show the logs of every step."""

    def __post_init__(self) -> None:
        if self.root is not None and self.recordings:
            raise ValueError("`root` and `recordings` exclude each other: both say what to check on; leave out one.")


@dataclass(frozen=True)
class PredictFlags:
    """Flags of predictions for whole recordings, by a trained model."""

    model: tyro.conf.Positional[str]
    """A registered model (models:/NAME@champion, models:/NAME/3) or a model folder [path]."""

    recordings: tyro.conf.Positional[tuple[Path, ...]]
    """HDF5 files, or folders of them (*.h5, *.hdf5); one or more [paths]."""

    every: int | None = None
    """Step between windows [frames]. None: half the clip's window."""

    smooth: int | None = None
    """Average probabilities over so many windows, centred, never over a gap [odd number]. None: none."""

    out: Path | None = None
    """Folder for the results [path of a new folder]. None: predictions-TIME in this folder."""

    format: Literal["csv", "parquet"] = "csv"
    """Of the table."""

    annotations: Path | None = None
    """COCO-style file or dataset folder: true actions, and the boxes that a model of people needs [path]."""

    tracking_uri: str | None = None
    """Where the model is registered. None: as in training, by MLFLOW_TRACKING_URI or mlflow.db here."""

    verbose: bool = False
    """Show the logs of Ray and of every step."""

    def __post_init__(self) -> None:
        if not self.recordings:
            raise ValueError("`recordings` names none; name one file or folder of recordings or more.")


@dataclass(frozen=True)
class RegisterFlags:
    """Flags of a registration, which trains nothing: the experiment is the checkpoint's own."""

    checkpoint: tyro.conf.Positional[Path]
    """Folder of a checkpoint, or of a run or trial: then its best epoch [path]."""

    name: str = "slowfast-thermal"
    """Of the model in MLflow's registry."""

    force: bool = False
    """Make it the champion, whatever the validation samples say."""

    root: str | None = None
    """Dataset folder, where it lies elsewhere than in training [path]."""

    verbose: bool = False
    """Show the logs of every step."""
