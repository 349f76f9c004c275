"""The code of a registered model, which MLflow copies beside the weights and runs on loading: nothing is unpickled.

The work is done by the installed package, in the version that the model's requirements name; see prediction_rows.py for
what may be handed over and what comes back.
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from slowfast_ray.running import prediction_rows
from slowfast_ray.running.predicting import Predictor


class ThermalModel(PythonModel):
    """A network in MLflow's own form."""

    predictor: Predictor

    def load_context(self, context: PythonModelContext) -> None:
        """Reads the model folder among the artifacts. Raises ValueError where it cannot be read."""
        self.predictor = Predictor.load(Path(context.artifacts["model"]))

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]: the base has no result
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """What prediction_rows.of says of `model_input`; its errors as INVALID_PARAMETER_VALUE, which a scoring server
        answers as 400, with the reason.

        The annotation is for MLflow, which tries to check all others: mappings, tables and paths are as welcome.
        """
        try:
            return prediction_rows.of(self.predictor, model_input, is_served=is_served())
        except (ValueError, OSError) as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


def is_served() -> bool:
    """Whether this process answers requests from a network: MLflow's scoring server says so, and others by being
    loaded.
    """
    return os.environ.get("_MLFLOW_IS_IN_SERVING_ENVIRONMENT") == "true" or any(
        name in sys.modules for name in ("mlflow.pyfunc.scoring_server.app", "mlserver")
    )


set_model(ThermalModel())
