"""What a driver gives to the workers of its runs."""

from dataclasses import dataclass
from typing import Any

from ray.actor import ActorHandle

from slowfast_ray.running.slots import Slots


@dataclass(frozen=True)
class Supplies:
    """Travels with the function that trains."""

    slots: Slots
    pulse: ActorHandle[Any]
    """Of pulse.Watch: hears that they get on."""
    readers: ActorHandle[Any] | None
    """Of node_frames.sharing."""
