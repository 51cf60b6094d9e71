"""vLLM's real scheduler with the connector's scheduler side, a scripted worker and a fake paged cache."""

import warnings

with warnings.catch_warnings():  # what vLLM and its packages warn of as they are imported is not ours to repair
    warnings.simplefilter("ignore")
    import vllm.distributed.kv_transfer.kv_connector.utils
    import vllm.v1.core.sched.async_scheduler  # noqa: F401
