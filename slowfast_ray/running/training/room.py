"""Says when trials or workers wait for room on the cluster: Tune and Ray Train do so for ever without a word."""

import logging
import math
import time

import ray

from slowfast_ray.running.nodes import machines
from slowfast_ray.running.nodes.slots import Machine

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 2.0
"""Asking takes milliseconds."""
SECONDS_UNTIL_TOLD = 60.0
"""With room for it a training begins within seconds, unless a machine has to be started."""


class Room:
    """That of one search or one run on the connected Ray."""

    def __init__(self) -> None:
        self._looked_at, self._had_some_at = -math.inf, math.inf
        self._is_told = False
        """That there is none, since there last was."""

    def look(self, asked: str) -> None:
        """Warns once where there has been none for a while, until there is some again.

        `asked` is what each training asks for, in words; empty where none is asked for.
        """
        now = time.monotonic()
        if now - self._looked_at < SECONDS_BETWEEN_LOOKS:
            return
        self._looked_at = now
        self._had_some_at = min(now, self._had_some_at)  # waiting begins with the first look
        if not asked or machines.are_held():
            self._had_some_at, self._is_told = now, False
        elif now - self._had_some_at > SECONDS_UNTIL_TOLD and not self._is_told:
            self._is_told = True
            free = ray.available_resources()
            log.warning(
                "Nothing has had room to train for %.0f s: it asks for %s, and the cluster has %s free. Another job "
                "may hold the rest (ray status shows it), or machines have still to start; it begins once there is "
                "room.",
                *(now - self._had_some_at, asked, Machine(free.get("CPU", 0), free.get("GPU", 0))),
            )
