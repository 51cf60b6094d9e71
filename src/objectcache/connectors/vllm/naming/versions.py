"""Which versions of vLLM this connector was tested with."""

from __future__ import annotations

from objectcache.errors import ConfigError

OLDEST = (0, 28)
NEWEST = (0, 32)
"""Both ends are tested; what lies between is taken to be like them."""


def check_version(version: str, minor_version: tuple[int, int], *, untested: bool = False) -> None:
    """Raises ConfigError for a vLLM that nobody has tried this with, unless `untested` versions are wanted."""
    if untested or OLDEST <= minor_version <= NEWEST:
        return
    raise ConfigError(
        f"vLLM {version} was not tested with this connector, whose interface in vLLM changes between versions: use "
        f'{text_of(OLDEST)} to {text_of(NEWEST)}, or try it with "untested_vllm": true in kv_connector_extra_config'
    )


def text_of(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
