#!/usr/bin/env bash
# A vLLM server that keeps prefix KV in object storage: serve.sh MODEL PORT [URL [more arguments of vLLM]]
#
# URL is a gateway's bucket (http://host:9000/kvcache), a bucket (s3://bucket/prefix) or a folder (file:///folder).
set -euo pipefail
model=$1 port=$2 url=${3:-http://127.0.0.1:9000/kvcache}

# vLLM names blocks by hashes that begin with a seed. Servers that share KV need the same one.
export PYTHONHASHSEED=0
# Only where vLLM runs on the CPU: memory for its own KV cache, GiB, and a core for all that is not computing.
export VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-1} VLLM_CPU_NUM_OF_RESERVED_CPU=${VLLM_CPU_NUM_OF_RESERVED_CPU:-1}

# `vllm serve` is the same; this form also runs where vLLM was installed under another name (vllm-cpu).
exec python -m vllm.entrypoints.openai.api_server --model "$model" --served-model-name example \
    --host 127.0.0.1 --port "$port" --prefix-caching-hash-algo sha256_cbor "${@:4}" \
    --kv-transfer-config '{
        "kv_connector": "ObjectCacheConnector",
        "kv_connector_module_path": "objectcache.connectors.vllm",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"url": "'"$url"'"}
    }'
