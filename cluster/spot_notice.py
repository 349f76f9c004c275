"""Tells Ray that AWS takes this spot machine away in two minutes, so that training saves and leaves it before.

Run       python cluster/spot_notice.py        on each worker, in the background: gpu.yaml does
Ends      once Ray knows; on a machine that is not spot, never
Needs     RAY_ADDRESS, the head of the cluster, and RAY_AUTH_MODE where Ray asks for a token
"""

import argparse
import json
import logging
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

log = logging.getLogger("spot_notice")

METADATA = "http://169.254.169.254"
"""Every EC2 machine finds its own metadata service there."""
TOKEN_SECONDS = 6 * 3600
"""The longest that AWS gives a token for."""
ANSWER_SECONDS = 2.0
NOT_FOUND = 404
"""The answer while nobody wants the machine back."""


def main() -> None:
    """Asks until there is a notice, then tells Ray until it is accepted."""
    what, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=what, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--metadata", default=METADATA, help="the metadata service (%(default)s)")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between questions; AWS advises %(default)s")
    flags = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    while (ends := taken_at(flags.metadata)) is None:
        time.sleep(flags.every)
    log.info("AWS takes this machine away at %s", ends.isoformat())
    while not drained(ends):
        time.sleep(flags.every)


def taken_at(metadata: str) -> datetime | None:
    """When AWS takes the machine away; None where it has not said so, or does not answer."""
    try:
        # A token for each question: no clock of our own decides when an old one ends.
        ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
        token = _asked(Request(f"{metadata}/latest/api/token", headers=ttl, method="PUT"))
        header = {"X-aws-ec2-metadata-token": token}
        notice = _asked(Request(f"{metadata}/latest/meta-data/spot/instance-action", headers=header))
    except HTTPError as error:
        if error.code != NOT_FOUND:
            log.warning("The metadata service answers %s", error)
        return None
    except (URLError, OSError) as error:
        log.warning("The metadata service does not answer: %s", error)
        return None
    return datetime.fromisoformat(json.loads(notice)["time"])


def drained(ends: datetime) -> bool:
    """Whether Ray accepts that its node on this machine ends then; Ray says why not."""
    seconds = max(0, int((ends - datetime.now(UTC)).total_seconds()))
    code = subprocess.run(drain_command(seconds), check=False).returncode
    log.info("ray drain-node, %d s before the end: code %d", seconds, code)
    return code == 0


def drain_command(seconds: int) -> list[str]:
    """Of Ray's, for its node on this machine."""
    return [
        *(str(Path(sys.executable).with_name("ray")), "drain-node"),
        *("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "AWS takes the spot machine away"),
        *("--deadline-remaining-seconds", str(seconds)),
    ]


def _asked(request: Request) -> str:
    with urlopen(request, timeout=ANSWER_SECONDS) as answer:
        return answer.read().decode()


if __name__ == "__main__":
    main()
