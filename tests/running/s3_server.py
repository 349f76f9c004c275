"""An S3 server on this machine's loopback, in a process of its own: moto's, with keys that count."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}


@dataclass
class S3:
    """A server with one bucket."""

    port: int
    bucket: str = "bucket"
    _process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in order to reach it."""
        endpoint = f"http://127.0.0.1:{self.port}"
        return {
            **KEYS,
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def pause(self) -> None:
        """It takes no request until `go_on`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def client(self):  # noqa: ANN201  (boto3 makes its classes as it runs)
        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )

    def names(self, prefix: str) -> set[str]:
        """Of the objects below a prefix."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{prefix}/")
        keys = [each["Key"] for page in pages for each in page.get("Contents", [])]
        return {key.removeprefix(f"{prefix}/") for key in keys if not key.endswith("/")}

    def upload(self, folder: Path, prefix: str) -> None:
        for file in folder.rglob("*"):
            if file.is_file():
                self.client().upload_file(str(file), self.bucket, f"{prefix}/{file.relative_to(folder).as_posix()}")


@contextmanager
def started(folder: Path) -> Iterator[S3]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "moto.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": "0"}
        )
    server = S3(port, _process=process)
    try:
        _wait_for(port, process)
        server.client().create_bucket(Bucket=server.bucket)
        yield server
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 600
    while True:
        assert process.poll() is None, "the server ended at once"
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.1)
