"""What a training process takes of its machine, by the epoch, under the names of MLflow's tab of system metrics."""

import contextlib

import psutil
import torch

PREFIX = "system/"
_MEGABYTE = 2**20


class Meter:
    """Of this process and its device; `read` covers the time since the last reading."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        self._process.cpu_percent()  # the first call only starts the clock
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> dict[str, float]:
        """CPU of this process [% of one core], its memory [MiB], and the peak memory [MiB] and load [%] of its GPU."""
        found = {
            "system/process_cpu_percentage": self._process.cpu_percent(),
            "system/process_memory_megabytes": self._process.memory_info().rss / _MEGABYTE,
        }
        if self._device.type == "cuda":
            found["system/gpu_peak_memory_megabytes"] = torch.cuda.max_memory_reserved(self._device) / _MEGABYTE
            torch.cuda.reset_peak_memory_stats(self._device)
            # Without nvidia-ml-py, or where the GPU's driver refuses: no run ends of that.
            with contextlib.suppress(Exception):
                found["system/gpu_utilization_percentage"] = float(torch.cuda.utilization(self._device))
        return found
