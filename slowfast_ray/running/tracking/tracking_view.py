"""How trials look in MLflow's page: a saved view of the runs' table, with its columns, order and charts.

MLflow 3.16 and later keeps a saved view as a tag of the experiment, lists it under "Views", and opens it by its
address. Nothing in a store changes how the page looks without one: it opens with the search alone, folded, with the
columns Created, Dataset, Duration, Source and Models, or as each browser was left; and `/#/experiments/1` opens under
"GenAI", with charts of traces, until "Model training" is chosen once. All of these pages do show the description of the
experiment, so the link to the view stands there.
"""

import base64
import json
import time
import zlib
from collections.abc import Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from slowfast_ray.running.tracking.tracking_store import FINALIST, NOTE, STATE

VIEW = "mlflow.sharedViewState."
"""Tag of an experiment: a saved view; its key follows. Read by MLflow's page, and no part of its API."""
_OURS = "[Trials of "
"""What a description begins with that is written here."""
_CURVE = "val/"


def share_view(
    client: MlflowClient,
    experiment_id: str,
    *,
    parameters: Sequence[str],
    metrics: Sequence[str],
    higher_is_better: bool = True,
    search_id: str | None = None,
) -> str:
    """Saves the view of the trials of one search, or of all searches, and links it in the experiment's description,
    unless somebody has written one. What is as it should be is not written again.

    Best trial first, by the first of `metrics`; those that have none stand last. Columns: that metric, its bounds (the
    metrics of its name with _low and _high), the state, `parameters`, the other metrics. Charts: parallel
    coordinates of the parameters and the first metric, one scatter plot a parameter, the curves of each val/ metric.

    Args:
        client: of the store.
        experiment_id: that holds the search.
        parameters: the fields that the search varies, as MLflow has them: `learning.lr`.
        metrics: at least one, each as MLflow has it: `final/mean_class`.
        higher_is_better: of the first metric.
        search_id: the run of a search; its trials alone are shown, without the runs of finalists.

    Returns:
        What follows the address of a server to open the view: `#/experiments/1/runs?...`. It opens the table;
        with `&compareRunsMode=CHART` the charts.

    Raises:
        MlflowException: the store does not answer, or has no such experiment or search.
    """
    name, key, query = "Trials of all searches", "all", f"tags.`{MLFLOW_PARENT_RUN_ID}` LIKE '%'"
    if search_id is not None:
        name, key = f"Trials of {client.get_run(search_id).info.run_name}", search_id
        query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{search_id}' AND tags.`{FINALIST}` IS NULL"
    key = f"slowfast_ray-{key}"
    state = {
        "searchFilter": query,
        "orderByKey": f"metrics.`{metrics[0]}`",
        "orderByAsc": not higher_is_better,
        **_table(parameters, metrics),
        **_charts(parameters, metrics),
    }
    text = json.dumps(state, separators=(",", ":"))
    packed = f"deflate;{base64.b64encode(zlib.compress(text.encode())).decode()}"

    address = f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={key}"
    tags = client.get_experiment(experiment_id).tags
    before = json.loads(tags.get(VIEW + key, "{}"))
    if (before.get("name"), before.get("state")) != (name, packed):
        now_ms = int(time.time() * 1000)
        view = {"name": name, "createdAt": before.get("createdAt", now_ms), "updatedAt": now_ms, "state": packed}
        client.set_experiment_tag(experiment_id, VIEW + key, json.dumps(view))
    note = f"[{name}, best first]({address}), their [charts]({address}&compareRunsMode=CHART)"
    if tags.get(NOTE, note).startswith(_OURS) and tags.get(NOTE) != note:
        client.set_experiment_tag(experiment_id, NOTE, note)
    return address


def _table(parameters: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    objective = metrics[0]
    bounds = [name for name in metrics if name in (f"{objective}_low", f"{objective}_high")]
    texts = {
        "attributes.`Run Name`": "n" * 30,  # as wide as the name of a trial
        **{f"metrics.`{name}`": name for name in (objective, *bounds)},
        f"tags.`{STATE}`": STATE,
        **{f"params.`{name}`": name for name in parameters},
        **{f"metrics.`{name}`": name for name in metrics if name not in (objective, *bounds)},
    }
    return {
        "selectedColumns": list(texts)[1:],
        "columnOrder": list(texts),
        "columnWidths": {column: 40 + 6 * max(len(text), 8) for column, text in texts.items()},
    }


def _charts(parameters: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    objective = {"key": metrics[0], "type": "METRIC"}
    cards = [
        {**_card("PARALLEL", "fields"), "selectedParams": list(parameters), "selectedMetrics": [metrics[0]]},
        *(
            {**_card("SCATTER", "each", index), "xaxis": {"key": name, "type": "PARAM"}, "yaxis": objective}
            for index, name in enumerate(parameters)
        ),
        *(
            {**_card("LINE", "curves", index), "metricKey": name, "selectedMetricKeys": [name], "xAxisKey": "step"}
            for index, name in enumerate(name for name in metrics if name.startswith(_CURVE))
        ),
    ]
    cards[0]["showAllRuns"] = True
    titles = {"fields": "All fields together", "each": "Each field alone", "curves": "Curves"}
    sections = [
        {"uuid": uuid, "name": title, "display": True, "isReordered": True, "columns": 1 if uuid == "fields" else 3}
        for uuid, title in titles.items()
    ]
    return {
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": cards,
        "compareRunSections": sections,
        "isAccordionReordered": True,
    }


def _card(kind: str, section: str, index: int = 0) -> dict[str, Any]:
    """What each chart has, whatever its kind."""
    return {
        "type": kind,
        "uuid": f"{section}-{index}",
        "metricSectionId": section,
        "runsCountToCompare": 100,
        "deleted": False,
        "isGenerated": False,
    }
