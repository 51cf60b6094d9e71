"""Hugging Face transformers: prefix KV loaded layer by layer, stored while the prefill runs.

    connector = TransformersConnector(objectcache.open("file:///var/cache/kv"), model)
    result = connector.prefill(input_ids)                      # loads, computes the rest, stores it
    tokens, report = connector.generate(input_ids, max_new_tokens=32)

Needs `objectcache[transformers]`. No model is patched: a cache with lazy layers is passed to it.
`cache_input(model, past)` is the keyword argument that this version of transformers takes it by.
"""

from objectcache.connectors.transformers.cache_names import cache_input, cache_output
from objectcache.connectors.transformers.connector import TransformersConnector
from objectcache.connectors.transformers.delivery import LayerTiming, PrefixLoadError
from objectcache.connectors.transformers.model import weights_fingerprint
from objectcache.connectors.transformers.prefill import Prefill, PrefillReport
from objectcache.connectors.transformers.prefix import PrefixCache
from objectcache.connectors.transformers.recording import Recording
from objectcache.connectors.transformers.stats import ConnectorStats

__all__ = [
    "ConnectorStats",
    "LayerTiming",
    "Prefill",
    "PrefillReport",
    "PrefixCache",
    "PrefixLoadError",
    "Recording",
    "TransformersConnector",
    "cache_input",
    "cache_output",
    "weights_fingerprint",
]
