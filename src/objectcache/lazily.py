"""Public names of a package that are imported with their first use.

Every process of ours passes through the packages that its modules are in, and needs little of what they show.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def exports(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for `package`: `homes` says in which module each name is, "module:name" where it has another."""

    def get(name: str) -> Any:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, inner = home.partition(":")
        value = getattr(importlib.import_module(module), inner or name)
        setattr(sys.modules[package], name, value)
        return value

    return get
