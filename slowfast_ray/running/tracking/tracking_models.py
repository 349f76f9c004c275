"""MLflow's model registry: networks by name and version, the best of them under the alias champion.

Aliases move one after the other, and MLflow knows no transaction: of two that register at once, each judged against the
champion that it saw, the last one wins; both versions stay, and say how they were judged.
"""

import atexit
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mlflow import MlflowClient, artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import _validate_logged_model_name, _validate_model_name

from slowfast_ray.running.publishing import model_folder
from slowfast_ray.running.tracking import tracking, tracking_store
from slowfast_ray.running.tracking.tracking_store import reason_of

DEFAULT_NAME = "slowfast-thermal"
CHAMPION = "champion"
PREVIOUS = "previous"
"""Alias of the champion before."""
DIGEST = "slowfast_ray.weights_digest"
"""Tag: of the file of weights; equal where a checkpoint is registered a second time."""
MAX_LETTERS = 250
"""Of a name: MLflow's database has room for 256."""
MODEL, EVIDENCE = "model", "evidence"
"""Folders of a version, among its artifacts: a model folder, and what it is judged by."""


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    number: int
    run_id: str
    tags: Mapping[str, str] = field(repr=False)

    @property
    def uri(self) -> str:
        """For mlflow.pyfunc.load_model, and for `fetch`."""
        return f"models:/{self.name}/{self.number}"


def check(uri: str, name: str) -> None:
    """Raises ValueError where the store does not answer, or `name` cannot be a model's. Writes nothing."""
    try:
        _validate_model_name(name)
        _validate_logged_model_name(name)
        is_good = len(name) <= MAX_LETTERS and name == name.strip() and name.isprintable()
    except MlflowException:
        is_good = False
    # MLflow takes these, but finds nothing by a URI that holds them.
    if not is_good or any(each in name for each in "@#?"):
        raise ValueError(
            f"`name` (={name!r:.80}) must not be empty, nor hold / : @ # ? % . or quotes, blanks at its ends, nor what "
            f"cannot be printed, and have {MAX_LETTERS} letters or fewer; try {DEFAULT_NAME}."
        )
    tracking.check(uri)


def champion(uri: str, name: str) -> Version | None:
    """The version that bears the alias champion; None where none does."""
    with answers(uri):
        try:
            return version_of(tracking_store.client(uri).get_model_version_by_alias(name, CHAMPION))
        except MlflowException as error:
            if _is_unknown(error):
                return None
            raise


def has_versions(uri: str, name: str) -> bool:
    """Whether there is a version of this name, with whatever alias."""
    with answers(uri):
        query = f"name = {tracking_store.quoted(name)}"
        return bool(tracking_store.client(uri).search_model_versions(query, max_results=1))


def with_digest(uri: str, name: str, digest: str) -> Version | None:
    """The version whose weights have this digest; None where none has."""
    query = f"name = {tracking_store.quoted(name)} AND tags.`{DIGEST}` = '{digest}'"
    with answers(uri):
        found = tracking_store.client(uri).search_model_versions(query, max_results=1)
        return version_of(found[0]) if found else None


def evidence(uri: str, of: Version) -> Path:
    """The evidence of a version, as it was registered. Raises ValueError where there is none."""
    return _download(uri, of, EVIDENCE)


def promote(uri: str, new: Version) -> Version | None:
    """Makes `new` the champion. The champion before, which is given back, becomes the previous one."""
    client, before = tracking_store.client(uri), champion(uri, new.name)
    with answers(uri):
        if before is not None and before.number != new.number:
            client.set_registered_model_alias(new.name, PREVIOUS, str(before.number))
        client.set_registered_model_alias(new.name, CHAMPION, str(new.number))
    return before


def tag(uri: str, of: Version, tags: Mapping[str, str]) -> None:
    """Sets tags of a version, over those that are there."""
    with answers(uri):
        for key, value in tags.items():
            tracking_store.client(uri).set_model_version_tag(of.name, str(of.number), key, value)


