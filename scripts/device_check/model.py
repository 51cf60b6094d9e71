"""A small model of transformers' on the device, through the connector: what is loaded is what was computed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers

from device_check.world import World
from objectcache.cache.base import (
    KVCache,
    Match,
    PartId,
    RetrieveOptions,
    SegmentUpload,
    UploadTicket,
    matched_part,
)
from objectcache.cache.retrieval import Retrieval
from objectcache.connectors.transformers import TransformersConnector, cache_input, cache_output
from objectcache.integrity import Buffer
from objectcache.keys import KeyChain, Namespace
from objectcache.layout import DeliveryGeometry
from objectcache.segment import SegmentHeader

PART = PartId(0, 0)


class Upload(SegmentUpload):
    def __init__(self, header: SegmentHeader) -> None:
        self.header = header
        self.layers: list[np.ndarray[Any, Any]] = []

    def write_layer(self, data: Buffer) -> None:
        self.layers.append(np.frombuffer(data, dtype=np.uint8).reshape(self.header.num_chunks, -1).copy())

    def finish(self) -> UploadTicket:
        return UploadTicket(self.header, 0, ())

    def abort(self) -> None:
        self.layers = []


class KVInMemory(KVCache):
    """No catalog, no store: one shard, chunks by key."""

    def __init__(self) -> None:
        self.uploads: dict[str, Upload] = {}
        self.chunks: dict[bytes, list[np.ndarray[Any, Any]]] = {}

    def match(self, namespace: Namespace, chain: KeyChain, *, parts: Sequence[PartId] | None = None) -> Match:
        stop = next((index for index, key in enumerate(chain) if key not in self.chunks), len(chain))
        if not stop:
            return Match(namespace, 0)
        tokens = stop * namespace.layout.key_tokens
        return Match(namespace, tokens, (matched_part(namespace, chain, PART, 0, stop),))

    def retrieve(
        self, match: Match, *, parts: Sequence[PartId] | None = None, options: RetrieveOptions | None = None
    ) -> Retrieval:
        geometry = DeliveryGeometry((match.parts[0].shape,), 1)
        memory = np.empty(geometry.total_bytes, dtype=np.uint8)
        retrieval = Retrieval(geometry, memory.data, deadline_s=time.perf_counter() + 60)
        for unit, (layer,) in enumerate(geometry.units):
            slices = np.stack([self.chunks[key][layer] for key in match.parts[0].keys])
            start = geometry.offset(0, layer)
            memory[start : start + slices.size] = slices.ravel()
            retrieval.land(unit)
        return retrieval

    def store(
        self, namespace: Namespace, chain: KeyChain, part: PartId, *, first: int = 0, stop: int | None = None
    ) -> Upload:
        upload = Upload(
            SegmentHeader.for_layout(
                namespace.layout,
                name=f"upload-{len(self.uploads)}",
                namespace=namespace.digest,
                group=0,
                shard=0,
                chain=chain,
                first=first,
                stop=len(chain) if stop is None else stop,
            )
        )
        self.uploads[upload.header.name] = upload
        return upload

    def commit(self, tickets: Sequence[UploadTicket], *, discard: Sequence[UploadTicket] = ()) -> None:
        for ticket in tickets:
            layers = self.uploads[ticket.header.name].layers
            for index, key in enumerate(ticket.header.keys):
                self.chunks[key] = [layer[index] for layer in layers]

    def release(self, match: Match) -> None: ...

    def close(self) -> None: ...


def check_model(world: World) -> None:
    """Raises AssertionError."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=1000,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=8192,
    )
    model: Any = transformers.LlamaForCausalLM(config).to(torch.bfloat16).to(world.device).eval()
    tokens = 256 if world.pairs < 9 else 4000
    ids = torch.randint(3, 1000, (1, tokens), generator=torch.Generator().manual_seed(1)).to(world.device)
    question = torch.cat((ids, torch.randint(3, 1000, (1, 50)).to(world.device)), dim=1)
    with TransformersConnector(KVInMemory(), model) as connector:
        computed = cache_output(connector.prefill(ids).outputs)
        assert connector.flush(60), "storing took too long"
        assert connector.stats.dropped == 0, connector.stats
        held = tokens // 16 * 16
        kept = transformers.DynamicCache()
        for index, layer in enumerate(computed.layers):
            kept.update(layer.keys[:, :, :held].clone(), layer.values[:, :, :held].clone(), index)
        with torch.no_grad():
            expected = model(question[:, held:], use_cache=True, **cache_input(model, kept)).logits
        result = connector.prefill(question)
        assert result.report.matched_tokens == held, result.report
        for layer, original in zip(result.cache.layers, computed.layers, strict=True):
            assert layer.keys.device.type == world.device.type
            assert torch.equal(layer.keys[:, :, :held], original.keys[:, :, :held]), "K differs"
            assert torch.equal(layer.values[:, :, :held], original.values[:, :, :held]), "V differs"
        difference = (result.outputs.logits - expected).abs().max().item()
        assert difference < 0.05, f"logits differ by {difference}"
    world.summary["model_logits_difference"] = difference
    print(f"  {held} tokens loaded and stored; logits differ by {difference}", flush=True)
