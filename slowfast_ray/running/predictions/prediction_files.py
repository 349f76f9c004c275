"""The table of all predictions as one file, and a strip picture of each recording, in a new folder.

CSV holds probabilities with six digits, and lists as JSON text: ["standing", "walking"]. Parquet holds all as it is.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from slowfast_ray.data import recordings
from slowfast_ray.running.predictions import prediction_pictures
from slowfast_ray.running.predictions.prediction_plan import Plan
from slowfast_ray.running.predictions.prediction_run import Done

Format = Literal["csv", "parquet"]
TABLE = "predictions"
"""Name of the table's file, without its suffix."""


def write_table(plan: Plan, found: Sequence[Done], form: Format) -> Path | None:
    """Writes one table of what did not fail, in this order, and names the new file; None where all failed.

    Raises FileExistsError where it exists.
    """
    tables = [each.table for each in found if each.table is not None]
    if not tables:
        return None
    plan.out.mkdir(exist_ok=True)
    table = pd.concat(tables, ignore_index=True)
    path = plan.out / f"{TABLE}.{form}"
    with path.open("xb") as file:
        if form == "parquet":
            table.to_parquet(file, engine="pyarrow", index=False)
        else:
            table.assign(
                top3=table["top3"].map(_as_json),
                top3_probabilities=table["top3_probabilities"].map(lambda each: _as_json([round(p, 6) for p in each])),
            ).to_csv(file, index=False, float_format="%.6f")
    return path


def draw(plan: Plan, done: Done) -> Path:
    """Draws the strip of a recording that did not fail into the plan's folder, and names the new file."""
    assert done.table is not None, "what failed is not drawn"
    plan.out.mkdir(exist_ok=True)
    path = plan.out / f"{done.path.stem}.png"
    recording = recordings.read(done.path)
    prediction_pictures.strip(
        done.table, recording, plan.description.classes, plan.experiment.data, path, done.truths, done.is_right
    )
    return path


def _as_json(values: list[str] | list[float]) -> str:
    return json.dumps(values, ensure_ascii=False)
