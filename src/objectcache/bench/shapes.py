"""Shapes of KV that benchmarks store: models as one rank holds them."""

from __future__ import annotations

from dataclasses import dataclass

from objectcache.layout import KVLayout


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The KV of a model, or of one tensor rank of it: nothing else of it matters here. `key` names it in results.

    `num_kv_heads` 0: a token has one latent of `head_dim` values at each layer (MLA), not K and V.
    """

    key: str
    name: str
    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype_bytes: int
    chunk_tokens: int = 16

    @property
    def layout(self) -> KVLayout:
        if not self.num_kv_heads:
            return KVLayout.latent(
                num_layers=self.num_layers,
                latent_dim=self.head_dim,
                dtype_bytes=self.dtype_bytes,
                chunk_tokens=self.chunk_tokens,
            )
        return KVLayout.attention(
            num_layers=self.num_layers,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            dtype_bytes=self.dtype_bytes,
            chunk_tokens=self.chunk_tokens,
        )

    @property
    def slice_bytes(self) -> int:
        """S, the same at all layers."""
        return self.layout.shard(0, 0).slice_bytes[0]

    def chunks(self, context: int) -> int:
        """Of `context` tokens."""
        return context // self.chunk_tokens


LLAMA_31_8B = ModelShape("llama-8b", "Llama 3.1 8B, bf16", num_layers=32, num_kv_heads=8, head_dim=128, dtype_bytes=2)
LLAMA_31_70B_TP8 = ModelShape(
    "llama-70b-tp8", "Llama 3.1 70B, bf16, TP=8", num_layers=80, num_kv_heads=1, head_dim=128, dtype_bytes=2
)
MLA_61 = ModelShape("mla-61", "DeepSeek-style MLA, bf16", num_layers=61, num_kv_heads=0, head_dim=576, dtype_bytes=2)

SHAPES = {shape.key: shape for shape in (LLAMA_31_8B, LLAMA_31_70B_TP8, MLA_61)}
