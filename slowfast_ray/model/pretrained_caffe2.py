"""Reads pickled Caffe2 blobs, as PySlowFast's zoo has them; the one door to pickle, and nothing is ever called by it.

Such a file is a pickle (protocol 2, written by Python 2) of a dictionary whose "blobs" are numpy arrays. A pickle names
the functions that it wants called, and numpy's own would trust it: an array of objects is one of addresses that the
file chooses. So the three names of arrays get stand-ins that check what they are told, one more turns text back into
bytes, and any other name gets a stand-in that does nothing.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

SPENT = re.compile(r".*_momentum|lr|model_iter")
"""Blobs of the optimiser, as PySlowFast's c2_model_loading.py leaves them out."""
NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
"""What arrays of weights and counters hold, in numpy's words."""


class ForeignError(ValueError):
    """A file is whole, and holds something else than weights."""


def stand_in(name: str) -> Any:
    """A class to be had in place of the one called `name`: takes anything, does nothing, keeps nothing."""

    def new(cls: type, *_: object, **__: object) -> object:
        return object.__new__(cls)

    ignore = {each: lambda self, *_, **__: None for each in ("__init__", "__setstate__", "__setitem__", "append")}
    return type(name, (), {"__new__": new, "__module__": __name__, "extend": ignore["append"], **ignore})


def read_blobs(path: Path) -> tuple[dict[str, torch.Tensor], list[str], list[str]]:
    """The blobs, the names of those of the optimiser, and the names that it asked for in vain.

    Raises ForeignError for a pickle that holds something else, and whatever pickle raises for a damaged one.
    """
    with path.open("rb") as file:
        unpickler = _Arrays(file, encoding="latin1")
        content: Any = unpickler.load()
    blobs = content.get("blobs") if isinstance(content, Mapping) else None
    if not isinstance(blobs, Mapping):
        raise ForeignError(
            f"`model.weights` (={path}) is a pickle without `blobs`: no checkpoint of Caffe2, nor of torch."
        )
    found, set_aside = {}, []
    for key, value in blobs.items():
        values = value.values if isinstance(value, _Array) else None
        if not isinstance(key, str) or values is None or SPENT.fullmatch(key):
            set_aside.append(str(key))
        else:
            found[key] = torch.from_numpy(values)
    return found, set_aside, unpickler.inert


class _Numbers:
    """Stands for numpy.dtype: the kind of an array's numbers, and nothing else."""

    def __init__(self, code: object = None, *_: object) -> None:
        if code not in NUMBERS:
            raise ValueError(f"an array of {code!r}, where weights have numbers ({', '.join(NUMBERS)})")
        self.dtype = np.dtype(str(code))

    def __setstate__(self, state: Any) -> None:
        """Of numpy's state only the order of the bytes means something here."""
        self.dtype = self.dtype.newbyteorder("=" if state[1] == "|" else state[1])


class _Array:
    """Stands for numpy.ndarray, and makes one of checked parts."""

    def __init__(self, *_: object) -> None:
        self.values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        """The version, shape, numbers, order and bytes of an array."""
        _, shape, numbers, is_fortran, data = state
        if not isinstance(numbers, _Numbers):
            raise ValueError("an array without a kind of numbers")
        held = bytearray(data, "latin1") if isinstance(data, str) else bytearray(data)
        values = np.frombuffer(held, numbers.dtype).reshape(shape, order="F" if is_fortran else "C")
        self.values = np.require(values.astype(values.dtype.newbyteorder("="), copy=False), requirements="C")


class _Arrays(pickle.Unpickler):
    """Gives arrays and plain containers, and stand-ins for the rest."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.inert: list[str] = []

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name in the pickle; never imports it."""
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _Array
        if module == "numpy" and name in ("ndarray", "dtype"):
            return {"ndarray": _Array, "dtype": _Numbers}[name]
        if (module, name) == ("_codecs", "encode"):
            # Python 3 writes bytes so under protocol 2. Of codecs at large, some import modules or unpack archives.
            return lambda text, _encoding="latin1": text.encode("latin1")
        if f"{module}.{name}" not in self.inert:
            self.inert.append(f"{module}.{name}")
        return stand_in(f"{module}.{name}")
