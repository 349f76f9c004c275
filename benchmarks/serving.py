"""How fast does Ray Serve answer, and what do batches give?

Starts one Ray Serve on this machine with the same network twice, with batches and without, a replica each, and asks
both in turns, in one run, so that a noisy machine hits both alike. A sensor keeps one connection open and sends a clip
of 64 frames of 40 x 60 pixels; its request is encoded beforehand. Loads: one sensor, which asks again when it has its
answer; 16 sensors that send a clip a second each, out of step; 16 sensors that ask again at once. The floor is the
network in this process, without a server. The network is the laptop preset's, freshly built: time does not depend on
weights.

Run       python benchmarks/serving.py
Cost      5 minutes on two cores
Expected  a server adds a few ms to the network for .npy, and more for JSON; with 16 sensors that ask at once, batches
          give more clips a second than one clip at a time
"""

import dataclasses
import http.client
import io
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import rich
import torch
import tyro
from rich.table import Table
from safetensors.torch import save_file
from trainings import machine

from slowfast_ray.experiment import LAPTOP, Experiment
from slowfast_ray.model import slowfast
from slowfast_ray.running.folders import begun
from slowfast_ray.running.predicting import Predictor
from slowfast_ray.running.predictions.serving_requests import NPY
from slowfast_ray.running.publishing import model_folder
from slowfast_ray.running.publishing.latency import Latency
from slowfast_ray.running.publishing.model_folder import Description

NUM_FRAMES, HEIGHT, WIDTH = 64, 40, 60
"""Of a clip: 32 frames, every second."""
NUM_CLASSES = 8
SECONDS_TO_START = 180
WAYS = {"batches of 16": {}, "one at a time": {"max_batch_size": 1, "batch_wait_timeout_s": 0.0}}
"""What differs from the defaults of serving.Settings."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """How long is measured."""

    sensors: int = 16
    """At once [count]."""

    seconds: float = 8.0
    """Of each load, in each turn [s]."""

    turns: int = 2
    """Of every way under every load [count]."""


@dataclass
class Measured:
    """Answers to one load in one way."""

    seconds: list[float] = field(default_factory=list)
    spent: float = 0.0
    num_clips: int = 0
    num_batches: int = 0


def write_model(folder: Path, experiment: Experiment) -> None:
    """A model folder with fresh weights."""
    folder.mkdir()
    described = Description(tuple(f"class {k}" for k in range(NUM_CLASSES)), HEIGHT, WIDTH, "nothing")
    (folder / model_folder.MODEL).write_text(json.dumps(dataclasses.asdict(described)))
    (folder / begun.BEGUN_AS).write_text(experiment.to_json())
    save_file(slowfast.build(experiment.model).state_dict(), folder / model_folder.WEIGHTS)


@contextmanager
def served(model: Path, folder: Path) -> Iterator[int]:
    """The port of a Ray Serve of our own, with an application for each of WAYS under its number."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    applications = [
        {
            "name": str(i),
            "route_prefix": f"/{i}",
            "import_path": "slowfast_ray.running.predictions.serving:application",
            "args": {"model": str(model), **settings},
            "deployments": [{"name": "ModelServer", "ray_actor_options": {"num_cpus": 1}}],
        }
        for i, settings in enumerate(WAYS.values())
    ]
    http = {"host": "127.0.0.1", "port": port}
    config = {"proxy_location": "HeadOnly", "http_options": http, "applications": applications}
    (folder / "serve.json").write_text(json.dumps(config))  # JSON is YAML
    command = [str(Path(sys.executable).with_name("serve")), "run", str(folder / "serve.json")]
    own = {
        "RAY_ADDRESS": "local",
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONWARNINGS": "ignore",
    }
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while not all(is_ready(port, i) for i in range(len(WAYS))):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit((folder / "log.txt").read_text())
            time.sleep(0.5)
        yield port
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)


def is_ready(port: int, way: int) -> bool:
    """Whether a way answers."""
    try:
        return "device" in health(port, way)
    except (OSError, ValueError):
        return False


def health(port: int, way: int) -> dict[str, Any]:
    """What its replica says of itself."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", f"/{way}/health")
    return json.load(connection.getresponse())


def sensor(port: int, way: int, request: tuple[bytes, str], until: float, first: float, every: float) -> list[float]:
    """The times that a sensor's answers took [s]: its first request at `first`, others `every` seconds, or at once."""
    connection, found, due = http.client.HTTPConnection("127.0.0.1", port, timeout=60), [], first
    while (now := time.perf_counter()) < until:
        if due > now:
            time.sleep(due - now)
            continue
        connection.request("POST", f"/{way}/predict", request[0], {"Content-Type": request[1]})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise SystemExit(body.decode())
        ended = time.perf_counter()
        # From when it was due: a server that is late with one answer is late with the next one as well.
        found.append(ended - (due if every else now))
        due += every
    return found


