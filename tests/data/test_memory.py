"""How much memory there is: of the machine, or of the nearest control group that has less."""

from pathlib import Path

import pytest

from slowfast_ray.data import memory

MACHINE = 10**15
UNLIMITED_V1 = 9223372036854771712


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty /sys/fs/cgroup, of a machine with more memory than any."""
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_GROUPS_OF_PROCESS", tmp_path / "self")
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": MACHINE}[name])
    return tmp_path / "cgroup"


def write(path: Path, limit: int | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{limit}\n")


def test_the_least_of_nested_groups_counts(groups: Path) -> None:
    (groups.parent / "self").write_text("0::/system.slice/job_7/step_0/task_0\n")
    write(groups / "system.slice" / "memory.max", 900)
    write(groups / "system.slice" / "job_7" / "memory.max", 500)
    write(groups / "system.slice" / "job_7" / "step_0" / "memory.max", "max")
    write(groups / "system.slice" / "job_7" / "step_0" / "task_0" / "memory.max", 700)
    write(groups / "system.slice" / "job_8" / "memory.max", 1)  # of others
    assert memory.of_machine() == 500
    assert memory.budget_bytes(None) == 125
    write(groups / "system.slice" / "job_7" / "step_0" / "task_0" / "memory.max", 300)
    assert memory.of_machine() == 300


def test_groups_of_the_first_version_count_as_well(groups: Path) -> None:
    (groups.parent / "self").write_text("11:cpu,cpuacct:/slurm\n4:hugetlb,memory:/slurm/uid_1/job_7\n0::/\n")
    write(groups / "memory" / "memory.limit_in_bytes", UNLIMITED_V1)
    assert memory.of_machine() == MACHINE
    write(groups / "memory" / "slurm" / "uid_1" / "memory.limit_in_bytes", 600)
    write(groups / "memory" / "slurm" / "uid_1" / "job_7" / "memory.limit_in_bytes", UNLIMITED_V1)
    assert memory.of_machine() == 600


def test_a_container_that_is_told_the_machines_names_has_its_own_limit(groups: Path) -> None:
    (groups.parent / "self").write_text("4:memory:/docker/0ab2\n")
    write(groups / "memory" / "memory.limit_in_bytes", 400)
    assert memory.of_machine() == 400


def test_without_groups_all_memory_counts(groups: Path) -> None:
    assert memory.of_machine() == MACHINE
    (groups.parent / "self").write_text("0::/\n")
    assert memory.of_machine() == MACHINE
