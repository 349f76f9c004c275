"""What is in a file of weights, and how does it become one of ours?

Run       python experiments/convert_weights.py IN OUT
          python experiments/convert_weights.py OUT --fetch slowfast_r50_4x16
Laptop    the same
Cost      10 seconds for an R50 of full width (138 MB) on one CPU core (AMD EPYC), mostly imports; a fetch on top
Expected  which toolkit wrote it, what its shapes tell, what no file tells and is assumed, every key that did not fit

IN is a checkpoint of MMAction2, PySlowFast (.pyth, or Caffe2's .pkl), pytorchvideo, or ours. Nothing in it is run, and
OUT is never overwritten. --model.weights takes IN as well as OUT: docs/pretrained_weights.md.
"""

from slowfast_ray.running import commands, converting


def main() -> None:
    """Converts, and says what was found."""
    flags = commands.parse_plain(converting.ConvertFlags, __doc__ or "")
    with commands.exits_cleanly():
        converted = converting.convert(flags)
    for line in converted.report.lines():
        print(line)
    print(f"SHA-256 {converted.sha256} ({converted.remark})")
    print(f"Written: {converted.out}")


if __name__ == "__main__":
    main()
