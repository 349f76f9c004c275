"""How trials share machines, by counts alone."""

import pytest

from slowfast_ray.experiment import Experiment
from slowfast_ray.run_config import RunConfig
from slowfast_ray.running.flags import TrainFlags, TuneFlags
from slowfast_ray.running.nodes.slots import Machine, Machines, Slots, share
from slowfast_ray.running.refusals import RefusedError

CPUS = Machines((Machine(2, 0),))
NODE = Machine(32, 4)
HEAD = Machine(0, 0)


def slots_on(machines: Machines, max_concurrent: int | None = None, **run: float) -> tuple[int, int, float]:
    """Trials at once, CPUs and GPUs of a worker."""
    found = share(RunConfig(**run), machines, max_concurrent)  # pyright: ignore[reportArgumentType]
    return found.num_concurrent(machines), found.cpus_per_worker, found.gpus_per_worker


@pytest.mark.parametrize(
    ("machines", "max_concurrent", "run", "expected"),
    [
        (CPUS, None, {}, (2, 1, 0)),
        (CPUS, 1, {}, (1, 2, 0)),
        (CPUS, None, {"num_workers": 2}, (1, 1, 0)),
        (Machines((Machine(64, 0),)), None, {}, (4, 16, 0)),
        (Machines((Machine(4, 0),) * 6), None, {}, (6, 4, 0)),
        (Machines((Machine(8, 1),)), None, {}, (1, 7, 1)),
        (Machines((HEAD, NODE, NODE)), None, {}, (8, 7, 1)),
        (Machines((HEAD, NODE, NODE)), None, {"gpus_per_worker": 0.5}, (16, 3, 0.5)),
        (Machines((HEAD, NODE, NODE)), None, {"gpus_per_worker": 0.4}, (16, 3, 0.4)),
        (Machines((HEAD, NODE, NODE)), None, {"gpus_per_worker": 0}, (4, 16, 0)),
        (Machines((HEAD, NODE, NODE)), None, {"num_workers": 4}, (2, 7, 1)),
        (Machines((HEAD, NODE, NODE)), None, {"num_workers": 3}, (2, 7, 1)),
        (Machines((HEAD, NODE, NODE)), None, {"num_workers": 8}, (1, 7, 1)),
        (Machines((HEAD, Machine(8, 1), Machine(16, 4))), None, {}, (5, 3, 1)),
        (Machines((Machine(8, 4),)), None, {}, (4, 2, 1)),  # with so few, none is spared
        (Machines((Machine(2, 4),)), None, {}, (2, 1, 1)),
        (Machines((HEAD, NODE, NODE)), None, {"cpus_per_worker": 16}, (4, 16, 1)),
        (Machines((Machine(8, 1),)), None, {"cpus_per_worker": 8}, (1, 8, 1)),
        (Machines((Machine(64, 0),)), None, {"cpus_per_worker": 2}, (4, 2, 0)),
    ],
)
def test_machines_are_shared(
    machines: Machines, max_concurrent: int | None, run: dict[str, float], expected: tuple[int, int, float]
) -> None:
    assert slots_on(machines, max_concurrent, **run) == expected


@pytest.mark.parametrize("max_concurrent", [1, 4, 8])
def test_few_trials_leave_the_cpus_of_the_other_gpus_to_other_jobs(max_concurrent: int) -> None:
    machine = Machine(64, 8)
    found = share(RunConfig(), Machines((machine,)), max_concurrent)
    left = Machine(machine.cpus - max_concurrent * found.cpus_per_worker, machine.gpus - max_concurrent)
    assert found.cpus_per_worker == 7
    assert found.num_fitting((left,)) == 8 - max_concurrent


def test_a_machine_full_of_trials_has_a_cpu_for_what_serves_a_model() -> None:
    for machine in (Machine(8, 1), NODE, Machine(64, 8)):
        found = share(RunConfig(), Machines((machine,)), None)
        assert found.num_fitting((machine,)) == machine.gpus
        assert machine.cpus - machine.gpus * found.cpus_per_worker >= 1, machine


def test_where_nobody_knows_what_comes_a_machine_that_runs_or_the_user_says_how_many_cpus() -> None:
    pod = Machine(7, 1)
    begins = Machines((HEAD,), can_grow=True)
    assert share(RunConfig(gpus_per_worker=1), begins, 8).cpus_per_worker == 1
    assert share(RunConfig(), Machines((HEAD, pod), can_grow=True), 8).cpus_per_worker == 6
    assert share(RunConfig(gpus_per_worker=1, cpus_per_worker=7), begins, 8).cpus_per_worker == 7
    told = share(RunConfig(gpus_per_worker=1, cpus_per_worker=7), begins, 8)
    assert told.num_fitting((HEAD, pod, pod)) == 2


