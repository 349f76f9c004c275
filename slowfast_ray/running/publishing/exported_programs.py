"""A network as programs that run without this package: one of torch.export, one of ONNX. Written, and opened again.

    model.pt2     torch.export; needs torch alone
    model.onnx    ONNX, in one file; needs ONNX Runtime, or another engine

torch.export.load may unpickle: where an archive says that a weight is pickled, it obeys, and what a pickle says is run.
The archives written here hold plain numbers, but for their example input, a pickle that torch.load reads with
weights_only first. So nothing of ours is run, and yet an archive from strangers could run anything: load only what you
exported yourself. An ONNX file holds numbers and a graph, and cannot run code of its own.

Shapes: B clips, T frames of a clip, H and W height and width as recorded, K classes.
"""

import importlib.util
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.export.passes import move_to_device_pass

from slowfast_ray.data import augment
from slowfast_ray.data.config import DataConfig

PT2 = "model.pt2"
ONNX = "model.onnx"
INPUT = "frames"
OUTPUT = "logits"

Way = Callable[[torch.Tensor], torch.Tensor]
"""From clips to logits, both on the CPU."""


class FromFrames(nn.Module):
    """A network that takes the frames of clips in degrees Celsius at the sensor's size, float32 [B, T, H, W]:
    normalising and resizing are part of it. Gives logits [B, K].
    """

    def __init__(self, network: nn.Module, config: DataConfig) -> None:
        super().__init__()
        self.network = network
        self._config = config

    def forward(self, frames_BTHW: torch.Tensor) -> torch.Tensor:
        """Logits of a batch of clips."""
        return self.network(augment.prepare(frames_BTHW[:, None], self._config))


def check_installed() -> None:
    """Raises ValueError where a package is missing that exporting needs."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"Exporting needs {', '.join(missing)}; install `slowfast-ray[export]`.")


def write(network: nn.Module, clip_shape: tuple[int, ...], folder: Path) -> None:
    """Writes both programs of a network, on the CPU and in its evaluating state, into `folder`.

    `clip_shape` is that of one clip; the number of clips stays open, from 1 up.
    """
    zeros = torch.zeros(2, *clip_shape)  # the archive keeps its example: nobody's recording
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    with torch.no_grad(), _quiet():
        program = torch.export.export(network, (zeros,), dynamic_shapes=shapes)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths of this machine, in either file
        torch.export.save(program, folder / PT2)
        torch.onnx.export(
            program,
            (zeros,),
            folder / ONNX,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: "batch"},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without a warning for each operator of torchvision, which nothing here has."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    yield
    registration.setLevel(level)


def eager(network: nn.Module, device: torch.device) -> Way:
    """The network as it is, in its evaluating state and on `device`."""

    @torch.inference_mode()
    def logits_of(clips: torch.Tensor) -> torch.Tensor:
        return network(clips.to(device)).cpu()

    return logits_of


def open_pt2(path: Path, device: torch.device) -> Way:
    """The program of torch.export that `write` wrote; not one from strangers, which could run anything."""
    program = torch.export.load(path)
    if device.type != "cpu":
        program = move_to_device_pass(program, device)
    return eager(program.module(), device)


def open_onnx(path: Path, device: torch.device, num_threads: int) -> Way:
    """The ONNX file in ONNX Runtime, on the GPU where `device` is one and this ONNX Runtime can."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    session = onnxruntime.InferenceSession(path, options, providers=onnx_providers(device))

    def logits_of(clips: torch.Tensor) -> torch.Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: clips.numpy()})
        return torch.from_numpy(logits)

    return logits_of


def onnx_providers(device: torch.device) -> list[str]:
    """Where ONNX Runtime computes for `device`, the best first."""
    import onnxruntime

    cuda = "CUDAExecutionProvider"
    has_cuda = device.type == "cuda" and cuda in onnxruntime.get_available_providers()
    return [*([cuda] if has_cuda else []), "CPUExecutionProvider"]
