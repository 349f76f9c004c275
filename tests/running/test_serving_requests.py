"""What Ray Serve is sent and started with, without a server: what a model needs, and the configuration file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from slowfast_ray.experiment import Experiment
from slowfast_ray.running.predicting import Predictor
from slowfast_ray.running.predictions import serving, serving_requests
from slowfast_ray.running.predictions.serving import Settings
from slowfast_ray.running.publishing import model_folder
from tests.running.conftest import ROOT
from tests.running.test_predicting import trained


def test_what_a_model_needs_is_asked_for(tiny: Experiment, tmp_path: Path) -> None:
    clip = {"frames": np.full((16, 40, 60), 20).tolist()}
    times, box = {"timestamps": [i * 170 for i in range(16)]}, {"box": [0.5, 0.5, 0.2, 0.4]}
    needs = {"data.frame_interval_ms": 170.0, "data.labels": "person"}
    newest, data = trained(tiny.override(needs), tmp_path)
    model_folder.write(tmp_path / "model", newest, data)
    predictor = Predictor.load(tmp_path / "model")

    def answer(content: Any) -> Any:
        return serving.answers(
            predictor, serving_requests.read(json.dumps(content).encode(), "application/json", predictor).clips
        )

    with pytest.raises(ValueError, match="`timestamps` is missing"):
        answer({**clip, **box})
    with pytest.raises(ValueError, match="Clip 1: `box` is missing"):
        answer([{**clip, **times, **box}, {**clip, **times}])
    whole = {**clip, **times, **box}
    still = {**whole, "box": [box["box"]] * 16}  # a box for each frame
    good, far, back, tilted, each = answer(
        [whole, {**whole, "box": [30, 20, 8, 9]}, {**whole, "timestamps": times["timestamps"][::-1]}, whole, still]
    )
    assert each["class"] == good["class"]
    assert each["probability"] == pytest.approx(good["probability"])
    with pytest.raises(ValueError, match="or these for each frame"):
        answer({**whole, "box": [box["box"]] * 15})
    assert good == tilted
    assert set(good["probabilities"]) == set(predictor.classes)
    assert "fractions of the frame" in str(far)
    assert "run backwards" in str(back)


def test_the_configuration_file_is_one_of_ray_serve() -> None:
    content = yaml.safe_load((ROOT / "cluster" / "serve.yaml").read_text())
    schema = ServeDeploySchema.model_validate(content)
    assert schema.http_options.host == "127.0.0.1"
    (app,) = schema.applications
    module, _, name = app.import_path.partition(":")
    assert (module, getattr(serving, name)) == (serving.__name__, serving.application)
    settings = Settings.model_validate(app.args)
    (deployment,) = app.deployments
    assert deployment.name == serving.ModelServer.name
    assert deployment.max_ongoing_requests >= 2 * settings.max_batch_size
    unknown = set(content) - set(ServeDeploySchema.model_fields)
    assert not unknown, "Ray Serve ignores words that it does not know"
    with pytest.raises(ValidationError, match="modle"):
        Settings.model_validate({"modle": "models:/a/1"})