def test_trials_are_asked_for_as_many_as_the_cluster_may_hold() -> None:
    grown = (HEAD, *[Machine(8, 1)] * 8)
    begins = Machines((HEAD,), grown, can_grow=True)
    assert slots_on(begins) == (8, 7, 1)
    assert slots_on(begins, 3) == (3, 7, 1)
    found = share(RunConfig(), begins, None)
    assert found.num_concurrent(Machines(grown[:4], grown, can_grow=True)) == 8
    assert "8 trial(s) at once, 8 of them once machines have started" in found.described(begins)


def test_where_nobody_knows_how_far_it_grows_one_more_is_asked_for() -> None:
    unknown = Machines((HEAD,), can_grow=True)
    found = share(RunConfig(gpus_per_worker=1), unknown, None)
    assert found.num_concurrent(unknown) == 1
    assert found.num_concurrent(Machines((HEAD, Machine(8, 1)), can_grow=True)) == 2
    told = share(RunConfig(gpus_per_worker=1), unknown, 6)
    assert told.num_concurrent(unknown) == 6


def test_concurrency_follows_machines_that_come_and_go() -> None:
    found = share(RunConfig(), Machines((NODE, NODE)), None)
    assert [found.num_concurrent(Machines((NODE,) * num)) for num in (1, 2, 3, 0)] == [4, 8, 12, 0]


@pytest.mark.parametrize(
    ("machines", "max_concurrent", "run", "law"),
    [
        (CPUS, None, {"num_workers": 3}, r"`run.num_workers` \(=3\) needs 3 CPU cores for a trial.* 2 CPUs.*try 2\."),
        (CPUS, 3, {}, r"`search.max_concurrent` \(=3\) with .* needs 3 CPU cores.*try 2\."),
        (CPUS, None, {"gpus_per_worker": 1}, r"`run.gpus_per_worker` \(=1\) needs a GPU, but there is none"),
        (Machines((NODE,)), None, {"num_workers": 5}, r"needs 5 GPUs and as many CPU cores for a trial.*try 4\."),
        (
            Machines((HEAD,), (HEAD, NODE), can_grow=True),
            None,
            {"num_workers": 5},
            r"needs 5 GPUs.*1 machine\(s\) with 0 CPUs and 0 GPUs, up to 2 as trials wait for them; try 4\.",
        ),
        (
            CPUS,
            None,
            {"cpus_per_worker": 3},
            r"`run.cpus_per_worker` \(=3\) needs so many.*one machine, but.*try 2,",
        ),
        (
            Machines((NODE, Machine(64, 0))),
            None,
            {"cpus_per_worker": 33},
            r"`run.cpus_per_worker` \(=33\) needs so many CPU cores on one machine with a GPU,.*try 32, or leave",
        ),
        (Machines((NODE,)), 4, {"cpus_per_worker": 16}, r"needs 4 GPUs and 64 CPU cores, but.*try 2\."),
        (CPUS, None, {"num_workers": 2, "cpus_per_worker": 2}, r"\(=2\) needs 4 CPU cores for a trial.*try 1\."),
        (Machines((NODE,)), 9, {"gpus_per_worker": 0.5}, r"needs 4\.5 GPUs and 9 CPU cores, but.*try 8\."),
    ],
)
def test_what_does_not_fit_is_refused(
    machines: Machines, max_concurrent: int | None, run: dict[str, float], law: str
) -> None:
    with pytest.raises(RefusedError, match=law):
        slots_on(machines, max_concurrent, **run)


def test_a_fraction_of_a_gpu_is_for_one_worker() -> None:
    with pytest.raises(ValueError, match="NCCL"):
        RunConfig(gpus_per_worker=0.5, num_workers=2)
    with pytest.raises(ValueError, match="one GPU; for more"):
        RunConfig(gpus_per_worker=2)
    assert RunConfig(gpus_per_worker=0.25).num_devices == 0.25
    assert RunConfig(num_workers=3).num_devices == 3


def test_the_cpus_of_a_worker_are_given_where_there_are_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"`run.cpus_per_worker` \(=0\) must be 1 or more"):
        RunConfig(cpus_per_worker=0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ValueError, match=r"`run.cpus_per_worker` \(=4\) has no effect, since one worker"):
        TrainFlags(experiment=Experiment(run=RunConfig(cpus_per_worker=4)))
    for run in (RunConfig(cpus_per_worker=4, num_workers=2), RunConfig(cpus_per_worker=4, address="auto")):
        assert TrainFlags(experiment=Experiment(run=run)).experiment.run == run
    assert TuneFlags(experiment=Experiment(run=RunConfig(cpus_per_worker=4))), "its trials are Ray's always"


def test_ray_is_asked_for_what_a_worker_gets() -> None:
    assert Slots(2, 4, 0.5, None).resources() == {"CPU": 4, "GPU": 0.5}


def test_where_nobody_knows_of_gpus_they_must_be_asked_for() -> None:
    with pytest.raises(RefusedError, match=r"`run.gpus_per_worker` .* must be given"):
        share(RunConfig(), Machines((HEAD,), can_grow=True), None)
