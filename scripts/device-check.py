#!/usr/bin/env python3
"""objectcache.device on a real device: bit for bit what the plainest loop does, and how near the hardware it comes.

    PYTHONPATH=src python3 scripts/device-check.py --json device.json      # one to two minutes on an H100

Needs torch and numpy, and of the package only what device code uses: other packages that are missing are stood in for.
With transformers, a small model is loaded and stored too. `--device cpu --quick` finds out whether the script works.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts"), str(ROOT)]


class StandIn(types.ModuleType):
    """For a package that is imported on the way, and not used."""

    def __getattr__(self, name: str) -> type[Exception]:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Exception,), {})


for package in ("aiohttp", "lmdb", "botocore", "awscrt", "obstore", "prometheus_client"):
    if importlib.util.find_spec(package) is None:
        sys.modules[package] = StandIn(package)

import torch  # noqa: E402

from device_check.equality import check_equality  # noqa: E402
from device_check.loading import measure_arriving, measure_goodput, measure_overlap  # noqa: E402
from device_check.storing import measure_storing  # noqa: E402
from device_check.world import World  # noqa: E402
from objectcache.bench.machine import describe_machine  # noqa: E402
from objectcache.bench.result import BenchmarkResult, sample_row  # noqa: E402
from objectcache.device import cuda_registrar  # noqa: E402

LINE_RATE, SATURATED = 12.5e9, 40e9


def run(options: argparse.Namespace) -> BenchmarkResult:
    world = World(options)
    machine = describe_machine(ROOT, ["torch", "numpy", "transformers"])
    machine["device"] = torch.cuda.get_device_name() if world.cuda else "cpu"
    result = BenchmarkResult("device-check", vars(options), machine, options.quick, world.rows, world.summary)
    print(f"{machine['device']}, torch {torch.__version__}: {world.num_layers} layers of {world.layer_bytes >> 20} MiB")
    if importlib.util.find_spec("transformers") is not None:
        from device_check.model import check_model

        print("a model of transformers'")
        check_model(world)
    print("unpinned memory")
    measure_goodput(world, "unpinned", ["paged 16/16 [2, blocks]"])
    pageable = [memoryview(bytearray(world.layer_bytes)) for _ in range(2)]
    measure_storing(world, "storing 12.5 GB/s, unpinned", LINE_RATE, pageable)
    if world.cuda:
        start_s = time.perf_counter()
        world.pool.register(cuda_registrar)
        world.add(sample_row("pinning", "s/GB", [(time.perf_counter() - start_s) / world.total_bytes * 1e9]))
        assert world.host(0).is_pinned(), "registered memory is not seen as pinned"
    print("equality")
    check_equality(world)
    print("pinned memory")
    measure_goodput(world, "pinned")
    measure_overlap(world)
    measure_arriving(world)
    size = world.layer_bytes
    spare = [torch.empty(size, dtype=torch.uint8, pin_memory=world.cuda).numpy().data for _ in range(2)]
    measure_storing(world, "storing 12.5 GB/s, pinned", LINE_RATE, spare)
    measure_storing(world, "storing 40 GB/s, pinned", SATURATED, spare)
    if world.cuda:
        world.summary["device_memory_peak_bytes"] = torch.cuda.max_memory_allocated()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", help="write the result there")
    parser.add_argument("--quick", action="store_true", help="a few small layers")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--layer-mib", type=int, default=64)
    parser.add_argument("--staging-mib", type=int, default=32)
    parser.add_argument("--staging", type=int, default=3)
    options = parser.parse_args()
    target, options.json = options.json, None  # results name no paths
    start_s = time.perf_counter()
    result = run(options)
    print(f"summary: {result.summary}")
    print(f"{time.perf_counter() - start_s:.0f} s in all")
    if target:
        result.write(Path(target))


if __name__ == "__main__":
    main()
