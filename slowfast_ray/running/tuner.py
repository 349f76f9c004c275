"""search(): Ray Tune over the fields of an Experiment, every trial a real training, every trial in MLflow.

A trial of one worker trains in the trial's own process, which Tune uses again for the next one: torch is imported once.
A trial of several workers starts a Ray Train group. Early stopping compares trials by their own absolute epoch.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler

from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint, counts
from slowfast_ray.running import cluster, group, preflight, scores, search_space, worker
from slowfast_ray.running.cluster import Slots
from slowfast_ray.running.config import SearchConfig
from slowfast_ray.running.observer import Observer
from slowfast_ray.running.preflight import Ready
from slowfast_ray.running.progress import SearchView
from slowfast_ray.running.search_space import Space
from slowfast_ray.running.searcher import TRIAL, Searcher
from slowfast_ray.running.tracking import State, Tracker
from slowfast_ray.running.trials import SearchResult, trial_name
from slowfast_ray.running.worker import Place


def check(experiment: Experiment, space: Space, config: SearchConfig, *, name: str) -> Ready:
    """Everything that must hold before a search starts. Writes nothing; raises ValueError or OSError.

    Under the purged split all trials are given the widest window of the space, so that they train and validate on the
    same samples whatever their clips.
    """
    experiment = search_space.with_widest_window(space, experiment)
    search_space.check(space, experiment)
    cluster.check_fits(num_workers=experiment.run.num_workers, max_concurrent=config.max_concurrent)
    widest_window = search_space.widest_window(space, experiment)
    return preflight.check(experiment, name=name, objective=config.metric, widest_window=widest_window)


def search(ready: Ready, space: Space, config: SearchConfig, *, verbose: bool = False) -> SearchResult:
    """Searches; returns after the last trial, the end of the budget, or Ctrl-C. However it ends, MLflow says so."""
    experiment = ready.experiment
    num_workers = experiment.run.num_workers
    started = time.monotonic()
    with cluster.connected(num_workers=num_workers, verbose=verbose):
        slots = cluster.slots(num_workers=num_workers, max_concurrent=config.max_concurrent)
        assert experiment.run.tracking_uri is not None, "preflight resolved it"
        preflight.claim(ready)
        tracker = Tracker(experiment.run.tracking_uri)
        run_id = tracker.start(
            ready.name, experiment, ready.folder, tags={"slowfast_ray.metric": config.metric, **ready.tags()}
        )
        for name, text in ready.texts().items():
            tracker.log_text(run_id, text, name)
        view = SearchView(ready.name, config, experiment.learning.num_epochs)
        observer = Observer(tracker, ready, config, run_id, view)
        state: State = "failed"
        try:
            with view:
                _tuner(ready, space, config, slots, observer, verbose=verbose).fit()
            observer.close()
            result = observer.result(started)
            state = "stopped" if result.interrupted else "finished" if result.best else "failed"
            best = None if result.best is None else checkpoint.best(ready.folder / result.best.name)
            if best is not None:
                tracker.log_folder(run_id, best, "best")
                tracker.log_text(run_id, scores.per_class_json(best, ready.data), "per_class.json")
        except KeyboardInterrupt:
            state = "stopped"
            raise
        finally:
            observer.close()
            tracker.end(run_id, state)
        result.num_unsent = tracker.num_unsent
    return result


def _tuner(
    ready: Ready, space: Space, config: SearchConfig, slots: Slots, observer: Observer, *, verbose: bool
) -> tune.Tuner:
    experiment = ready.experiment
    own = experiment.flatten()
    mode = "max" if counts.HIGHER_IS_BETTER[config.metric] else "min"
    num_epochs = experiment.learning.num_epochs
    if "learning.num_epochs" in space:
        num_epochs = max(search_space.edges_of("learning.num_epochs", space["learning.num_epochs"]))
    resources: dict[str, float] = {"CPU": slots.cpus_per_worker, "GPU": slots.gpus_per_worker}
    if experiment.run.num_workers > 1:
        # The workers hold the CPUs and GPUs; their driver needs none, but Tune refuses a trial that asks for nothing.
        resources = {"CPU": 0, "node:__internal_head__": 0.001}
    return tune.Tuner(
        tune.with_resources(_trainable(ready, config.metric, slots), resources),
        tune_config=tune.TuneConfig(
            search_alg=Searcher(space, mode=mode, first={name: own[name] for name in space}, seed=experiment.run.seed),
            scheduler=ASHAScheduler(
                time_attr=worker.EPOCH,
                metric=worker.BEST_VALUE,
                mode=mode,
                # Beyond the last epoch: ASHA kills what reaches max_t, and a finished trial shall end by itself.
                max_t=num_epochs + 1,
                grace_period=max(1, num_epochs // 3),
                reduction_factor=3,
            ),
            num_samples=config.num_trials,
            max_concurrent_trials=slots.num_concurrent,
            time_budget_s=None if config.time_budget_min is None else config.time_budget_min * 60,
            # A fresh process imports torch for 3 s; a trial of several workers has processes of its own.
            reuse_actors=experiment.run.num_workers == 1,
            trial_dirname_creator=lambda trial: f"tune-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="ray_tune",
            storage_path=os.fspath(ready.folder),
            callbacks=[observer],
            verbose=1 if verbose else 0,
        ),
    )


def _trainable(ready: Ready, objective: str, slots: Slots) -> Callable[[dict[str, Any]], None]:
    """The function that trains one sample, on whichever process Tune calls it."""
    experiment, folder = ready.experiment, ready.folder

    def train_sample(sample: dict[str, Any]) -> None:
        number = sample[TRIAL]
        chosen = experiment.override({name: value for name, value in sample.items() if name != TRIAL})
        trial_folder = folder / trial_name(number)
        if chosen.run.num_workers == 1:
            device = torch.device("cuda" if slots.gpus_per_worker else "cpu")
            place = Place(device=device, num_threads=None if slots.gpus_per_worker else slots.cpus_per_worker)
            worker.train(chosen, trial_folder, objective, lambda row: tune.report(row), place)
        else:
            group.train(chosen, trial_folder, objective, slots, [TuneReportCallback()])

    return train_sample