def load(port: int, way: int, request: tuple[bytes, str], flags: Flags, num: int, every: float, to: Measured) -> None:
    """One turn of `num` sensors."""
    before, begun_at = health(port, way), time.perf_counter() + 0.1
    until = begun_at + flags.seconds
    with ThreadPoolExecutor(num) as threads:
        sensors = [
            threads.submit(sensor, port, way, request, until, begun_at + i * every / num, every) for i in range(num)
        ]
        to.seconds += [each for one in sensors for each in one.result()]
    to.spent += time.perf_counter() - begun_at
    after = health(port, way)
    to.num_clips += after["num_clips"] - before["num_clips"]
    to.num_batches += after["num_batches"] - before["num_batches"]


def floor(predictor: Predictor, clip_THW: np.ndarray, flags: Flags, to: Measured) -> None:
    """One turn of the network in this process."""
    until = time.perf_counter() + flags.seconds
    while (now := time.perf_counter()) < until:
        predictor.of_clips(clip_THW[None])
        to.seconds.append(time.perf_counter() - now)
    to.spent = sum(to.seconds)
    to.num_clips = to.num_batches = len(to.seconds)


def measure(flags: Flags) -> dict[tuple[str, str, str], Measured]:
    """By load, body and way."""
    experiment = LAPTOP.override({"model.num_classes": NUM_CLASSES})
    clip_THW = (10 + 25 * np.random.default_rng(0).random((NUM_FRAMES, HEIGHT, WIDTH))).astype(np.float32).round(1)
    file = io.BytesIO()
    np.save(file, clip_THW)
    as_json = json.dumps({"frames": clip_THW.astype(np.float64).round(1).tolist()}).encode()
    bodies = {".npy": (file.getvalue(), NPY), "JSON": (as_json, "application/json")}
    loads = {
        "1 sensor": (1, 0.0),
        f"{flags.sensors} sensors, 1 clip/s": (flags.sensors, 1.0),
        f"{flags.sensors} sensors, at once": (flags.sensors, 0.0),
    }
    found = {("no server", "", "in Python"): Measured()}
    found |= {(load, body, way): Measured() for load in loads for body in bodies for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="serve-", dir="/tmp", ignore_cleanup_errors=True) as name:
        write_model(Path(name) / "model", experiment)
        predictor = Predictor.load(Path(name) / "model")
        predictor.of_clips(clip_THW[None])
        with served(Path(name) / "model", Path(name)) as port:
            for way in range(len(WAYS)):
                for request in bodies.values():
                    sensor(port, way, request, time.perf_counter() + 2, 0.0, 0.0)
            for _ in range(flags.turns):
                floor(predictor, clip_THW, flags, found["no server", "", "in Python"])
                for kind, (num, every) in loads.items():
                    for body, request in bodies.items():
                        for i, way in enumerate(WAYS):
                            load(port, i, request, flags, num, every, found[kind, body, way])
    return found


def main() -> None:
    """Measures and prints one table."""
    flags = tyro.cli(Flags, description=__doc__)
    torch.set_num_threads(1)  # as a replica with one CPU has
    before = os.getloadavg()[0]
    found = measure(flags)
    table = Table(title="Time to answer a clip, laptop preset, Ray Serve")
    for column in ("load", "body", "way", "p50 ms", "p95 ms", "n", "clips/s", "clips a batch"):
        table.add_column(column, justify="left" if column in ("load", "body", "way") else "right")
    for (kind, body, way), each in found.items():
        latency = Latency(np.array(each.seconds))
        table.add_row(
            *(kind, body, way, f"{latency.p50_ms:.1f}", f"{latency.p95_ms:.1f}", str(latency.num_calls)),
            *(f"{latency.num_calls / each.spent:.1f}", f"{each.num_clips / each.num_batches:.1f}"),
        )
        rich.print(table)
    print(
        f"{flags.turns} turns of {flags.seconds:g} s each; n answers. "
        f"A clip: {NUM_FRAMES} frames of {HEIGHT} x {WIDTH}.\n"
        "One replica a way, one thread each; client, proxy and replicas share the cores.\n"
        f"Load of the machine before it began: {before:.1f}. Python {platform.python_version()}, "
        f"ray {version('ray')}, at {time.strftime('%H:%M')};\n"
        f"{machine()}"
    )


if __name__ == "__main__":
    main()
