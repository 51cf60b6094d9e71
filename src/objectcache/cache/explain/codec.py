"""Dataclasses of plain values to JSON and back, checked against their types on the way in.

Tuples are of one type and any length; a union is of one type and None.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import Field, asdict, fields
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, ClassVar, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from objectcache.errors import RequestError


class DataclassLike(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


D = TypeVar("D", bound=DataclassLike)


def encode(value: DataclassLike, **more: Any) -> bytes:
    """JSON of the fields, and of `more`."""
    return json.dumps(asdict(value) | more).encode()


def load(data: bytes, where: str) -> dict[str, Any]:
    """Raises RequestError for anything but a JSON object."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{where} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise RequestError(f"{where} is not a JSON object")
    return found


def decode(kind: type[D], data: Any, where: str) -> D:
    """A `kind` from what `encode` made of it; fields that it does not know are passed over, so that either side may
    be newer. Raises RequestError that names the field at fault.
    """
    if not isinstance(data, Mapping):
        raise RequestError(f"{where} is not an object")
    hints = _hints(kind)
    known = {item.name: item for item in fields(kind)}
    values = {name: _value(hints[name], data[name], f"{where}.{name}") for name in known if name in data}
    try:
        return kind(**values)
    except TypeError as error:
        raise RequestError(f"{where} lacks a field: {error}") from error


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)


def _value(hint: Any, data: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return None if data is None and NoneType in arguments else _value(arguments[0], data, where)
    if origin is tuple:
        if isinstance(data, list):
            if arguments[0] is int and all(type(item) is int for item in data):
                return tuple(data)  # a prompt's tokens: many
            return tuple(_value(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    elif origin is dict:
        if isinstance(data, dict):
            return {str(name): _value(arguments[1], item, f"{where}.{name}") for name, item in data.items()}
    elif isinstance(hint, type) and issubclass(hint, StrEnum):
        if data in {item.value for item in hint}:
            return hint(data)
    elif hint in (int, float, str, bool):
        if type(data) is hint or (hint is float and type(data) is int):
            return data
    else:
        return decode(hint, data, where)
    raise RequestError(f"{where} is not what it should be: {str(data)[:80]!r}")
