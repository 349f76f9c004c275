"""StoreWriter: writes entries to an MLflow store. Whatever it is given may be given again, to it or to a later one.

MLflow appends: a run made twice is two runs, a step logged twice two points. So before anything is repeated, the store
is asked what it has.
"""

import json
import logging
import re
import tempfile
from dataclasses import dataclass, field
from functools import cached_property, singledispatchmethod
from pathlib import Path
from urllib.parse import unquote

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from slowfast_ray.learning import checkpoint
from slowfast_ray.running.tracking import tracking_entries, tracking_opening, tracking_store, tracking_view
from slowfast_ray.running.tracking.tracking_entries import Entry
from slowfast_ray.running.tracking.tracking_store import ERROR, STATE, STATUS, RefusedError

log = logging.getLogger(__name__)

_EXPERIMENT = "experiment.json"
_REPORTED = "slowfast_ray.report_epoch"
"""Tag: the epoch that a run's report is on."""
_MOST_POINTS = 1000
"""Of one call: MLflow's own limit."""


@dataclass
class _Known:
    """What is known of a run of the store."""

    id: str | None
    """None where it was refused."""
    parent: str | None = None
    is_new: bool = False
    """Whether this process made it and knows all that it holds."""
    is_changed: bool = False
    """Whether this process added points to it, or to its children."""
    steps: dict[str, set[int]] = field(default_factory=dict)
    """The steps that each metric is known to have; a metric that is missing here must be looked up."""


