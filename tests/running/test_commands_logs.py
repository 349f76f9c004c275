"""What a terminal shows of the log without --verbose."""

import subprocess
import sys

SCRIPT = """
import logging
from slowfast_ray.data.long_work import SHOWN
from slowfast_ray.running import commands
commands.quiet_logs(verbose=False)
log = logging.getLogger("slowfast_ray.data.remote")
log.info("a note")
log.info("what people wait for", extra=SHOWN)
log.warning("a warning")
logging.getLogger("another.library").warning("its own")
"""


def test_warnings_and_what_people_wait_for() -> None:
    said = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True).stderr
    assert [line.split(": ", 1)[1] for line in said.splitlines()] == ["what people wait for", "a warning"]
