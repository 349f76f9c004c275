"""Does a model say the same outside this package, and how fast is it there?

Run       python experiments/export_thermal.py models:/NAME/VERSION OUT --root DATA
Laptop    python experiments/export_thermal.py MODEL_FOLDER OUT      (checked on the made-up dataset)
Cost      1 minute for a network of the laptop preset on two busy CPU cores (AMD EPYC), a third of it to time it
Expected  model.pt2 (torch.export) and model.onnx (ONNX), whose logits differ from the network's by 1e-4 at most, or an
          error and nothing; export.json says what goes in and comes out

Needs slowfast-ray[export]. The programs take the frames of a clip in degrees Celsius; which frames those are, the keys
`sampling` and `input` of export.json say. Load a model.pt2 only where you trust its writer: it may hold pickles, which
can run anything; a model.onnx cannot.
"""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from slowfast_ray.running import commands
from slowfast_ray.running.flags import ExportFlags
from slowfast_ray.running.publishing import exporting
from slowfast_ray.running.publishing.exporting import Exported
from slowfast_ray.running.tracking import tracking_models


def main() -> None:
    """Exports, checks, times, and shows what came of it."""
    flags = commands.parse_plain(ExportFlags, __doc__ or "")
    with commands.exits_cleanly():
        model = tracking_models.fetch(flags.model, flags.tracking_uri)
        exported = exporting.export(model, flags.out, root=flags.root, paths=flags.recordings)
    show(exported)


def show(exported: Exported) -> None:
    """What each program says otherwise than the network, and how long each takes, by the size of a batch."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("what computes")
    for name in ("clips at once", "p50 ms", "p95 ms", "calls", "largest difference"):
        table.add_column(name, justify="right")
    for size, timed in exported.latencies.items():
        for name, each in timed.items():
            difference = exported.differences[size].get(name)
            shown = "" if difference is None else f"{difference:.1e}"
            table.add_row(name, str(size), f"{each.p50_ms:.1f}", f"{each.p95_ms:.1f}", str(each.num_calls), shown)
    Console().print(table)
    print(
        f"Logits of up to {exported.largest_logit:.1f} on {exported.num_clips} clips, {exported.source}; timed on the "
        f"CPU with {exported.num_threads} thread(s), in turns"
    )
    for note in exported.notes:
        print(f"note: {note}")
    print(f"Written to     {exported.out}")


if __name__ == "__main__":
    main()
