"""convert_weights.py as its users call it, and fetching from a real server: interrupted, wrong, gone."""

import hashlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from slowfast_ray.model import pretrained, slowfast
from slowfast_ray.model.config import ModelConfig
from slowfast_ray.running import fetching

SMALL = ModelConfig(width=0.125, channels=3, alpha=4, lateral_kernel=7, slow_frames="linspace", num_classes=3)

Convert = Callable[..., str]


@pytest.fixture
def convert(call_script: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> Convert:
    """What the script prints; for bad input, what it says before it ends with code 2."""

    def call(*words: object, fails: bool = False) -> str:
        if not fails:
            call_script("convert_weights", *map(str, words))
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as end:
            call_script("convert_weights", *map(str, words))
        assert end.value.code == 2
        return " ".join(capsys.readouterr().err.split())

    return call


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save({"model_state": slowfast.build(SMALL).state_dict()}, tmp_path / "hub.pyth")
    return tmp_path / "hub.pyth"


def test_a_file_becomes_one_of_ours(convert: Convert, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours.safetensors"
    text = convert(source, out)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    for words in ("hub.pyth: pytorchvideo", "width 0.125", "alpha 4", f"SHA-256 {digest}", f"Written: {out}"):
        assert words in text
    weights, own = pretrained.read(source), pretrained.read(out)
    assert own.model == SMALL
    assert all(torch.equal(value, own.state[key]) for key, value in weights.state.items())
    before = out.read_bytes()
    assert "exists already" in convert(source, out, fails=True)
    assert out.read_bytes() == before


def test_bad_input_is_one_error(convert: Convert, source: Path, tmp_path: Path) -> None:
    assert "Name IN and OUT; but got" in convert(source, fails=True)
    assert "Name OUT alone" in convert(source, tmp_path / "out", "--fetch", "slowfast_r50_8x8", fails=True)
    assert "cannot be read" in convert(tmp_path / "none", tmp_path / "out", fails=True)
    assert "does not exist; make it first" in convert(source, tmp_path / "no" / "out", fails=True)
    state = dict(torch.load(source)["model_state"])
    del state["blocks.1.multipathway_fusion.norm.bias"]
    torch.save(state, tmp_path / "lacks.pyth")
    assert "lacks blocks.1.multipathway_fusion.norm.bias" in convert(
        tmp_path / "lacks.pyth", tmp_path / "out", fails=True
    )
    assert not (tmp_path / "out").exists()


def test_the_name_of_a_file_of_the_zoo_holds_its_hash(convert: Convert, source: Path, tmp_path: Path) -> None:
    begin = hashlib.sha256(source.read_bytes()).hexdigest()[:8]
    right, wrong = (
        source.with_name(f"slowfast_r50_8xb8-4x16x1-256e_kinetics400-rgb_20220901-{digits}.pth")
        for digits in (begin, "701b0f6f")
    )
    for path in (right, wrong):
        path.write_bytes(source.read_bytes())
    assert "(its name says so)" in convert(right, tmp_path / "a")
    assert "its name says that it begins with 701b0f6f" in convert(wrong, tmp_path / "b", fails=True)
    assert not (tmp_path / "b").exists()


def test_a_date_is_no_hash() -> None:
    for name, digest in (
        ("slowfast_20220901-12345678.pth", "12345678"),
        ("slowfast_701b0f6f.pth", "701b0f6f"),
        ("epoch_20240131.pth", None),
        ("epoch_12.pth", None),
        ("SLOWFAST_8x8_R50.pyth", None),
    ):
        assert fetching.name_digest(Path(name)) == digest, name


def test_the_published_files_that_tell_their_hash() -> None:
    found = {name: fetching.name_digest(Path(address)) for name, address in fetching.ADDRESSES.items()}
    assert found == {"slowfast_r50_4x16": "701b0f6f", "slowfast_r50_8x8": None, "slowfast_r101_8x8": None}


# Fetching.

CONTENT = bytes(range(256)) * 4_000
RIGHT = f"weights_20220901-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


class Server(BaseHTTPRequestHandler):
    """Serves CONTENT under any name, with ranges; hangs up after `stop_after` bytes of an answer."""

    def __init__(self, seen: list[str], stops: list[int], *arguments: object, has_ranges: bool = True) -> None:
        self.seen, self.stops, self.has_ranges = seen, stops, has_ranges
        super().__init__(*arguments)  # pyright: ignore

    def do_GET(self) -> None:
        asked = self.headers.get("Range") if self.has_ranges else None
        self.seen.append(self.headers.get("Range") or "")
        found = re.fullmatch(r"bytes=(\d+)-", asked or "")
        start = int(found[1]) if found else 0
        if found and start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
            return
        self.send_response(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:][: self.stops.pop() if self.stops else None])

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class Running:
    def __init__(self, stops: list[int], **settings: bool) -> None:
        self.seen: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, self.seen, stops, **settings))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def serve() -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(stops: list[int] | None = None, **settings: bool) -> Running:
        started.append(Running(stops or [], **settings))
        return started[-1]

    yield start
    for each in started:
        each.server.shutdown()
        each.server.server_close()


