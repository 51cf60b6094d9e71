"""What of a model decides whether its KV can be stored, and when it can be reused."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
import transformers
from transformers.cache_utils import DynamicLayer

from objectcache.connectors.transformers.cache_names import cache_output
from objectcache.connectors.transformers.slices import KVShape
from objectcache.errors import ConfigError, LayoutError
from objectcache.keys import Namespace, salt_digest
from objectcache.layout import KVLayout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SUPPORTED = "supported are decoder-only models whose layers all keep plain full attention (transformers' DynamicLayer)"
# Their frequencies follow the length of the whole prompt, so that a prefix's K depends on what comes after it.
_LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope"}
_NOT_ABOUT_KV = {"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"}


def kv_shape(model: PreTrainedModel) -> KVShape:
    """What each layer of `model` caches, read from a forward over two tokens: configurations do not say it reliably.

    Raises LayoutError for models whose KV is not a function of the prefix alone, in one shape on all layers.
    """
    _refuse_by_config(model)
    ids = torch.zeros((1, 2), dtype=torch.long, device=model.device)
    with torch.no_grad():
        past = cache_output(model(input_ids=ids, use_cache=True))
    layers = getattr(past, "layers", None) or []
    kinds = sorted({type(layer).__name__ for layer in layers if type(layer) is not DynamicLayer})
    if kinds or not layers:
        raise LayoutError(f"{type(model).__name__} caches in {', '.join(kinds) or 'no layers'}: {_SUPPORTED}")
    found = {(tuple(states.shape), states.dtype) for layer in layers for states in (layer.keys, layer.values)}
    if len(found) != 1:
        shapes = ", ".join(sorted(f"{list(shape)} {dtype}" for shape, dtype in found))
        raise LayoutError(f"K and V of {type(model).__name__} differ in shape ({shapes}), as with MLA: {_SUPPORTED}")
    (batch, kv_heads, tokens, head_dim), dtype = found.pop()
    if (batch, tokens) != (1, 2):
        raise LayoutError(f"{type(model).__name__} caches {tokens} tokens of 2 in a batch of {batch}: {_SUPPORTED}")
    return KVShape(len(layers), kv_heads, head_dim, dtype)


def _refuse_by_config(model: PreTrainedModel) -> None:
    config = model.config
    name = type(model).__name__
    if config.is_encoder_decoder or config.get_text_config(decoder=True) is not config:
        raise LayoutError(f"{name} attends to more than its tokens: {_SUPPORTED}")
    if model.device.type == "meta":
        raise ConfigError(f"{name} has no weights yet (device meta)")
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {str(one.get("rope_type")) for one in (rope, *rope.values()) if isinstance(one, dict)}
    if kinds & _LENGTH_DEPENDENT_ROPE:
        raise LayoutError(f"{name} has {', '.join(kinds & _LENGTH_DEPENDENT_ROPE)} RoPE: its K depends on later tokens")
    if getattr(config, "use_bidirectional_attention", False) or any(
        getattr(module, "is_causal", True) is False for module in model.modules()
    ):
        raise LayoutError(f"{name} does not attend causally: its KV depends on later tokens")


def make_namespace(
    model: PreTrainedModel,
    shape: KVShape,
    *,
    fingerprint: str,
    adapter: str,
    salt: str,
    epoch: int,
    chunk_tokens: int,
) -> Namespace:
    """The namespace of KV that `model` computes as it is now. Raises ConfigError when its adapters lack a name."""
    if not adapter and getattr(model, "peft_config", None):
        raise ConfigError("the model has adapters loaded: name the active ones with `adapter`")
    config = {name: value for name, value in model.config.to_dict().items() if name not in _NOT_ABOUT_KV}
    layout = KVLayout.attention(
        num_layers=shape.num_layers,
        num_kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        dtype_bytes=shape.dtype.itemsize,
        chunk_tokens=chunk_tokens,
    )
    return Namespace(
        model=fingerprint,
        layout=layout,
        kv_dtype=str(shape.dtype).removeprefix("torch."),
        adapter=adapter,
        attention=f"{model.config._attn_implementation}; slice {[2, shape.kv_heads, chunk_tokens, shape.head_dim]}",
        salt_sha256=salt_digest(salt),
        epoch=epoch,
        extra={
            # Modeling code changes between minor versions, and with it what K and V mean.
            "engine": "transformers " + ".".join(transformers.__version__.split(".")[:2]),
            "architecture": type(model).__name__,
            "rope": _canonical(config.get("rope_parameters")),
            "config_sha256": hashlib.sha256(_canonical(config).encode()).hexdigest(),
        },
    )


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


_Version = tuple[tuple[str, int, int], ...]
_FINGERPRINTS: WeakKeyDictionary[torch.nn.Module, tuple[_Version, str]] = WeakKeyDictionary()


def weights_fingerprint(model: PreTrainedModel) -> str:
    """SHA-256 over the names, shapes, dtypes and bytes of all parameters and persistent buffers, in hex.

    All bytes, since two fine-tunes may differ anywhere: measured 0.7 s a GB and core, once per model object; later
    calls look whether weights changed, 6 µs a tensor. Changes through `.data` or numpy are not seen: for those bump the
    namespace's epoch.
    """
    version = weights_version(model)
    known = _FINGERPRINTS.get(model)
    if known is not None and known[0] == version:
        return known[1]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        digests = list(pool.map(_tensor_digest, sorted(model.state_dict().items())))
    fingerprint = "sha256:" + hashlib.sha256(b"".join(digests)).hexdigest()
    _FINGERPRINTS[model] = (version, fingerprint)
    return fingerprint


def weights_version(model: torch.nn.Module) -> _Version:
    """Changes whenever a weight is replaced, or changed in place under torch's eyes. Cheap."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    # Inference tensors keep no version counter; nothing may change them in place outside inference mode.
    return tuple((name, t.data_ptr(), -1 if t.is_inference() else t._version) for name, t in tensors)


def _tensor_digest(item: tuple[str, torch.Tensor]) -> bytes:
    name, tensor = item
    data = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{name}|{data.dtype}|{list(data.shape)}|".encode())
    digest.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()
