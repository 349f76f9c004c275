"""A registered model behind HTTP for many sensors: a Ray Serve deployment that computes their clips together.

    POST / or /predict   a clip, or a list of clips; see serving_requests.py for what may be sent
    GET  /health         which model answers, its classes, how many clips a batch held

cluster/serve.yaml starts it; docs/serving.md says how to ask, and what is refused.
"""

import asyncio
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application
from starlette.exceptions import HTTPException

from slowfast_ray.running import prediction_rows
from slowfast_ray.running.nodes import cluster
from slowfast_ray.running.predicting import Predictor
from slowfast_ray.running.predictions import serving_requests
from slowfast_ray.running.predictions.serving_requests import MAX_BODY_MB, Asked, Clip
from slowfast_ray.running.tracking import tracking, tracking_models

Row = dict[str, Any]
"""An answer, in the words of prediction_rows.of."""

web = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)


class Settings(BaseModel):
    """The `args` of the application in a configuration file of Ray Serve."""

    model_config = ConfigDict(extra="forbid")

    model: str
    """models:/NAME@ALIAS, models:/NAME/VERSION, or a model folder that every machine sees."""

    tracking_uri: str | None = None
    """MLflow store [URI]. None: as for runs. On several machines: a server."""

    max_batch_size: int = Field(default=16, ge=1)
    """Clips that are computed at once [count]: sixteen sensors that send a clip a second at the same moment."""

    batch_wait_timeout_s: float = Field(default=0.02, ge=0, le=1)
    """For how long the first clip of a batch waits for others [s]: a fifth of the time between two frames at 10 Hz, so
    that nobody sees it. What comes within it is computed at once: of 200 clips a second, four at a time."""


@web.exception_handler(HTTPException)
async def refusal(request: Request, error: HTTPException) -> JSONResponse:
    """Every refusal says why in `message`, as MLflow's scoring server does."""
    message = error.detail
    if error.status_code in (404, 405):
        message = f"There is no {request.method} {request.url.path}; POST clips to /, or GET /health."
    return JSONResponse({"message": message}, error.status_code, headers=error.headers)


def answers(predictor: Predictor, clips: list[Clip]) -> list[Row | Exception]:
    """For each clip, its row, or why there is none. Clips of one kind are computed at once."""
    kinds: dict[Any, list[int]] = {}
    for i, clip in enumerate(clips):
        kinds.setdefault(clip.kind, []).append(i)
    found: dict[int, Row | Exception] = {}
    for members in kinds.values():
        found.update(zip(members, _of_one_kind(predictor, [clips[i] for i in members]), strict=True))
    return [found[i] for i in range(len(clips))]


def _of_one_kind(predictor: Predictor, clips: list[Clip]) -> list[Row | Exception]:
    parts = {
        "frames": [each.frames_THW for each in clips],
        "timestamps": [each.times_T for each in clips if each.times_T is not None],
        "boxes": [each.box for each in clips if each.box is not None],
    }
    given = {name: np.stack(each) for name, each in parts.items() if each}
    try:
        return list[Row | Exception](prediction_rows.of(predictor, given, is_served=True).to_dict("records"))
    except Exception as error:  # whatever it is, it must not reach the sensors beside
        if len(clips) == 1:
            return [error]
        return [row for each in clips for row in _of_one_kind(predictor, [each])]


# Ray copies the routes while this module is being read: they see only what stands above them.
#
# Two batches: one is computed while the other one fills. What is more waits in the proxy, and 503 tells the sensors
# from the 256th on to try again: an answer that comes a minute late is worth nothing.
@serve.deployment(max_ongoing_requests=32, max_queued_requests=256)
@serve.ingress(web)
class ModelServer:
    """One network, loaded once a replica, on the replica's GPU where it has one."""

    def __init__(self, settings: Settings) -> None:
        self._uri = settings.model
        folder = tracking_models.fetch(settings.model, settings.tracking_uri)
        self._predictor = Predictor.load(folder, cluster.device_of_process())
        # Made here, and not by a decorator: the settings of a batch are known only now.
        self._batched = serve.batch(
            max_batch_size=settings.max_batch_size, batch_wait_timeout_s=settings.batch_wait_timeout_s
        )(self._compute)
        self._num_clips, self._num_batches = 0, 0

    @web.post("/")
    @web.post("/predict")
    async def predict(self, request: Request) -> JSONResponse:
        """A row for a clip, a list of rows for a list of clips; 400 and 413 with the reason."""
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY_MB * 2**20:
                raise HTTPException(413, f"A request holds {MAX_BODY_MB} MB or less; send fewer clips, or .npy.")
        try:
            kind = request.headers.get("content-type", "")
            asked = await asyncio.to_thread(serving_requests.read, bytes(body), kind, self._predictor)
            rows = await self._rows(asked)
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        return JSONResponse(rows if asked.is_list else rows[0])

    @web.get("/health")
    async def health(self) -> JSONResponse:
        """Which model answers, and what this replica has computed so far."""
        described = self._predictor.description
        name, _, version = self._uri.removeprefix("models:/").rpartition("/")
        is_registered = self._uri.startswith("models:/")
        return JSONResponse(
            {
                "model": name if is_registered else version,  # of a folder, its own name only
                "version": int(version) if is_registered else None,
                "classes": described.classes,
                "format_version": described.format_version,
                "trained_as": described.trained_as,
                "device": self._predictor.device.type,
                "num_clips": self._num_clips,
                "num_batches": self._num_batches,
            }
        )

    async def _rows(self, asked: Asked) -> list[Row]:
        """Raises ValueError for the first clip that the network refuses."""
        rows: list[Row] = []
        for number, found in enumerate(await asyncio.gather(*map(self._batched, asked.clips))):
            if isinstance(found, ValueError):
                raise ValueError(asked.place(number) + str(found)) from found
            if isinstance(found, Exception):
                raise found
            rows.append(found)
        return rows

    async def _compute(self, clips: list[Clip]) -> list[Row | Exception]:
        """The answers to a batch, in its order. In a thread: requests come in meanwhile, and form the next batch."""
        self._num_clips += len(clips)
        self._num_batches += 1
        return await asyncio.to_thread(answers, self._predictor, clips)


def application(settings: Settings) -> Application:
    """The application that a configuration file names: slowfast_ray.running.predictions.serving:application.

    An alias is looked up once, here: all replicas answer by one version, also those that are started after a promotion.
    Raises ValueError where the model leads nowhere, before any replica starts.
    """
    uri = tracking.resolve_uri(settings.tracking_uri)
    folder = tracking_models.fetch(settings.model, uri)
    is_registered = settings.model.startswith("models:/")
    model = tracking_models.find(settings.model, uri).uri if is_registered else str(folder.absolute())
    # The working folder of a replica is another one: what it is told is absolute.
    return ModelServer.bind(settings.model_copy(update={"model": model, "tracking_uri": uri}))
