"""A model folder in MLflow's own form: models from code, so that nothing in it is pickled.

MLmodel, requirements.txt, ...    what MLflow wants to know of it
tracking_pyfunc.py                the code, copied from beside this file
artifacts/model/                  the model folder
artifacts/evidence/               what the model is judged by
input_example.json                one clip of two tiny frames
"""

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import pyfunc
from mlflow.entities import LoggedModel
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array, Map

from slowfast_ray.running.publishing import model_folder
from slowfast_ray.running.tracking.tracking_models import EVIDENCE, MODEL

_CODE = Path(__file__).with_name("tracking_pyfunc.py")
_PACKAGES = ("slowfast-ray", "mlflow", "torch", "pytorchvideo", "numpy", "scipy", "pandas", "h5py", "safetensors")
"""Whose code computes an answer, so that other versions might answer otherwise."""
_SIGNATURE = ModelSignature(
    # Without a schema of the input: MLflow enforces one, and none lets arrays, mappings and paths through. The model
    # checks what it is given, and says what is wrong with it.
    outputs=Schema(
        [
            ColSpec(DataType.string, "class"),
            ColSpec(DataType.double, "probability"),
            ColSpec(Array(DataType.string), "top3"),
            ColSpec(Array(DataType.double), "top3_probabilities"),
            ColSpec(Map(DataType.double), "probabilities"),
            ColSpec(DataType.string, "note"),
        ]
    )
)
_INPUTS = {
    "frames": "degrees Celsius, floats [clips, frames, height, width]; alone as an array, or by this name in a mapping",
    "timestamps": "milliseconds, [clips, frames]; for a model that goes by the clock",
    "boxes": "centre x, y, width, height as fractions of the frame, [clips, 4], or one for each frame, "
    "[clips, frames, 4]; for a model that looks at people",
    "path or paths": "of recordings, instead of all these; not where the model is served",
}


def save(path: Path, model: Path, evidence: Path, logged: LoggedModel) -> None:
    """Writes the new folder `path`, from a model folder and a folder with evidence, as what `logged` announced."""
    pyfunc.save_model(
        path=os.fspath(path),
        python_model=os.fspath(_CODE),
        artifacts={MODEL: os.fspath(model), EVIDENCE: os.fspath(evidence)},
        signature=_SIGNATURE,
        input_example=_example(model),
        # A build for an accelerator has a name of its own, +cu130, which registries do not know.
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in _PACKAGES],
        mlflow_model=Model(
            model_uuid=logged.model_id,
            run_id=logged.source_run_id,
            model_id=logged.model_id,
        ),
        metadata={"inputs": _INPUTS},
    )
    _without_paths(path)


def _without_paths(path: Path) -> None:
    """Takes out of MLmodel where the files lay on this machine, which loading does not need."""
    saved = Model.load(os.fspath(path))
    flavor = saved.flavors[pyfunc.FLAVOR_NAME]
    flavor["model_code_path"] = _CODE.name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    saved.save(os.fspath(path / MLMODEL_FILE_NAME))


def _example(model: Path) -> dict[str, Any]:
    """What this model needs for one clip."""
    _, experiment = model_folder.read(model)
    example: dict[str, Any] = {"frames": np.linspace(20, 30, 2 * 4 * 6, dtype=np.float32).reshape(1, 2, 4, 6)}
    if experiment.data.frame_interval_ms is not None:
        example["timestamps"] = np.array([[0, round(experiment.data.frame_interval_ms)]])
    if experiment.data.labels == "person":
        example["boxes"] = np.array([[0.5, 0.5, 0.2, 0.4]])
    return example
