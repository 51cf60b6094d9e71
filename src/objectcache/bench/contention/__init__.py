"""`objectcache bench contention`: requests that share a cap, by policy."""
