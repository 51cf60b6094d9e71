"""Which versions of vLLM this connector was tested with."""

from __future__ import annotations

from objectcache.errors import ConfigError

OLDEST = (0, 28)
NEWEST = (0, 32)
"""Both ends are tested; what lies between is taken to be like them."""


def check_version(version: str, *, untested: bool = False) -> None:
    """Raises ConfigError for a vLLM that nobody has tried this with, unless `untested` versions are wanted."""
    if untested or OLDEST <= minor_version(version) <= NEWEST:
        return
    raise ConfigError(
        f"vLLM {version} was not tested with this connector, whose interface in vLLM changes between versions: use "
        f'{text_of(OLDEST)} to {text_of(NEWEST)}, or try it with "untested_vllm": true in kv_connector_extra_config'
    )


def minor_version(version: str) -> tuple[int, int]:
    """(0, 32) of "0.32.0+cpu". Raises ConfigError for what is no version."""
    words = version.split(".")
    try:
        return int(words[0]), int(words[1])
    except (ValueError, IndexError) as error:
        raise ConfigError(f"vLLM says that it is of version {version!r}, which is none") from error


def lacks_interface(version: str, missing: str) -> ConfigError:
    """Of a vLLM that has not even the names that the connector is made of."""
    return ConfigError(
        f"vLLM {version} has not the interface that this connector needs ({missing}): use {text_of(OLDEST)} to "
        f"{text_of(NEWEST)}"
    )


def text_of(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
