"""Runs and datasets in S3: a real server on loopback, moto's. What is kept there is whole, or is not taken for it."""

import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from slowfast_ray.data import dataset, remote, source
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint, checksums
from slowfast_ray.running import preflight
from slowfast_ray.running.folders import mirror, sending
from slowfast_ray.running.folders.mirror import Mirror
from slowfast_ray.running.folders.sending import Sender
from slowfast_ray.running.refusals import RefusedError
from slowfast_ray.running.training import trainer, worker
from tests.running import s3_server
from tests.running.s3_server import S3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3_server.started(tmp_path_factory.mktemp("moto")) as started:
        yield started


@pytest.fixture
def s3(server: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3:
    """This process can reach it, and has a cache of its own."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return server


@pytest.fixture
def url(s3: S3, tmp_path: Path) -> str:
    """A place that no other test uses."""
    return f"s3://{s3.bucket}/{tmp_path.name}"


def write(home: Mirror, epoch: int, text: str) -> None:
    folder = home.folder / f"epoch-{epoch:03d}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("weights.safetensors", "training.pt", "progress.json"):
        (folder / name).write_text(f"{name} {text}")
    checksums.write(folder)


def sign(home: Mirror, driver: str, *, ended: bool) -> None:
    """What a driver on another machine says of itself at the URL."""
    said = {"id": driver, "host": "there", "beats": 3, "ended": ended}
    (home.folder / sending.DRIVER).write_text(json.dumps(said))
    home.send(sending.DRIVER)


def files_in(folder: Path) -> set[str]:
    return {
        each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file() and each.name != ".lock"
    }


def test_checkpoints_there_are_those_here(s3: S3, url: str, tmp_path: Path) -> None:
    home = mirror.of(url, "search/trial-000", "worker")
    prefix = f"{tmp_path.name}/search/trial-000"
    assert home.url == f"{url}/search/trial-000"
    assert not home.exists()
    for epoch in (1, 2):
        write(home, epoch, "first")
    home.send_checkpoints(is_last=False)
    assert s3.names(prefix) == files_in(home.folder)
    shutil.rmtree(home.folder / "epoch-001")
    write(home, 3, "first")
    write(home, 2, "again")
    home.send_checkpoints(is_last=False)
    assert s3.names(prefix) == files_in(home.folder)
    assert home.read("epoch-002/training.pt") == b"training.pt again"


def test_another_machine_brings_what_is_whole(s3: S3, url: str, tmp_path: Path) -> None:
    here, there = mirror.of(url, "run", "worker"), Mirror(tmp_path / "other", f"{url}/run")
    for epoch in (1, 2):
        write(here, epoch, "first")
    here.send_checkpoints(is_last=False)
    here.remove("epoch-002/checksums.json")  # as if its upload had been cut off
    there.bring_checkpoints()
    assert {name.split("/")[0] for name in files_in(there.folder)} == {"epoch-001"}
    assert files_in(there.folder / "epoch-001") == files_in(here.folder / "epoch-001")


def test_what_is_measured_comes_without_weights_and_they_come_later(s3: S3, url: str, tmp_path: Path) -> None:
    here, there = mirror.of(url, "run", "worker"), Mirror(tmp_path / "other", f"{url}/run")
    write(here, 1, "first")
    here.send_checkpoints(is_last=False)
    there.bring_checkpoints(without=checkpoint.HEAVY)
    assert files_in(there.folder) == {"epoch-001/progress.json", "epoch-001/checksums.json"}
    there.bring_checkpoints()
    assert files_in(there.folder) == files_in(here.folder)


def test_a_stale_copy_of_an_earlier_try_is_replaced_and_a_newer_one_kept(s3: S3, url: str, tmp_path: Path) -> None:
    first, second = mirror.of(url, "run", "worker"), Mirror(tmp_path / "other", f"{url}/run")
    write(first, 1, "first")
    first.send_checkpoints(is_last=False)
    write(first, 2, "never sent")
    first.bring_checkpoints()  # the storage was away when it was written
    assert files_in(first.folder / "epoch-002")
    second.bring_checkpoints()
    for epoch in (2, 3):
        write(second, epoch, "second")
    second.send_checkpoints(is_last=False)
    first.bring_checkpoints()
    assert files_in(first.folder) == files_in(second.folder)
    assert (first.folder / "epoch-002" / "training.pt").read_text() == "training.pt second"


def test_a_storage_that_is_away_stops_no_training_and_gets_all_later(
    s3: S3, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = mirror.of(url, "run", "worker")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    write(home, 1, "first")
    home.send_checkpoints(is_last=False)
    assert "stays in" in caplog.text
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.environment["AWS_ENDPOINT_URL"])
    write(home, 2, "second")
    home.send_checkpoints(is_last=True)
    assert s3.names(f"{tmp_path.name}/run") == files_in(home.folder)


@pytest.mark.slow
def test_the_last_checkpoint_is_an_error_where_it_can_not_be_kept(
    s3: S3, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = mirror.of(url, "run", "worker")
    write(home, 1, "first")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(mirror, "NUM_TRIES", 2)
    monkeypatch.setattr(mirror, "SECONDS_BETWEEN_TRIES", 0.1)
    with pytest.raises(ValueError, match=r"cannot be reached: .*NETWORK_CONNECTION"):
        home.send_checkpoints(is_last=True)


@pytest.mark.parametrize(
    ("wrong", "law"),
    [
        ("ftp://host/runs", "must be a folder, or begin with s3:// or gs://"),
        ("s3://", "names no bucket"),
        ("s3://KEY:SECRET@bucket/runs", "must hold no keys"),
        ("s3://no-such-bucket/runs", "NO_SUCH_BUCKET.*check its name"),
    ],
)
def test_a_storage_that_is_none_is_refused_before_anything_starts(
    s3: S3, tiny: Experiment, wrong: str, law: str
) -> None:
    with pytest.raises(ValueError, match=law):
        preflight.check(tiny.override({"run.storage": wrong}), name="run", objective="val/top1")


def test_a_wrong_key_is_said_before_anything_starts(
    tmp_path: Path, tiny: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INITIAL_NO_AUTH_ACTION_COUNT", "1")  # from the second request on, moto looks at keys
    with s3_server.started(tmp_path) as strict:
        for name, value in strict.environment.items():
            monkeypatch.setenv(name, value)
        for setting in ("run.storage", "data.root"):
            with pytest.raises(
                ValueError, match=rf"`{setting}` \(=s3://bucket/x.*\) cannot be reached: .*check the cred"
            ):
                preflight.check(tiny.override({setting: "s3://bucket/x"}), name="run", objective="val/top1")


def test_a_dataset_is_fetched_once_and_again_what_changed(
    s3: S3, url: str, tmp_path: Path, made_up_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    copy = tmp_path / "copy"
    shutil.copytree(made_up_root, copy)
    s3.upload(copy, f"{tmp_path.name}/data")
    folder = remote.fetched_dataset(f"{url}/data")
    assert folder == source.locate(f"{url}/data")
    assert source.read(folder).fingerprint == source.read(made_up_root).fingerprint
    num_files = caplog.text.count("Fetched ")
    assert num_files == len(files_in(made_up_root))
    assert remote.fetched_dataset(f"{url}/data") == folder
    assert caplog.text.count("Fetched ") == num_files

    recording = next((copy / "frames").iterdir())
    time.sleep(1)  # S3 counts seconds
    s3.client().upload_file(str(recording), s3.bucket, f"{tmp_path.name}/data/frames/{recording.name}")
    (folder / "annotations" / "val.json").write_text("{}")  # torn
    remote.fetched_dataset(f"{url}/data/")
    assert caplog.text.count("Fetched ") == num_files + 2


def test_a_url_without_a_dataset_is_refused(s3: S3, url: str) -> None:
    with pytest.raises(ValueError, match="must hold frames/ and annotations/, but holds neither"):
        source.locate(f"{url}/nothing")


def test_a_run_goes_on_on_a_machine_that_never_saw_it(
    s3: S3, url: str, tmp_path: Path, tiny: Experiment, made_up_root: Path
) -> None:
    s3.upload(made_up_root, f"{tmp_path.name}/data")
    two = tiny.override({"learning.num_epochs": 2, "run.storage": f"{url}/runs", "data.root": f"{url}/data"})
    epochs: list[int] = []

    def stop_after_one(row: worker.Row) -> None:
        epochs.append(row[worker.EPOCH])
        raise KeyboardInterrupt

    ready = preflight.check(two, name="run", objective="val/top1")
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(ready, "val/top1", on_row=stop_after_one)
    with pytest.raises(ValueError, match=r"s3://.*/runs/run exists, and nothing is overwritten"):
        preflight.check(two, name="run", objective="val/top1")
    shutil.rmtree(tmp_path / "cache")  # the machine is lost
    dataset.load.cache_clear()

    again = preflight.check(two, name="run", objective="val/top1", resume=True)
    outcome = trainer.fit(again, "val/top1", resume=True, on_row=lambda row: epochs.append(row[worker.EPOCH]))
    assert epochs == [1, 2]
    assert outcome.row[worker.CHECKPOINT].startswith(f"{url}/runs/run/epoch-")
    names = s3.names(f"{tmp_path.name}/runs/run")
    assert {"experiment.json", "identity", "split.json", "log.txt", "epoch-002/weights.safetensors"} <= names
    text = again.home.read("log.txt").decode()
    assert "Epoch 1 of 2" in text
    assert "Epoch 2 of 2" in text


def test_a_driver_keeps_its_files_there_while_it_writes_them(s3: S3, url: str, tmp_path: Path) -> None:
    home = mirror.of(url, "search", "driver")
    home.folder.mkdir(parents=True)
    with sqlite3.connect(home.folder / "study.db") as database:
        database.execute("CREATE TABLE trials (number INTEGER)")
    (home.folder / "trial-000" / "epoch-001").mkdir(parents=True)
    (home.folder / "trial-000" / "epoch-001" / "progress.json").write_text("a worker's own")
    (home.folder / "search.lock").write_text("")
    with Sender(home) as sender:
        database.execute("INSERT INTO trials VALUES (7)")
        database.commit()
        (home.folder / "tracking-1.jsonl").write_text("entry\n")
        sender.flush()
        other = Mirror(tmp_path / "other", home.url)
        sending.bring(other)
        assert files_in(other.folder) == {"study.db"}  # what only grows goes once a minute
        with sqlite3.connect(other.folder / "study.db") as copy:
            assert copy.execute("SELECT number FROM trials").fetchall() == [(7,)]
        assert not json.loads(home.read("driver.json"))["ended"]
        (home.folder / "tracking-1.jsonl").write_text("entry\nanother\n")
    database.close()
    assert home.read("tracking-1.jsonl") == b"entry\nanother\n"
    assert json.loads(home.read("driver.json"))["ended"]


def test_a_second_driver_is_refused_while_the_first_lives(
    s3: S3, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "SECONDS_BETWEEN_SENDS", 0.2)
    home = mirror.of(url, "search", "driver")
    home.folder.mkdir(parents=True)
    other = Mirror(tmp_path / "other", home.url)
    sending.wait_until_alone(other)  # nobody has begun
    with Sender(home), pytest.raises(RefusedError, match="is driven by another process"):
        sending.wait_until_alone(other)
    sending.wait_until_alone(other)  # it has ended
    killed = Mirror(tmp_path / "killed", home.url)
    killed.folder.mkdir()
    sign(killed, "killed", ended=False)
    monkeypatch.setattr(sending, "SECONDS_OF_SILENCE", 2.0)
    started = time.monotonic()
    sending.wait_until_alone(other)
    assert time.monotonic() - started >= 2.0


def test_a_driver_that_was_taken_for_gone_ends_and_sends_nothing_more(
    s3: S3, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "SECONDS_BETWEEN_SENDS", 0.2)
    home, other = mirror.of(url, "search", "driver"), Mirror(tmp_path / "other", f"{url}/search")
    for each in (home, other):
        each.folder.mkdir(parents=True)
        (each.folder / "search.json").write_text(str(each.folder))

    def drive() -> None:
        with Sender(home) as sender:
            try:
                until = time.monotonic() + 60
                while time.monotonic() < until:  # a beat that was on its way may come after its sign
                    sign(other, "other", ended=False)
                    time.sleep(0.1)
            except KeyboardInterrupt:
                seen.append("interrupted")
            sign(other, "other", ended=False)  # the last one may have been cut off
            other.send("search.json")
            (home.folder / "search.json").write_text("what the first one goes on writing")
            try:
                sender.flush()
            except ValueError as error:
                seen.append(str(error))

    seen: list[str] = []
    with pytest.raises(RefusedError, match="driven by another process now, on there"):
        drive()
    assert seen == ["interrupted", f"{home.url} is driven by another process, on there."]
    assert home.read("search.json").decode() == str(other.folder)
    assert json.loads(home.read("driver.json"))["id"] == "other"


def test_a_driver_that_goes_on_while_the_storage_stumbles_is_not_taken_for_another(
    s3: S3, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "SECONDS_BETWEEN_TRIES", 0.0)
    home, former = mirror.of(url, "search", "driver"), Mirror(tmp_path / "former", f"{url}/search")
    for each in (home, former):
        each.folder.mkdir(parents=True)
    sign(former, "former", ended=True)
    send, fails = Mirror.send, [True]

    def stumble(self: Mirror, *names: str) -> None:
        if names == ("driver.json",) and fails:
            fails.pop()
            raise ValueError("the storage is away")
        send(self, *names)

    monkeypatch.setattr(Mirror, "send", stumble)
    with Sender(home):
        assert json.loads(home.read("driver.json"))["beats"] == 1
    assert not fails


def test_a_driver_is_there_while_it_sends_for_long(
    s3: S3, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "SECONDS_BETWEEN_SENDS", 0.1)
    home = mirror.of(url, "search", "driver")
    home.folder.mkdir(parents=True)
    (home.folder / "search.json").write_text("begun")
    send, beats = Mirror.send, []

    def beats_now() -> int:
        return json.loads(home.read("driver.json"))["beats"]

    def slowly(self: Mirror, *names: str) -> None:
        if names == ("search.json",):
            until, before = time.monotonic() + 60, beats_now()
            while beats_now() < before + 3:
                assert time.monotonic() < until, "no beat came meanwhile"
                time.sleep(0.1)
            beats.append(beats_now())
        send(self, *names)

    monkeypatch.setattr(Mirror, "send", slowly)
    with Sender(home):
        (home.folder / "search.json").write_text("ended")
    assert len(beats) == 2, "while it sent what it began with, and what it ended with"


def test_what_a_driver_could_not_send_stays_here(s3: S3, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "SECONDS_BETWEEN_TRIES", 0.0)
    home = mirror.of(url, "search", "driver")
    home.folder.mkdir(parents=True)
    send = Mirror.send

    def fail(self: Mirror, *names: str) -> None:
        if names != ("driver.json",):
            raise ValueError("the storage is away")
        send(self, *names)

    with Sender(home):
        pass
    (home.folder / "study.json").write_text("newer than what is there")
    monkeypatch.setattr(Mirror, "send", fail)
    with pytest.raises(ValueError, match="is away"):
        Sender(home).__enter__()
    monkeypatch.setattr(Mirror, "send", send)
    sending.bring(home)
    assert (home.folder / "study.json").read_text() == "newer than what is there"


def test_what_a_deleted_run_of_that_name_left_on_a_worker_is_not_taken(s3: S3, url: str) -> None:
    earlier, now = (mirror.of(url, "search/trial-000", f"worker/{identity}") for identity in ("earlier", "now"))
    write(earlier, 7, "trained long ago, and deleted at the URL since")
    now.bring_checkpoints()
    assert not files_in(now.folder)


def test_a_run_that_began_elsewhere_in_the_meantime_is_not_taken_over(
    s3: S3, url: str, tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = tiny.override({"run.storage": url})
    here = preflight.check(experiment, name="run", objective="val/top1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache of another machine"))
    there = preflight.check(experiment, name="run", objective="val/top1")
    preflight.claim(there)
    with Sender(there.home), pytest.raises(RefusedError, match="taken by another run just now"):
        preflight.claim(here)
    assert not here.folder.exists()


def test_whoever_waits_for_a_storage_sees_that_it_gets_on(s3: S3, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    home = replace(mirror.of(url, "run", "worker"), on_progress=lambda: heard.append("beat"))
    write(home, 1, "first")
    home.send_checkpoints(is_last=False)
    assert len(heard) == len(files_in(home.folder)) == 4
    monkeypatch.setattr(mirror, "SECONDS_BETWEEN_TRIES", 0.0)
    away = replace(home, url="s3://no-such-bucket/run")
    with pytest.raises(ValueError, match="no-such-bucket"):
        away.send_checkpoints(is_last=True)
    assert len(heard) == 4 + mirror.NUM_TRIES - 1


def test_a_run_is_fetched_whole_and_nothing_is_overwritten(
    s3: S3, url: str, tmp_path: Path, call_script: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    home = mirror.of(url, "run", "worker")
    write(home, 1, "first")
    home.send_checkpoints(is_last=False)
    target = tmp_path / "fetched"
    call_script("fetch_thermal", f"{url}/run", str(target))
    assert files_in(target) == files_in(home.folder)
    assert "4 files" in capsys.readouterr().out
    for arguments, law in (
        ((f"{url}/run", str(target)), "exists, and nothing is overwritten"),
        ((f"{url}/none", str(tmp_path / "new")), "holds nothing"),
        ((str(target), str(tmp_path / "new")), "is a folder already"),
        ((f"{url}/run", str(tmp_path / "a" / "b")), "lies in no folder"),
    ):
        with pytest.raises(SystemExit) as ended:
            call_script("fetch_thermal", *arguments)
        assert ended.value.code == 2
        assert law in capsys.readouterr().err.replace("\n", " ")


def test_the_cache_of_a_url_has_its_own_folder() -> None:
    first, second = (remote.cache_of(url, "datasets") for url in ("s3://bucket/a b", "s3://bucket/a-b"))
    assert first != second
    assert first.name.startswith("bucket-a-b-")


def test_a_folder_is_mirrored_nowhere(tmp_path: Path) -> None:
    home = mirror.of(str(tmp_path), "run", "worker")
    assert home == mirror.of(str(tmp_path), "run", "driver") == Mirror(tmp_path / "run")
    write(home, 1, "first")
    home.send_checkpoints(is_last=True)
    home.bring_checkpoints()
    home.remove("epoch-001/training.pt")
    assert (home.folder / "epoch-001" / "training.pt").is_file()
    with Sender(home) as sender:
        sender.flush()
    assert not (home.folder / "driver.json").exists()
