"""What of an engine decides how its KV is named and what is safe: vLLM's configuration as plain data.

`reading` makes them; vLLM is needed only there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from objectcache.connectors.vllm.naming.group_facts import GroupFacts, LayerFacts
from objectcache.connectors.vllm.naming.versions import minor_version
from objectcache.errors import ConfigError


@dataclass(frozen=True, slots=True)
class WeightsFacts:
    """Where a model's weights come from. `path` is a folder or file of this machine, empty when there is none.

    `name` is what the user called the model, for messages. `config` is canonical JSON of the model's configuration,
    without paths. `device` is where weights live: "cpu", "cuda".
    """

    name: str
    path: str
    config: str = ""
    load_format: str = "auto"
    device: str = "cpu"
    quantization: str = ""


@dataclass(frozen=True, slots=True)
class HashFacts:
    """How vLLM names blocks of `block_tokens`. `random_seed`: every process draws its own, so that no hash means
    anything to another process."""

    algorithm: str
    random_seed: bool
    block_tokens: int


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """One rank of one engine; of the scheduler's side, rank 0.

    `tensor_rank` and `stage` are this rank's place among `tensor_parallel` and `pipeline_parallel`. `architecture` is
    vLLM's own class. `instruction_set` and `python` are of this machine and process. `longest_rope` is the length that
    rotary embeddings were made for, where they depend on it. `backends` and `block_layout` are known on workers only,
    the latter once the caches are there (`seen`). `problems` say why nothing can be cached.
    """

    version: str
    architecture: str
    weights: WeightsFacts
    groups: tuple[GroupFacts, ...]
    hashes: HashFacts
    dtype: str
    kv_dtype: str
    quantization: str = ""
    tensor_parallel: int = 1
    tensor_rank: int = 0
    pipeline_parallel: int = 1
    stage: int = 0
    draft: WeightsFacts | None = None
    draft_method: str = ""
    instruction_set: str = ""
    python: str = ""
    longest_rope: int = 0
    backends: tuple[str, ...] = ()
    block_layout: str = ""
    new_runner: bool = False
    async_scheduling: bool = False
    prefix_caching: bool = True
    recompute_failures: bool = False
    cudagraph_mode: str = "NONE"
    loads: bool = True
    saves: bool = True
    num_blocks: int = 0
    max_step_tokens: int = 0
    problems: tuple[str, ...] = ()

    @property
    def minor_version(self) -> tuple[int, int]:
        """(0, 32) of "0.32.0+cpu". Raises ConfigError for what is no version."""
        return minor_version(self.version)

    @property
    def ranks(self) -> int:
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def rank(self) -> int:
        """Of `ranks`: pipeline stage * tensor_parallel + tensor rank."""
        return self.stage * self.tensor_parallel + self.tensor_rank

    @property
    def layers(self) -> tuple[LayerFacts, ...]:
        """All that keep KV on this rank, in the order that they compute in."""
        return tuple(
            sorted(
                (layer for group in self.groups for layer in group.layers),
                key=lambda layer: (layer.draft, layer.number),
            )
        )

    @property
    def problem(self) -> str:
        """Why nothing of this engine can be cached; empty where it can."""
        found = [*self.problems, *(f"KV cache group {g.index}: {g.problem}" for g in self.groups if g.problem)]
        if not found and not any(group.layers for group in self.groups):
            found.append("the model keeps no KV")
        return "; ".join(found)

    def seen(self, kv_caches: Mapping[str, Any]) -> EngineFacts:
        """With sizes and layout of blocks as a worker's caches have them: layer name -> tensor, or tensors.

        Raises ConfigError for caches that are missing, or of which no dimension is the blocks'.
        """
        layout = block_layout(kv_caches, self.num_blocks, [one.name for one in self.layers])
        groups = tuple(
            replace(
                group,
                layers=tuple(
                    replace(layer, block_bytes=_block_bytes(kv_caches[layer.name], self.num_blocks))
                    for layer in group.layers
                ),
            )
            for group in self.groups
        )
        return replace(self, groups=groups, block_layout=layout)


def block_layout(kv_caches: Mapping[str, Any], num_blocks: int, layer_names: Sequence[str]) -> str:
    """How one block of each layer lies in memory, in words: "int8[2, 16, 8, 64] 0,2,1,3" is the shape without blocks,
    and its dimensions from the outermost in memory on. Layers that are alike are counted.

    Raises ConfigError for caches of which no dimension is the blocks'.
    """
    runs: list[list[Any]] = []
    for name in layer_names:
        if name not in kv_caches:
            raise ConfigError(f"vLLM has registered no KV cache for {name}")
        text = " + ".join(_tensor_layout(name, tensor, num_blocks) for tensor in _tensors(kv_caches[name]))
        if runs and runs[-1][0] == text:
            runs[-1][1] += 1
        else:
            runs.append([text, 1])
    return "; ".join(f"{count} x {text}" for text, count in runs)


def _tensors(held: Any) -> Sequence[Any]:
    return held if isinstance(held, list | tuple) else [held]


def _block_bytes(held: Any, num_blocks: int) -> int:
    return sum(int(tensor.numel()) // num_blocks * int(tensor.element_size()) for tensor in _tensors(held))


def _tensor_layout(name: str, tensor: Any, num_blocks: int) -> str:
    shape, strides = list(tensor.shape), list(tensor.stride())
    # Blocks may be cut into smaller ones for kernels, which then lie side by side.
    dim = next((d for d, size in enumerate(shape[:2]) if size and num_blocks and size % num_blocks == 0), None)
    if dim is None:
        raise ConfigError(f"the KV cache of {name} has shape {shape}, in which no dimension is its {num_blocks} blocks")
    within = shape[dim] // num_blocks
    order = sorted((d for d in range(len(shape)) if d != dim), key=lambda d: (-strides[d], d))
    sizes = [size for d, size in enumerate(shape) if d != dim]
    places = [d - (d > dim) for d in order]
    kernel = f" in {within} parts" if within > 1 else ""
    return f"{str(tensor.dtype).removeprefix('torch.')}{sizes} {','.join(map(str, places))}{kernel}"
