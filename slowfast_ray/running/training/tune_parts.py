"""What Ray Tune asks, beside its trials: which one is next, whether one stops, what became of it. A board answers."""

import logging
import math
import re
import time
from collections import Counter, defaultdict, deque
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.result import NODE_IP
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher as TuneSearcher
from ray.util.placement_group import PlacementGroup, remove_placement_group

from slowfast_ray.experiment import Experiment
from slowfast_ray.running.nodes import machines
from slowfast_ray.running.nodes.slots import Machine, Slots
from slowfast_ray.running.training import deaths, worker
from slowfast_ray.running.training.boards import EXPERIMENT, GIVE_UP, NAME, REASON, VERDICT, Board, Job
from slowfast_ray.running.training.group import PLACEMENT_GROUP
from slowfast_ray.running.training.pulse import HUNG, Watch
from slowfast_ray.running.training.room import Room
from slowfast_ray.running.training.worker import Row

log = logging.getLogger(__name__)

MAX_LOST = 100
"""Machines and processes that a trial may lose, after which it counts as one that brings them down."""
MAX_STILLBORN = 3
"""Jobs that raise before their first epoch, one after the other on one machine where no other gets on: a fault of the
machine, the data or the program."""
SECONDS_BETWEEN_COUNTS = 2.0
"""Machines come and go within minutes, and asking takes milliseconds."""
_HEADING = re.compile(r"^Failure # \d+ \(occurred at .*\)$", re.MULTILINE)
"""Of each failure, in a trial's file of errors."""
SECONDS_UNTIL_FREED = 2.0
"""A stopped worker group's controller needs a moment to die before its resources can be taken from it."""


