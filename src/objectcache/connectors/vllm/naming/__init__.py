"""What names an engine's KV, and what is safe with it: facts of vLLM's configuration, and namespaces."""

from objectcache.connectors.vllm.naming.facts import EngineFacts, HashFacts, WeightsFacts
from objectcache.connectors.vllm.naming.group_facts import GroupFacts, GroupKind, LayerFacts
from objectcache.connectors.vllm.naming.identity import CachedGroup

__all__ = ["CachedGroup", "EngineFacts", "GroupFacts", "GroupKind", "HashFacts", "LayerFacts", "WeightsFacts"]
