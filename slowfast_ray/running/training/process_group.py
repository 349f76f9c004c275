"""How the workers of a run find each other: over the network that Ray itself uses, and with an end to waiting."""

import os
import socket
from dataclasses import dataclass

import psutil
import ray
from ray.train._internal.base_worker_group import BaseWorkerGroup
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from slowfast_ray.running.nodes import cluster
from slowfast_ray.running.training import wiring

INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@dataclass
class OverRaysNetwork(TorchConfig):
    """Torch's process group on the interface that has the address by which Ray knows each machine.

    Left to themselves, gloo takes what the host's name resolves to, often 127.0.0.1, and NCCL the first one that is up,
    often Docker's.
    """

    @property
    def backend_cls(self) -> "type[_OverRaysNetwork]":
        """What Ray Train starts it with."""
        return _OverRaysNetwork


class _OverRaysNetwork(_TorchBackend):
    def on_start(self, worker_group: BaseWorkerGroup, backend_config: TorchConfig) -> None:
        worker_group.execute(check_gpu)
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)


def check_gpu() -> None:
    """In a worker's process, before it is asked to talk over its GPU. Raises UnfitDeviceError where torch cannot."""
    wiring.check_device(cluster.device_of_process())


def choose_interface() -> None:
    """In a worker's process. Variables that a user has set count."""
    address = ray.util.get_node_ip_address()
    names = [
        name
        for name, addresses in psutil.net_if_addrs().items()
        if any(each.family in (socket.AF_INET, socket.AF_INET6) and each.address == address for each in addresses)
    ]
    for variable in INTERFACES if names else ():
        os.environ.setdefault(variable, names[0])