class InDriver:
    """Tune pickles its parts beside its own state, which nobody reads; the board and its connections stay here."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Source(InDriver, TuneSearcher):
    """Hands a trial to Tune where there is a slot for it, or where one shall come."""

    def __init__(self, board: Board, slots: Slots) -> None:
        super().__init__()
        self._board, self._slots = board, slots
        self._num_running = 0
        self._num_slots, self._counted_at = 0, -math.inf
        self._seen: set[Machine] = set()
        self._again: deque[Job] = deque()

    def set_search_properties(self, *args: Any, **spec: Any) -> bool:
        """Whatever Tune says of the metric: the board has its own."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next job; None where it has to wait for a slot."""
        if self._num_running >= self._slots_now():
            return None
        job = self._again.popleft() if self._again else self._board.next()
        if job is None:
            # Who has said that there is no more is not asked again, and one that runs may have to be handed out anew.
            return None if self._num_running else TuneSearcher.FINISHED
        self._num_running += 1
        return {NAME: job.name, EXPERIMENT: job.experiment.flatten()}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """The watcher tells the board."""
        self._num_running -= 1

    def hand_out_again(self, job: Job) -> None:
        """Before any other: Tune has given it up, and nothing was wrong with it."""
        self._again.append(job)

    def waiting_for(self) -> str:
        """What each trial asks for, where any is handed out; empty where none is."""
        return self._slots.of_a_trial() if self._num_running else ""

    def _slots_now(self) -> int:
        """As the machines are now; Ray is asked every few seconds."""
        if time.monotonic() - self._counted_at > SECONDS_BETWEEN_COUNTS:
            found = machines.joined()
            self._num_slots = self._slots.num_concurrent(found)
            self._counted_at = time.monotonic()
            for machine in set(found.now) - self._seen:
                self._seen.add(machine)
                if self._slots.lacks_cpus(machine):
                    log.warning(
                        "A machine with %s trains nothing, since each worker asks for %s; --run.cpus-per-worker %d "
                        "would fit, also with --resume.",
                        *(machine, self._slots.of_a_worker(), machine.cpus),
                    )
        return self._num_slots

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the board's study is on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing is restored from Tune's notes."""


class Referee(InDriver, FIFOScheduler):
    """Stops a trial where the board says so."""

    def __init__(self, board: Board) -> None:
        super().__init__()
        self._board = board

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: Row) -> str:
        """Each row goes to the board."""
        if VERDICT in result or worker.EPOCH not in result:
            return TrialScheduler.CONTINUE
        row = {name: value for name, value in result.items() if not name.startswith("config/")}
        is_stopped = self._board.row(trial.config[NAME], row)
        return TrialScheduler.STOP if is_stopped else TrialScheduler.CONTINUE


class Watcher(InDriver, tune.Callback):
    """Tells the board how trials end, and takes care of what they leave."""

    def __init__(self, board: Board, source: Source, watch: Watch, search: str, max_failures: int) -> None:
        self._board, self._source, self._watch = board, source, watch
        self._search, self._max_failures = search, max_failures
        self._num_failures: Counter[str] = Counter()
        self._groups: dict[str, str] = {}
        self._to_free: list[tuple[float, str]] = []
        self._begun: set[str] = set()
        """Trials whose process has taken them on, in this try."""
        self._with_epoch: set[str] = set()
        """Trials that have told of an epoch."""
        self._stillborn: defaultdict[str, list[str]] = defaultdict(list)
        """By the address of a machine: jobs that raised before their first epoch, time and again, since an epoch was
        last done there. All of them together, and those of which it is not known, since one was last done anywhere."""
        self._room = Room()

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any) -> None:
        """Its process has taken it on."""
        self._begun.add(trial.trial_id)

    def on_trial_result(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: Row, **_: Any) -> None:
        """Notes what a worker group holds, and that a trial got as far as an epoch."""
        if worker.EPOCH in result:
            self._with_epoch.add(trial.trial_id)
            for machine in ("", result[NODE_IP]):
                self._stillborn.pop(machine, None)
        if result.get(PLACEMENT_GROUP):
            self._groups[trial.trial_id] = result[PLACEMENT_GROUP]

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any) -> None:
        """It ended, or was stopped."""
        self._free(trial)
        last = trial.last_result or {}
        self._board.ended(trial.config[NAME], last.get(VERDICT), last.get(REASON, ""))

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any) -> None:
        """It raised, or died, too often. Or a process that is used again was dead before it came to it: where Tune
        hears of that death twice, it gives up what it has just put back.
        """
        self._free(trial)
        name = trial.config[NAME]
        if trial.trial_id not in self._begun and trial.should_recover():
            log.info("%s goes to another process.", name)
            self._source.hand_out_again(Job(name, Experiment().override(trial.config[EXPERIMENT])))
        else:
            self._board.died(name, self._error_of(trial))

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any) -> None:
        """It raised, or died, and is tried again, unless it has done so too often; a lost machine does not count, nor a
        process that it never had. Tune's own limit counts them all, and cannot be asked later.
        """
        self._free(trial)
        name, error = trial.config[NAME], self._error_of(trial)
        if trial.trial_id not in self._begun:
            error = f"{deaths.UNBEGUN}: {error}"
        self._begun.discard(trial.trial_id)
        if not deaths.is_lost(error):
            self._num_failures[name] += 1
        # The same dict is handed to the process that tries again.
        if self._num_failures[name] > self._max_failures:
            trial.config[GIVE_UP] = error
            if trial.trial_id not in self._with_epoch and deaths.is_raised(error):
                self._note_stillborn(name, error)
            return
        trial.config[EXPERIMENT] = self._board.retried(name, error).flatten()

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Tells the board of groups that started again, and frees what stopped ones still hold: without the dashboard
        Ray Train never does.
        """
        for run, error in self._watch.restarts():
            self._board.restarted(run.removeprefix(f"{self._search}/"), error)
        self._room.look(self._source.waiting_for())
        while self._to_free and time.monotonic() - self._to_free[0][0] > SECONDS_UNTIL_FREED:
            _, held = self._to_free.pop(0)
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(held)))

    def free_the_rest(self) -> None:
        """After the last step: whatever runs next on this Ray needs what the last ones held."""
        self._to_free += [(time.monotonic(), held) for held in self._groups.values()]
        self._groups.clear()
        while self._to_free:
            time.sleep(0.1)
            self.on_step_end(0, [])

    def _note_stillborn(self, name: str, error: str) -> None:
        """Where one after the other ends so, it is no trial's fault, and all that are left would."""
        # Until one has got so far anywhere, the fault may be that of the data or the program, on all machines.
        stillborn = self._stillborn[deaths.machine_of(error) if self._with_epoch else ""]
        stillborn.append(name)
        if len(stillborn) == MAX_STILLBORN:
            names = ", ".join(stillborn)
            self._board.halt(f"{names} raised before their first epoch, the last one: {deaths.reason_of(error)}")

    def _error_of(self, trial: TuneTrial) -> str:
        path = trial.error_file
        text = Path(path).read_text(encoding="utf-8") if path and Path(path).exists() else ""
        text = _HEADING.split(text)[-1]  # Tune keeps those of earlier tries above
        hung = self._watch.why(f"{self._search}/{trial.config[NAME]}")
        return f"{HUNG}: {hung}" if hung else text.strip() or "the process died"

    def _free(self, trial: TuneTrial) -> None:
        held = self._groups.pop(trial.trial_id, None)
        if held is not None:
            self._to_free.append((time.monotonic(), held))


class Halt(InDriver, tune.Stopper):
    """Stops everything once the board is over."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def __call__(self, trial_id: str, result: Row) -> bool:
        """No trial alone."""
        return False

    def stop_all(self) -> bool:
        """Asked after every row."""
        return self._board.is_over()
