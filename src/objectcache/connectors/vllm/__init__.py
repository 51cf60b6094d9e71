"""vLLM: prefix KV loaded layer by layer from object storage, by a connector that unmodified vLLM loads.

    --kv-transfer-config '{"kv_connector": "kv_role": "kv_both",
        "kv_connector_module_path": "objectcache.connectors.vllm", "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"url": "http://gateway:9000/kvcache"}}'

`connector` plugs into vLLM. Its two sides are `scheduler` (pure: what is looked up, when requests run, what is saved)
and `worker` (keys, transfers, staging, blocks); `messages` is what they tell each other, `naming` what their KV is
called. Needs vLLM, which only `connector`, `metrics` and `naming.reading` import.
"""

from objectcache.connectors.vllm.messages import Orders, Report
from objectcache.connectors.vllm.options import AdmissionMode, VllmOptions
from objectcache.lazily import exports

__all__ = ["AdmissionMode", "ObjectCacheConnector", "Orders", "Report", "VllmOptions"]

__getattr__ = exports("objectcache.connectors.vllm", {"ObjectCacheConnector": "objectcache.connectors.vllm.connector"})