def test_a_fetch_goes_on_where_it_was_interrupted(serve: Callable[..., Running], tmp_path: Path) -> None:
    running = serve([300_000])
    with pytest.raises(ValueError, match="300000 bytes have come, and are kept"):
        fetching.fetch(f"{running.address}/{RIGHT}", tmp_path)
    fetched = fetching.fetch(f"{running.address}/{RIGHT}", tmp_path)
    assert running.seen == ["", "bytes=300000-"]
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.remark == "its name says so"
    assert [each.name for each in tmp_path.iterdir()] == [RIGHT]
    assert fetching.fetch(f"{running.address}/{RIGHT}", tmp_path) == fetched
    assert len(running.seen) == 2, "what is there is not fetched again"


def test_a_server_without_ranges_sends_everything_again(serve: Callable[..., Running], tmp_path: Path) -> None:
    (tmp_path / f"{RIGHT}.part").write_bytes(b"another beginning")
    running = serve(has_ranges=False)
    assert fetching.fetch(f"{running.address}/{RIGHT}", tmp_path).path.read_bytes() == CONTENT


def test_a_part_that_was_whole_already(serve: Callable[..., Running], tmp_path: Path) -> None:
    (tmp_path / f"{RIGHT}.part").write_bytes(CONTENT)
    assert fetching.fetch(f"{serve().address}/{RIGHT}", tmp_path).path.read_bytes() == CONTENT


def test_a_part_of_something_longer(serve: Callable[..., Running], tmp_path: Path) -> None:
    (tmp_path / f"{RIGHT}.part").write_bytes(CONTENT + b"more")
    with pytest.raises(ValueError, match="is longer than what"):
        fetching.fetch(f"{serve().address}/{RIGHT}", tmp_path)


def test_a_wrong_hash_is_refused(serve: Callable[..., Running], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="its name says 00000000; it was removed"):
        fetching.fetch(f"{serve().address}/weights_20220901-00000000.pth", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_hash_that_nobody_publishes_is_noted_and_holds(serve: Callable[..., Running], tmp_path: Path) -> None:
    address = f"{serve().address}/SLOWFAST_8x8_R50.pyth"
    first = fetching.fetch(address, tmp_path)
    assert first.remark.startswith("nobody publishes it: noted in ")
    assert fetching.fetch(address, tmp_path).remark.startswith("as noted when it was first fetched")
    first.path.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match="remove both to fetch it again"):
        fetching.fetch(address, tmp_path)


def test_without_a_network(
    convert: Convert, serve: Callable[..., Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:  # bound, and nobody listens
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/{RIGHT}"
        monkeypatch.setitem(fetching.ADDRESSES, "slowfast_r50_4x16", address)
        monkeypatch.setattr(fetching, "cache", lambda: tmp_path / "cache")
        text = convert(tmp_path / "out", "--fetch", "slowfast_r50_4x16", fails=True)
    assert "Connection refused" in text
    assert "fetch it on another machine and name the file instead of --fetch" in text
    running = serve()
    monkeypatch.setitem(fetching.ADDRESSES, "slowfast_r50_4x16", f"{running.address}/{RIGHT}")
    # What comes is no checkpoint here; that it was fetched, checked and read is what is asked.
    assert "is no checkpoint" in convert(tmp_path / "out", "--fetch", "slowfast_r50_4x16", fails=True)
    assert (tmp_path / "cache" / RIGHT).exists()
