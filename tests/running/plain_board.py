"""A board of jobs that need nothing, for tests of what runs them."""

from slowfast_ray.experiment import Experiment
from slowfast_ray.running.training.boards import Job
from slowfast_ray.running.training.worker import Row


class PlainBoard:
    """So many jobs, one after the other; remembers what it is told."""

    def __init__(self, num_jobs: int = 0) -> None:
        self._left = [f"job-{number}" for number in reversed(range(num_jobs))]
        self.ends: list[str | None] = []
        """The verdict of each that ended, and the error of each that died."""
        self.retries: list[str] = []
        self.halted = ""

    def next(self) -> Job | None:
        """The next one."""
        return Job(self._left.pop(), Experiment()) if self._left else None

    def row(self, name: str, row: Row) -> bool:
        """Stops none."""
        return False

    def ended(self, name: str, verdict: str | None, reason: str) -> None:
        """Remembers it."""
        self.ends.append(verdict)

    def died(self, name: str, error: str) -> None:
        """Remembers it."""
        self.ends.append(error)

    def retried(self, name: str, error: str) -> Experiment:
        """Remembers it."""
        self.retries.append(error)
        return Experiment()

    def restarted(self, name: str, error: str) -> None:
        """Needs nothing."""

    def halt(self, reason: str) -> None:
        """Remembers the first reason."""
        self.halted = self.halted or reason

    def is_over(self) -> bool:
        """Whether it is halted."""
        return bool(self.halted)
