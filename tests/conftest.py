"""What the tests share: a small made-up dataset, the real one where it is at hand, and a Ray of their own."""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# One thread: sums in one order, so that runs compare bit by bit; torch reads it when it is loaded.
os.environ["OMP_NUM_THREADS"] = "1"

from slowfast_ray.data import synthetic
from slowfast_ray.experiment import LAPTOP, Experiment

CHROMIUM = Path("/usr/bin/chromium")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs first: at the end, one of them would keep a single process busy while the others have nothing left."""
    items.sort(key=lambda item: "running" not in item.path.parts)


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """The command line sets the level of the package's logs, for its own process."""
    level = logging.getLogger("slowfast_ray").level
    yield
    logging.getLogger("slowfast_ray").setLevel(level)


@pytest.fixture(scope="session")
def made_up_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up dataset of 2 sessions with 2 short recordings each."""
    root = tmp_path_factory.mktemp("data") / "made_up"
    synthetic.write(root, seed=3, num_recordings=2, num_frames=260)
    return root


@pytest.fixture(scope="session")
def real_root() -> Path:
    """The real thermal dataset; tests that need it are skipped without it."""
    folder = os.environ.get("THERMAL_ACTION_DATASET")
    if not folder:
        pytest.skip("the variable THERMAL_ACTION_DATASET names no dataset")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_in(made_up_root: Path) -> Callable[[Path], Experiment]:
    """The smallest experiment that trains, in a folder: width 1/8, 8 frames of 20 x 30 pixels, one epoch."""

    def make(folder: Path) -> Experiment:
        return LAPTOP.override(
            {
                "data.root": str(made_up_root),
                "data.clip_len": 8,
                "data.height": 20,
                "data.width": 30,
                "model.width": 0.125,
                "learning.num_epochs": 1,
                "learning.batch_size": 8,
                "run.storage": str(folder / "runs"),
                "run.tracking_uri": f"sqlite:///{folder}/mlflow.db",
            }
        )

    return make


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database that holds nothing yet. MLflow takes a second to make its tables, and a copy none."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    assert MlflowClient(f"sqlite:///{path}").search_runs(["0"]) == []
    return path


@pytest.fixture
def tiny(tiny_in: Callable[[Path], Experiment], tmp_path: Path, empty_store: Path) -> Experiment:
    """`tiny_in` this test's own folder, with an MLflow database that is there already."""
    shutil.copy(empty_store, tmp_path)
    return tiny_in(tmp_path)


@pytest.fixture(scope="session")
def own_ray_folder() -> Iterator[Path]:
    """A temporary folder with a short path: Ray's sockets have room for about 100 characters."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def own_ray(own_ray_folder: Path) -> Iterator[None]:
    """Ray on this machine, with 2 CPUs, its own temporary folder and no dashboard."""
    import ray

    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.25"
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=str(own_ray_folder / "session"),
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The machine's own Chromium; tests of pages are skipped without."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no Chromium at {CHROMIUM}")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"], timeout=120_000)
        yield opened
        opened.close()