class StoreWriter:
    """Writes to one MLflow experiment, which is made where it does not exist. `run_ids` are known from before."""

    def __init__(self, uri: str, experiment_name: str, run_ids: dict[str, str | None]) -> None:
        self._uri, self._experiment_name = uri, experiment_name
        self._experiment_id = ""
        self._runs = {folder: _Known(run_id) for folder, run_id in run_ids.items()}

    @cached_property
    def _client(self) -> MlflowClient:  # made by the thread that sends: a database that is away takes its time
        return tracking_store.client(self._uri)

    def probe(self) -> object:
        """Asks the store something small. Raises while it is away."""
        return self._client.get_experiment_by_name(self._experiment_name)

    def check_known(self) -> None:
        """Raises ValueError where the store does not have the runs that it took before: it is another one."""
        for folder, known in self._runs.items():
            if known.id is not None:
                try:
                    self._client.get_run(known.id)
                except MlflowException as error:
                    raise ValueError(
                        f"The store {self._uri} has no run {known.id} of {folder}, which was told of before: it is "
                        f"another store, or was set back ({tracking_store.reason_of(error)})."
                    ) from error

    def write(self, entry: Entry) -> str | None:
        """Writes an entry; gives the id of its run. Raises RefusedError for what can never be written, and whatever the
        store raises.
        """
        if not isinstance(entry, tracking_entries.Opened):
            self._run_id(entry.run)
        self._write(entry)
        return self._run_id(entry.run)

    def _run_id(self, folder: str) -> str:
        known = self._runs.get(folder)
        if known is None or known.id is None:
            raise RefusedError("its run was refused")
        return known.id

    @singledispatchmethod
    def _write(self, entry: Entry) -> None:
        raise AssertionError(f"no way to write {entry}")

    @_write.register
    def _(self, entry: tracking_entries.Opened) -> None:
        parent_id = None
        if entry.parent is not None:
            try:
                parent_id = self._run_id(entry.parent)
            except RefusedError:
                raise RefusedError("its parent was refused") from None
        found, is_new = tracking_opening.find_or_make(self._client, self._experiment(), entry, parent_id)
        known = _Known(None, entry.parent, is_new)
        run_id = known.id = found.info.run_id
        before = self._runs.get(entry.run)
        if before is not None and before.id == run_id:  # asked again in one process
            known = before
        self._runs[entry.run] = known
        if known.is_new:
            self._change(entry.run)
        if found.info.status != "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        tracking_opening.complete(self._client, found, entry)

    @_write.register
    def _(self, entry: tracking_entries.Measured) -> None:
        run_id, known = self._run_id(entry.run), self._runs[entry.run]
        missing = [
            Metric(name, value, at_ms, step)
            for name, value, step, at_ms in entry.points
            if step not in self._steps(run_id, known, name)
        ]
        if not missing:
            return
        self._change(entry.run)
        try:
            for first in range(0, len(missing), _MOST_POINTS):
                self._client.log_batch(run_id, metrics=missing[first : first + _MOST_POINTS])
        except Exception:  # the store may have taken it, or a part
            known.is_new = False
            known.steps.clear()
            raise
        for point in missing:
            known.steps[point.key].add(point.step)

    def _steps(self, run_id: str, known: _Known, name: str) -> set[int]:
        if name not in known.steps:
            history = [] if known.is_new else self._client.get_metric_history(run_id, name)
            known.steps[name] = {point.step for point in history}
        return known.steps[name]

    @_write.register
    def _(self, entry: tracking_entries.Tagged) -> None:
        tags = [RunTag(key, self._linked(value)) for key, value in entry.tags.items()]
        self._client.log_batch(self._run_id(entry.run), tags=tags)

    def _linked(self, text: str) -> str:
        """`text` with its links to folders of runs as links to their pages; of runs that were refused, without."""

        def link(match: re.Match[str]) -> str:
            known = self._runs.get(unquote(match["folder"]))
            if known is None or known.id is None:
                return match["title"]
            return f"[{match['title']}](#/experiments/{self._experiment()}/runs/{known.id})"

        return re.sub(r"\[(?P<title>[^\]]*)\]\(run:(?P<folder>[^)]*)\)", link, text)

    @_write.register
    def _(self, entry: tracking_entries.Text) -> None:
        self._client.log_text(self._run_id(entry.run), entry.text, entry.name)

    @_write.register
    def _(self, entry: tracking_entries.File) -> None:
        if not Path(entry.path).is_file():
            raise RefusedError(f"{entry.path} is gone")
        self._client.log_artifact(self._run_id(entry.run), entry.path, entry.folder)

    @_write.register
    def _(self, entry: tracking_entries.Folder) -> None:
        if not Path(entry.path).is_dir():
            raise RefusedError(f"{entry.path} is gone")
        self._client.log_artifacts(self._run_id(entry.run), entry.path, entry.name)

    @_write.register
    def _(self, entry: tracking_entries.Reported) -> None:
        from slowfast_ray.running.evaluations import report_files  # matplotlib takes a second to import

        try:
            epoch = str(checkpoint.read_progress(Path(entry.checkpoint)).epoch)
        except ValueError as error:  # deleted, or damaged, since
            raise RefusedError(str(error)) from error
        if self._client.get_run(self._run_id(entry.run)).data.tags.get(_REPORTED) == epoch:
            return
        with tempfile.TemporaryDirectory(prefix="report-") as folder:
            try:
                report_files.write(Path(entry.checkpoint), Path(entry.members), Path(folder))
            except ValueError as error:
                raise RefusedError(str(error)) from error
            self._client.log_artifacts(self._run_id(entry.run), folder, report_files.NAME)
        self._client.set_tag(self._run_id(entry.run), _REPORTED, epoch)

    @_write.register
    def _(self, entry: tracking_entries.Dataset) -> None:
        dataset = Dataset(
            name=entry.name,
            digest=entry.digest,
            source_type="local",
            source=json.dumps({"uri": entry.source}),
            profile=json.dumps(entry.profile),
        )
        inputs = [DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, "training and validation")])]
        self._client.log_inputs(self._run_id(entry.run), inputs)  # the same one twice is one

    @_write.register
    def _(self, entry: tracking_entries.Viewed) -> None:
        tracking_view.share_view(
            self._client,
            self._experiment(),
            parameters=entry.parameters,
            metrics=entry.metrics,
            higher_is_better=entry.higher_is_better,
            search_id=self._run_id(entry.run),
        )

    @_write.register
    def _(self, entry: tracking_entries.Ended) -> None:
        run_id, known = self._run_id(entry.run), self._runs[entry.run]
        before = self._client.get_run(run_id)
        ended_ms = entry.ended_ms
        if before.info.end_time and before.data.tags.get(STATE) == entry.state and not known.is_changed:
            ended_ms = before.info.end_time
        tags = {STATE: entry.state, **({ERROR: entry.reason[:4000]} if entry.reason else {})}
        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        if not entry.reason and ERROR in before.data.tags:  # of an earlier start, which this one has made good
            self._client.delete_tag(run_id, ERROR)
        self._client.set_terminated(run_id, STATUS[entry.state], ended_ms)
        known.is_changed = False

    def _change(self, folder: str | None) -> None:
        """Notes that something was added to a run, and so to its parent."""
        while folder is not None and (known := self._runs.get(folder)) is not None:
            known.is_changed = True
            folder = known.parent

    def _experiment(self) -> str:
        """The id of the experiment, which is found or made."""
        if not self._experiment_id:
            self._experiment_id = tracking_store.experiment_id(self._client, self._uri, self._experiment_name)
        return self._experiment_id
