"""Reads pickled Caffe2 blobs, as PySlowFast's zoo has them; the one door to pickle, and nothing is ever called by it.

Such a file is a pickle (protocol 2, written by Python 2) of a dictionary whose "blobs" are numpy arrays. A pickle names
the functions that it wants called. Here it gets numpy's three for arrays, and one that turns text back into bytes; for
any other name it gets a stand-in that does nothing.
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
_RECONSTRUCT: Any = np.empty(0).__reduce__()[0]
"""The function that numpy pickles arrays with, wherever this numpy keeps it."""


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
        if not isinstance(key, str) or not isinstance(value, np.ndarray) or SPENT.fullmatch(key):
            set_aside.append(str(key))
        else:
            found[key] = torch.from_numpy(value)
    return found, set_aside, unpickler.inert


class _Arrays(pickle.Unpickler):
    """Gives arrays and plain containers, and stand-ins for the rest."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.inert: list[str] = []

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name in the pickle; never imports it."""
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _RECONSTRUCT
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            # Python 3 writes bytes so under protocol 2. Of codecs at large, some import modules or unpack archives.
            return lambda text, _encoding="latin1": text.encode("latin1")
        if f"{module}.{name}" not in self.inert:
            self.inert.append(f"{module}.{name}")
        return stand_in(f"{module}.{name}")
