"""Can figures that are measured on this dataset be trusted, and what must a network beat?

Run       python experiments/audit_thermal.py --data.root PATH [--json FILE] [--html FILE] [--strict]
Laptop    python experiments/audit_thermal.py           (made-up data; about as long)
Cost      8 seconds on the real thermal dataset on one CPU core (AMD EPYC), 10 with the page
Expected  73 of 73 val windows overlap train windows; without a network val/top1 0.51 (majority), 0.88 (nearest in
          time), 0.85 (nearest in frames) and 0.89 (mean frame), n = 73 clips of the provided split

Nothing is trained, and nothing written but the files that are named. --strict ends with code 1 where a finding is
serious. docs/reading_the_audit.md explains what is found.
"""

from rich.console import Console

from search_spaces.thermal import THERMAL, THERMAL_MS
from slowfast_ray.experiment import Experiment
from slowfast_ray.running import commands
from slowfast_ray.running.audits import audit_page, audit_terminal, auditing
from slowfast_ray.running.flags import AuditFlags
from slowfast_ray.running.searching import search_space


def main() -> None:
    """Looks at a dataset, and says what was found."""
    flags = commands.parse_plain(AuditFlags, __doc__ or "")
    with commands.exits_cleanly():
        auditing.check_files(flags.json, flags.html)
        space = search_space.drawable(THERMAL if flags.data.frame_interval_ms is None else THERMAL_MS)
        # As a search would do it: a purged split is purged for the longest clips of the space.
        experiment = search_space.with_widest_window(space, Experiment(data=flags.data))
        report = auditing.report(experiment.data, search_space.widest_window(space, experiment))
    if flags.data.root is None:
        print("No --data.root: auditing the built-in, made-up dataset.")
    audit_terminal.show(report, Console())
    for path, render in ((flags.json, auditing.Report.to_json), (flags.html, audit_page.render)):
        if path is not None:
            auditing.write_new(path, render(report))
            print(f"Written: {path}")
    if flags.strict and report.num_findings()["serious"]:
        raise SystemExit(commands.EXIT_SERIOUS)


if __name__ == "__main__":
    main()