def fetch(model: str, tracking_uri: str | None = None) -> Path:
    """The model folder that `model` names: a folder on this machine, or models:/NAME@ALIAS or models:/NAME/VERSION in
    the store, which is copied into a temporary folder that goes when this process ends.

    Raises ValueError where it leads nowhere (with what exists), where the store does not answer, and for a model of
    another kind or format version.
    """
    if not model.startswith("models:/"):
        folder = Path(model).expanduser()
        if not folder.is_dir():
            raise ValueError(
                f"`model` (={model}) is no folder of a model; one in MLflow is models:/{DEFAULT_NAME}@{CHAMPION} or "
                f"models:/{DEFAULT_NAME}/1."
            )
        model_folder.read(folder)
        return folder
    uri = tracking.resolve_uri(tracking_uri)
    found = find(model, uri)
    folder = _download(uri, found, MODEL)
    try:
        model_folder.read(folder)
    except ValueError as error:
        raise ValueError(f"`model` (={model}) cannot be used. {error}") from error
    return folder


def find(model: str, uri: str) -> Version:
    """The version that `model`, models:/NAME@ALIAS or models:/NAME/VERSION, means in the store at `uri` now.

    Raises ValueError where it leads nowhere (with what exists), where the store does not answer, and for a model of
    another kind.
    """
    name, by, place = _parts(model)
    tracking.check(uri)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise ValueError(f"`model` (={model}) cannot be found: there is no store at {uri}; check `tracking_uri`.")
    client = tracking_store.client(uri)
    with answers(uri):
        try:
            ask = client.get_model_version_by_alias if by == "@" else client.get_model_version
            found = version_of(ask(name, place))
        except MlflowException as error:
            if not _is_unknown(error):
                raise
            raise ValueError(f"`model` (={model}) does not exist: {_what_exists(client, uri, name)}") from error
    if DIGEST not in found.tags:
        raise ValueError(f"`model` (={model}) is no model of slowfast_ray; {_what_exists(client, uri, name)}")
    return found


def _parts(model: str) -> tuple[str, str, str]:
    """Name, "@" or "/", and alias or number, of a URI of the form models:/. Raises ValueError for another one."""
    words = model.removeprefix("models:/")
    by = "@" if "@" in words else "/"
    name, _, place = words.partition(by)
    if not name or not place or "/" in name + place or (by == "/" and not place.isdecimal()):
        raise ValueError(
            f"`model` (={model}) must be models:/NAME@ALIAS or models:/NAME/VERSION, with a number; try "
            f"models:/{DEFAULT_NAME}@{CHAMPION}."
        )
    return name, by, place


def _what_exists(client: MlflowClient, uri: str, name: str) -> str:
    """The versions and aliases of a model; where there is no such model, the names of those there are."""
    known = {each.name: each for each in client.search_registered_models()}
    if name not in known:
        return f"{uri} has {'the models ' + ', '.join(known) if known else 'no model yet'}."
    versions = sorted(
        int(each.version) for each in client.search_model_versions(f"name = {tracking_store.quoted(name)}")
    )
    numbers = ", ".join(map(str, versions)) or "none"
    aliases = ", ".join(f"@{alias} (={number})" for alias, number in sorted(known[name].aliases.items())) or "none"
    return f"{name} in {uri} has the versions {numbers}, and the aliases {aliases}."


def _download(uri: str, of: Version, part: str) -> Path:
    """A copy of a folder among the files of a version. Raises ValueError where it cannot be read."""
    folder = tempfile.mkdtemp(prefix="slowfast-ray-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with answers(uri):
        # Not by models:/, which MLflow would look up in its global store.
        place = tracking_store.client(uri).get_model_version_download_uri(of.name, str(of.number))
        return Path(artifacts.download_artifacts(f"{place}/artifacts/{part}", dst_path=folder, tracking_uri=uri))


def version_of(found: ModelVersion) -> Version:
    """The version in MLflow's words."""
    return Version(found.name, int(found.version), found.run_id or "", dict(found.tags))


def _is_unknown(error: MlflowException) -> bool:
    """Whether a name, a version or an alias does not exist: an unknown alias is an invalid value to MLflow."""
    return error.error_code == "RESOURCE_DOES_NOT_EXIST" or " not found" in str(error)


@contextmanager
def answers(uri: str) -> Iterator[None]:
    """Turns what the store refuses into one clear ValueError, and shows no bars of files on their way."""
    try:
        with tracking_store.environment(MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false"):
            yield
    except (MlflowException, OSError) as error:
        raise ValueError(f"The model registry in {uri} does not do as asked ({reason_of(error)}).") from error
