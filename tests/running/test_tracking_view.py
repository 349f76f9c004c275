"""The saved view of a search as the store has it, and the filters of docs/comparing.md."""

import base64
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from slowfast_ray.running.tracking.tracking_store import NOTE
from slowfast_ray.running.tracking.tracking_view import VIEW, share_view
from tests.running import made_up_search
from tests.running.conftest import ROOT
from tests.running.made_up_search import FIELDS, METRICS, OBJECTIVE

DOCS = ROOT / "docs" / "comparing.md"
TRIALS = {f"trial-{number:03d}" for number in range(8)}
FINISHED = TRIALS - {"trial-003"}
FILTERS = {
    """tags."slowfast_ray.state" = 'finished' and metrics."final/objective" > 0.3""": {*FINISHED, "finalist-002"},
    """tags."slowfast_ray.split_fingerprint" = '5d1f03a29c40'""": {"first", *TRIALS, "finalist-002"},
    """tags."mlflow.parentRunId" = 'RUN_ID' and tags."slowfast_ray.finalist" IS NULL""": TRIALS,
    """tags."slowfast_ray.finalist" IS NOT NULL""": {"finalist-002"},
    """tags."mlflow.parentRunId" LIKE '%' and params."data.clip_len" = '48'""": {
        "trial-003",
        "trial-006",
        "trial-007",
        "trial-008",
    },
    """metrics."final/objective_low" > 0.45""": {"trial-000", "trial-001", "trial-002", "trial-006", "finalist-002"},
    """attributes.run_name LIKE 'trial-%' and tags."slowfast_ray.state" != 'infeasible'""": TRIALS,
}
"""What docs/comparing.md tells to filter by, and the runs that are left."""


@dataclass(frozen=True)
class Store:
    client: MlflowClient
    experiment_id: str
    search_id: str


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Store:
    folder = tmp_path_factory.mktemp("store")
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    uri = f"sqlite:///{folder}/mlflow.db"
    search_id = made_up_search.write(uri, folder)
    client = MlflowClient(uri)
    return Store(client, client.get_run(search_id).info.experiment_id, search_id)


@pytest.mark.parametrize("query", FILTERS)
def test_the_filters_of_the_docs_find_what_they_say(store: Store, query: str) -> None:
    found = store.client.search_runs([store.experiment_id], query.replace("RUN_ID", store.search_id))
    assert {(run.info.run_name or "").split()[0] for run in found} == FILTERS[query]


def test_the_docs_name_these_filters_and_no_others() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert set(re.findall(r"`((?:tags|metrics|params|attributes)\.[^`]+ [^`]+)`", text)) == set(FILTERS)


def test_pictures_of_the_docs_are_there() -> None:
    text = DOCS.read_text(encoding="utf-8")
    named = re.findall(r"\(pictures/(mlflow_\w+\.png)\)", text)
    assert named
    for name in named:
        assert (DOCS.parent / "pictures" / name).stat().st_size < 150_000


def test_a_view_that_is_shared_again_is_not_written_again(store: Store) -> None:
    experiment_id = store.client.create_experiment("again")
    first = share_view(store.client, experiment_id, parameters=FIELDS, metrics=METRICS)
    before = store.client.get_experiment(experiment_id).tags
    assert share_view(store.client, experiment_id, parameters=FIELDS, metrics=METRICS) == first
    assert store.client.get_experiment(experiment_id).tags == before
    assert share_view(store.client, experiment_id, parameters=FIELDS[:2], metrics=METRICS) == first
    after = store.client.get_experiment(experiment_id).tags
    (key,) = (key for key in after if key.startswith(VIEW))
    assert after[key] != before[key]
    assert json.loads(after[key])["createdAt"] == json.loads(before[key])["createdAt"]


def test_a_description_that_somebody_wrote_stays(store: Store) -> None:
    experiment_id = store.client.create_experiment("described")
    store.client.set_experiment_tag(experiment_id, NOTE, "Mine.")
    share_view(store.client, experiment_id, parameters=FIELDS, metrics=METRICS)
    assert store.client.get_experiment(experiment_id).tags[NOTE] == "Mine."


@pytest.mark.parametrize(("objective", "higher_is_better"), [(OBJECTIVE, True), ("val/loss", False)])
def test_the_best_comes_first_also_where_less_is_better(store: Store, objective: str, higher_is_better: bool) -> None:
    experiment_id = store.client.create_experiment(f"by {objective}")
    share_view(store.client, experiment_id, parameters=FIELDS, metrics=[objective], higher_is_better=higher_is_better)
    tags = store.client.get_experiment(experiment_id).tags
    packed = next(json.loads(value)["state"] for key, value in tags.items() if key.startswith(VIEW))
    state = json.loads(zlib.decompress(base64.b64decode(packed.removeprefix("deflate;"))))
    order = [f"{state['orderByKey']} {'ASC' if state['orderByAsc'] else 'DESC'}"]
    found = store.client.search_runs([store.experiment_id], state["searchFilter"], order_by=order)
    values = [run.data.metrics.get(objective) for run in found]
    assert values[-1] is None, "never measured"
    measured = [value for value in values if value is not None]
    assert measured == sorted(measured, reverse=higher_is_better)
    assert len(set(measured)) > 5
