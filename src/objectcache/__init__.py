"""ObjectCache: prefix KV in object storage, delivered layer by layer."""
