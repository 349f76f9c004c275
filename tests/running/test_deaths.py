"""Why a training died, by what Ray left of it, and as what it is tried again."""

import pytest

from slowfast_ray.experiment import LAPTOP
from slowfast_ray.running.training import deaths
from slowfast_ray.running.training.pulse import HUNG

KILLED = "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task."
LOST = f"{KILLED} The actor died because its node has died. Node Id: 5f"


@pytest.mark.parametrize(
    ("error", "reason", "is_lost", "micro_batch"),
    [
        (KILLED, "its process was killed, as a machine does that runs out of memory", False, 4),
        (LOST, "its machine went away", True, None),
        ("ActorUnavailableError: The actor is unavailable", "its machine went away", True, None),
        (
            "slowfast_ray.running.training.worker.PreemptedError: The machine is preempted; saved after step 3.",
            "its machine is called back, and it was saved",
            True,
            None,
        ),
        (f"{HUNG}: it hung for 15 min on gpu-3", "it hung for 15 min on gpu-3", False, None),
        (f"{deaths.UNBEGUN}: {KILLED}", "its process was dead before it began", True, None),
        ("torch.OutOfMemoryError: CUDA out of memory.", "it ran out of memory", False, 4),
        ("Traceback\n  File x\nKeyError: 'frames'", "KeyError: 'frames'", False, None),
    ],
)
def test_a_death_has_a_reason_and_a_next_try(error: str, reason: str, is_lost: bool, micro_batch: int | None) -> None:
    assert deaths.reason_of(error) == reason
    assert deaths.is_lost(error) == is_lost
    experiment = LAPTOP.override({"learning.batch_size": 8, "learning.micro_batch": None})
    again, said = deaths.after(error, experiment, [])
    assert again.learning.micro_batch == micro_batch
    assert bool(said) == (micro_batch is not None)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KILLED, False),
        (LOST, False),
        (f"{HUNG}: it hung for 15 min on gpu-3", False),
        (f"{deaths.UNBEGUN}: {KILLED}", False),
        ("torch.OutOfMemoryError: CUDA out of memory.", False),
        ("Traceback\n  File x\nKeyError: 'frames'", True),
    ],
)
def test_what_a_trial_raises_is_told_from_what_happens_to_it(error: str, expected: bool) -> None:
    assert deaths.is_raised(error) is expected


def test_the_machine_is_the_one_that_ray_names() -> None:
    error = "ray::ImplicitFunc.train() (pid=7, ip=10.0.0.2, actor_id=5f)\n  KeyError: 'frames'"
    assert deaths.machine_of(error) == "10.0.0.2"
    assert deaths.machine_of("KeyError: 'frames'") == ""
