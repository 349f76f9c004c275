"""How trials share machines: what each worker gets, and how many trials run at once, as machines come and go.

Counts only, of machines that are described; running/nodes/cluster.py asks Ray for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from slowfast_ray.run_config import RunConfig
from slowfast_ray.running.refusals import RefusedError

MAX_CPU_TRIALS = 4
"""Trials at once without a GPU, unless told otherwise or there are more machines: a searcher learns from finished
trials, so more of them at once means that each is chosen with less knowledge."""
SPARE_CPUS = 1
"""Of a machine with GPUs, for what runs beside its trials: a proxy that serves a model holds one, and next to trials
that ask for all of them it, or one of the trials, would wait for ever."""
FEW_CPUS = 2
"""A worker that gets no more than so many spares none."""
ENOUGH = 1e-6
"""Ray counts in ten-thousandths of a GPU."""


@dataclass(frozen=True)
class Machine:
    """What trials may use of a machine."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"


@dataclass(frozen=True)
class Machines:
    """Those of a cluster: there now, and to come."""

    now: tuple[Machine, ...]
    most: tuple[Machine, ...] = ()
    """At its largest, where that is known."""
    can_grow: bool = False
    """Whether machines are started as trials wait for them."""

    def __str__(self) -> str:
        together = Machine(sum(each.cpus for each in self.now), sum(each.gpus for each in self.now))
        grows = ""
        if self.can_grow:
            grows = (
                f", up to {len(self.most)} as trials wait for them" if self.most else ", more as trials wait for them"
            )
        return f"{len(self.now)} machine(s) with {together}{grows}"


