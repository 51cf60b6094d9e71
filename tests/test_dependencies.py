"""The rooms of docs/design.md: imports go downwards only, and optional packages stay where they are named."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "objectcache"
FACADE = "objectcache"  # the room of objectcache/__init__.py itself

# From the ground up. A room imports rooms of the floors below its own, never one of its own floor.
FLOORS = (
    ("errors", "recent", "lazily"),
    ("layout", "names", "pages", "cores"),
    ("keys", "integrity"),
    ("segment", "frames"),
    ("stores", "logrecord"),
    ("snapshot", "verifying", "joining"),
    ("logview",),
    ("commitlog",),
    ("catalog", "descriptor"),
    ("plan", "messages"),
    ("delivery", "scheduling", "buffers", "announcing", "tier"),
    ("cache",),
    ("transports",),
    ("s3",),
    ("workers", "config"),
    ("gateway", "client"),
    ("opening",),
    (FACADE,),
    ("storing",),
    ("device",),
    ("connectors",),
    ("simulation",),
    ("bench",),
    ("demo",),
    ("cli", "testing"),
    ("__main__",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# Downwards, and wrong all the same: an engine's process has no business with the server's.
FORBIDDEN = {
    (room, server) for room in ("opening", FACADE, "device", "connectors") for server in ("gateway", "workers")
}

# Packages that the base install lacks, and the modules (with what is in them) that are named for them.
OPTIONAL = {
    "torch": ("device", "connectors", "bench", "demo"),
    "transformers": ("connectors.transformers", "bench", "demo"),
    "vllm": ("connectors.vllm", "bench.vllm"),
    "huggingface_hub": ("connectors.vllm",),
    "lmcache": ("connectors.lmcache", "bench.peers"),
    "sglang": ("connectors.sglang",),
    "obstore": ("stores.s3", "bench.stores", "bench.peers"),
    "rados": ("stores.rados",),
    "nixl": ("transports.nixl", "bench.nixl_end"),
    "simpy": ("simulation",),
    "matplotlib": ("bench", "demo"),
    "pytest": ("testing",),
    "hypothesis": ("testing",),
}


def modules() -> dict[str, Path]:
    """Every module by its name within the package: "stores.base", "stores" for the package itself."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        found[".".join(parts) or FACADE] = path
    return found


MODULES = modules()
PACKAGES = [name for name, path in MODULES.items() if path.name == "__init__.py"]


def full_name(module: str) -> str:
    return FACADE if module == FACADE else f"{FACADE}.{module}"


def imported(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Full names of all that `module` imports, inside functions and for type checking too."""
    package = full_name(module) if is_package else full_name(module).rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            if origin == FACADE:  # `from objectcache import keys` is of the room, `… import open` of the facade
                yield from (f"{FACADE}.{alias.name}" if alias.name in MODULES else FACADE for alias in node.names)
            else:
                yield origin


def room_of(name: str) -> str:
    """The room of a full name within objectcache."""
    return name.split(".")[1] if "." in name else FACADE


def problem(importer: str, target: str) -> str | None:
    """What is wrong with room `importer` importing room `target`."""
    unknown = {importer, target} - FLOOR_OF.keys()
    if unknown:
        return f"room {unknown.pop()} has no floor: give it one in FLOORS"
    if importer == target:
        return None
    if FLOOR_OF[target] >= FLOOR_OF[importer]:
        return f"{target} is not below {importer}"
    if (importer, target) in FORBIDDEN:
        return f"{importer} never imports {target}"
    return None


def may_import(module: str, package: str) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in OPTIONAL[package])


def base_packages() -> set[str]:
    """Import names of what every install has. All of them are named like their distribution."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[^\w-]", requirement, maxsplit=1)[0] for requirement in project["dependencies"]}
    return {name.replace("-", "_") for name in names}


@cache
def imports(module: str) -> list[str]:
    path = MODULES[module]
    return list(imported(path.read_text(), module, path.name == "__init__.py"))


def test_rooms_import_downwards_only() -> None:
    found = {}
    for module in MODULES:
        room = room_of(full_name(module))
        targets = {room, *(room_of(name) for name in imports(module) if name.split(".")[0] == FACADE)}
        if problems := {problem(room, target) for target in targets} - {None}:
            found[module] = problems
    assert found == {}


def test_third_party_packages_are_declared_and_in_their_place() -> None:
    known = base_packages() | sys.stdlib_module_names | {FACADE}
    foreign = {module: {name.split(".")[0] for name in imports(module)} - known for module in MODULES}
    unknown = {module: names - OPTIONAL.keys() for module, names in foreign.items() if names - OPTIONAL.keys()}
    assert unknown == {}, "neither in the base dependencies nor in OPTIONAL"
    misplaced = [(module, name) for module, names in foreign.items() for name in names if not may_import(module, name)]
    assert misplaced == []


@pytest.mark.parametrize(
    ("importer", "target", "wrong"),
    [
        ("layout", "errors", False),
        ("errors", "errors", False),
        ("gateway", "config", False),
        ("cli", "gateway", False),
        ("connectors", "client", False),
        ("errors", "layout", True),
        ("gateway", "client", True),
        ("gateway", "connectors", True),
        ("connectors", "gateway", True),
        ("cache", FACADE, True),
        ("client", "cli", True),
        ("cli", "testing", True),
        ("cellar", "errors", True),
    ],
)
def test_the_order_of_rooms(importer: str, target: str, wrong: bool) -> None:
    assert (problem(importer, target) is not None) is wrong


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
import objectcache.keys as k, os.path
from objectcache import errors, open
from ..names import segment_name
from . import urls
if TYPE_CHECKING:
    from objectcache.gateway.kv import Routes
def lazily():
    import torch.cuda
"""
    found = list(imported(source, "stores.base", is_package=False))
    assert [room_of(name) for name in found if name.startswith(FACADE)] == [
        *("keys", "errors", FACADE, "names", "stores", "gateway")
    ]
    assert {"os.path", "torch.cuda"} <= set(found)
    assert not may_import("connectors_of_mine", "torch")
    assert not may_import("stores.base", "obstore")
    assert may_import("stores.s3.client", "obstore")


BLOCK_AND_IMPORT = """
import importlib, sys
blocked, names = sys.argv[1].split(","), sys.argv[2].split(",")
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is optional", name=name)
sys.meta_path.insert(0, Blocked())
for name in names:
    importlib.import_module(name)
"""


def test_the_base_install_suffices_for_all_but_the_modules_named_for_others() -> None:
    """The command line too: a server has no torch."""
    places = {place for places in OPTIONAL.values() for place in places}
    names = [
        full_name(name)
        for name in MODULES
        if not name.endswith("__main__") and not any(f"{name}.".startswith(f"{place}.") for place in places)
    ]
    command = [sys.executable, "-W", "error", "-c", BLOCK_AND_IMPORT, ",".join(OPTIONAL), ",".join(names)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_say_what_they_offer(package: str) -> None:
    tree = ast.parse(MODULES[package].read_text())
    if all(isinstance(node, ast.Expr | ast.Import) for node in tree.body):
        return  # nothing is defined or taken from a module, so there is nothing to offer
    try:
        module = importlib.import_module(full_name(package))
        assert sorted(set(module.__all__)) == sorted(module.__all__)
        assert [name for name in module.__all__ if not hasattr(module, name)] == []
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in OPTIONAL:
            raise
        pytest.skip(f"{error.name} is not installed")


def test_packages_are_packages() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [folder.name for folder in folders if not (folder / "__init__.py").exists()] == []
