"""What MLflow is told, one entry after the other: each a plain value, so that a journal on disk can hold it.

A run is named by its folder. Every entry may be written to the store again: whoever writes looks first what is there.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from slowfast_ray.running.tracking.tracking_store import State

Point = tuple[str, float, int, int]
"""Of a metric: its name, value, step, and when it was measured [ms since 1970]."""


@dataclass(frozen=True)
class Entry:
    """Something about a run."""

    run: str
    """Its folder, which names it."""

    @property
    def what(self) -> str:
        """For messages."""
        return f"{self._subject} of {self.run.rsplit('/', 1)[-1]}"

    @property
    def _subject(self) -> str:
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Opened(Entry):
    """A run begins, or goes on."""

    name: str
    parent: str | None
    tags: dict[str, str]
    params: dict[str, str]
    experiment_json: str
    started_ms: int
    resume: bool
    """Whether the newest run of the folder goes on, should there be one."""

    @property
    def what(self) -> str:
        """For messages."""
        return f"the run {self.name}"


@dataclass(frozen=True)
class Measured(Entry):
    """Points of metrics."""

    points: tuple[Point, ...]

    @property
    def _subject(self) -> str:
        steps = sorted({step for _, _, step, _ in self.points})
        when = f"epoch {steps[0]}" if len(steps) == 1 else f"epochs {steps[0]} to {steps[-1]}"
        return f"{when} ({', '.join(sorted({name for name, *_ in self.points}))})"


@dataclass(frozen=True)
class Tagged(Entry):
    """Tags, over those that are there. A text may link to a run by its folder: `[trial](run:/folder/of/trial)`."""

    tags: dict[str, str]

    @property
    def _subject(self) -> str:
        return f"the tags {', '.join(self.tags)}"


@dataclass(frozen=True)
class Text(Entry):
    """An artifact that is written here."""

    name: str
    text: str

    @property
    def _subject(self) -> str:
        return f"the text {self.name}"


@dataclass(frozen=True)
class File(Entry):
    """A file that becomes an artifact, in a folder of the artifacts."""

    path: str
    folder: str | None

    @property
    def _subject(self) -> str:
        return f"the file {self.path}"


@dataclass(frozen=True)
class Folder(Entry):
    """A folder whose files become artifacts under a name."""

    path: str
    name: str

    @property
    def _subject(self) -> str:
        return f"the folder {self.path}"


@dataclass(frozen=True)
class Reported(Entry):
    """Tables and pictures of what a checkpoint says of its validation samples, made when they are sent."""

    checkpoint: str
    members: str
    """The file that names the samples."""

    @property
    def _subject(self) -> str:
        return f"the report on {self.checkpoint}"


@dataclass(frozen=True)
class Dataset(Entry):
    """What a run was trained on."""

    name: str
    digest: str
    source: str
    profile: dict[str, Any] = field(default_factory=dict)

    @property
    def _subject(self) -> str:
        return f"the dataset {self.name}"


@dataclass(frozen=True)
class Viewed(Entry):
    """How MLflow's page shows the trials of a search: which columns stand first, in which order, which charts."""

    parameters: tuple[str, ...]
    metrics: tuple[str, ...]
    higher_is_better: bool

    @property
    def _subject(self) -> str:
        return "the view of the trials"


@dataclass(frozen=True)
class Ended(Entry):
    """A run ends: its honest state, the reason for it, and when [ms since 1970]."""

    state: State
    reason: str
    ended_ms: int

    @property
    def _subject(self) -> str:
        return f"the end ({self.state})"


KINDS: dict[str, type[Entry]] = {
    kind.__name__: kind for kind in (Opened, Measured, Tagged, Text, File, Folder, Reported, Dataset, Viewed, Ended)
}


def to_json(entry: Entry) -> dict[str, Any]:
    """A JSON object that `from_json` reads."""
    return {"kind": type(entry).__name__, **asdict(entry)}


def from_json(values: dict[str, Any]) -> Entry:
    """The entry that `to_json` wrote. Raises ValueError, KeyError or TypeError for anything else."""
    rest: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name != "kind"
    }
    if values["kind"] == Measured.__name__:
        rest["points"] = tuple(tuple(point) for point in rest["points"])
    return KINDS[values["kind"]](**rest)