@dataclass(frozen=True)
class Slots:
    """What each worker of a search gets, and how many trials share the machines."""

    num_workers: int
    """Of a trial."""
    cpus_per_worker: int
    gpus_per_worker: float
    max_concurrent: int | None
    """Trials at once, at most; None: what fits, and without GPUs no more than searchers like."""

    def num_fitting(self, machines: Sequence[Machine]) -> int:
        """Trials at once. The workers of a trial stay on one machine, unless no machine holds them all."""
        workers = [self._num_workers_on(each) for each in machines]
        if max(workers, default=0) >= self.num_workers:
            return sum(each // self.num_workers for each in workers)
        return sum(workers) // self.num_workers

    def num_concurrent(self, machines: Machines) -> int:
        """Trials that are run, or wait for machines to be started for them."""
        fitting = self.num_fitting(machines.now)
        if machines.can_grow:
            most = self.num_fitting(machines.most) if machines.most else self.max_concurrent or fitting + 1
            fitting = max(fitting, most)
        if self.max_concurrent is not None:
            return min(fitting, self.max_concurrent)
        return fitting if self.gpus_per_worker else min(fitting, _most_on_cpus(machines))

    def described(self, machines: Machines) -> str:
        """For a plan: 4 trials at once, each of 2 workers with 1 GPU and 4 CPU core(s), on one machine."""
        workers = [self._num_workers_on(each) for each in machines.most or machines.now]
        together = max(workers, default=0) >= self.num_workers
        where = "" if self.num_workers == 1 else ", on one machine" if together else ", over several machines"
        at_once = self.num_concurrent(machines)
        waiting = at_once - self.num_fitting(machines.now)
        waits = f", {waiting} of them once machines have started" if waiting > 0 else ""
        return f"{at_once} trial(s) at once{waits}; each of {self.of_a_trial()}{where}"

    def resources(self) -> dict[str, float]:
        """Of a worker, in Ray's words."""
        return {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker}

    def of_a_trial(self) -> str:
        """2 workers with 1 GPU and 4 CPU core(s)."""
        who = "a worker" if self.num_workers == 1 else f"{self.num_workers} workers"
        return f"{who} with {self.of_a_worker()}"

    def of_a_worker(self) -> str:
        """1 GPU and 4 CPU core(s)."""
        cores = f"{self.cpus_per_worker} CPU core(s)"
        return f"{self.gpus_per_worker:g} GPU and {cores}" if self.gpus_per_worker else cores

    def holds_worker(self, machine: Machine) -> bool:
        """Whether a machine has room for a worker, if nobody else takes it."""
        return self._num_workers_on(machine) >= 1

    def lacks_cpus(self, machine: Machine) -> bool:
        """Whether a machine that would train holds no worker, since it has too few CPUs."""
        has_gpus = not self.gpus_per_worker or machine.gpus >= 1
        return has_gpus and 1 <= machine.cpus < self.cpus_per_worker

    def share_of_cpus(self, machine: Machine) -> int:
        """Of a machine with GPUs, what each worker may have where all of them are taken [cores]."""
        num_workers = self._num_workers_by_gpus(machine)
        share = machine.cpus // num_workers
        if share > FEW_CPUS:
            share = (machine.cpus - SPARE_CPUS) // num_workers
        return max(1, int(share))

    def _num_workers_on(self, machine: Machine) -> int:
        by_cpus = int(machine.cpus // self.cpus_per_worker)
        return min(by_cpus, self._num_workers_by_gpus(machine)) if self.gpus_per_worker else by_cpus

    def _num_workers_by_gpus(self, machine: Machine) -> int:
        # Several workers share whole GPUs only: 0.4 fits twice on each.
        on_each = int((1 + ENOUGH) // self.gpus_per_worker)
        return on_each * int(machine.gpus)


def share(run: RunConfig, machines: Machines, max_concurrent: int | None) -> Slots:
    """What each worker gets, so that as many trials as possible run at once, up to `max_concurrent`.

    Raises RefusedError where not even one fits, or fewer than `max_concurrent`, also when all machines have come.
    """
    reachable = machines.most if machines.can_grow and machines.most else machines.now
    is_unknown = machines.can_grow and not machines.most
    gpus = run.gpus_per_worker
    if gpus is None and is_unknown and not any(each.gpus >= 1 for each in machines.now):
        raise RefusedError(
            "`run.gpus_per_worker` (=None) must be given where the cluster has no GPU yet, and does not say "
            "whether it may have one: 1 for a GPU a worker, 0 for none."
        )
    if gpus is None:
        gpus = 1.0 if any(each.gpus >= 1 for each in reachable) else 0.0
    if gpus and not is_unknown and not any(each.gpus >= 1 for each in reachable):
        raise RefusedError(
            f"`run.gpus_per_worker` (={gpus:g}) needs a GPU, but there is none: {machines}; leave it out, "
            "or join a cluster that has one."
        )
    given = run.cpus_per_worker
    largest = int(max((each.cpus for each in reachable if each.gpus >= 1 or not gpus), default=0))
    if given is not None and 1 <= largest < given and not is_unknown:
        raise RefusedError(
            f"`run.cpus_per_worker` (={given}) needs so many CPU cores on one machine{' with a GPU' if gpus else ''}, "
            f"but {_described(machines)}; try {largest}, or leave it out for a share."
        )
    slots = Slots(run.num_workers, given or 1, gpus, max_concurrent)
    fitting = slots.num_fitting(reachable)
    if fitting < 1 and not is_unknown:
        raise RefusedError(_too_small(run, slots, machines, reachable))
    if max_concurrent is not None and max_concurrent > fitting and not is_unknown:
        raise RefusedError(
            f"`search.max_concurrent` (={max_concurrent}) with `run.num_workers` (={run.num_workers}) needs "
            f"{_needed(slots, max_concurrent)}, but {_described(machines)}; try {fitting}."
        )
    return slots if given is not None else replace(slots, cpus_per_worker=_cpus_of_a_worker(slots, machines, reachable))


def _cpus_of_a_worker(slots: Slots, machines: Machines, reachable: Sequence[Machine]) -> int:
    """A GPU's share of its machine, the smallest where they differ: however few trials there are, the other GPUs keep
    CPUs for other jobs. Without GPUs, as many as leave room for as many trials.
    """
    if slots.gpus_per_worker:
        return min((slots.share_of_cpus(each) for each in reachable if each.gpus >= 1 <= each.cpus), default=1)
    wanted = slots.num_concurrent(machines)
    most = int(max((each.cpus for each in reachable), default=1))
    for cpus in range(most, 1, -1):
        if replace(slots, cpus_per_worker=cpus).num_fitting(reachable) >= wanted > 0:
            return cpus
    return 1


def _most_on_cpus(machines: Machines) -> int:
    reachable = machines.most if machines.can_grow and machines.most else machines.now
    return max(MAX_CPU_TRIALS, sum(each.cpus > 0 for each in reachable))


def _needed(slots: Slots, num_trials: int) -> str:
    num_workers = num_trials * slots.num_workers
    num_gpus, num_cpus = num_workers * slots.gpus_per_worker, num_workers * slots.cpus_per_worker
    if num_gpus:
        return f"{num_gpus:g} GPUs and {'as many' if num_cpus == num_gpus else num_cpus} CPU cores"
    return f"{num_cpus} CPU cores"


def _described(machines: Machines) -> str:
    return f"there are {machines}"


def _too_small(run: RunConfig, slots: Slots, machines: Machines, reachable: Sequence[Machine]) -> str:
    alone = replace(slots, num_workers=1).num_fitting(reachable)
    remedy = f"try {alone}" if alone else "join a cluster that has them"
    return (
        f"`run.num_workers` (={run.num_workers}) needs {_needed(slots, 1)} for a trial, but {_described(machines)}; "
        f"{remedy}."
    )
