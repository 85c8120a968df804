"""JSON that somebody may have damaged or made up: read without surprise, and judged by the types that are declared."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

_LARGEST: Final = 2**31 - 1  # of any count, length or id that is stored


def read_json(path: Path) -> Any:
    """The value in the file at `path`; OSError or ValueError where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def check_fields(value: Any) -> None:
    """TypeError where a field of the dataclass instance `value` is not of its declared type."""
    for name, hint in get_type_hints(type(value)).items():
        if get_origin(hint) is not None or isinstance(hint, type) or hint is Any:
            check_type(name, getattr(value, name), hint)


def check_type(name: str, value: Any, hint: Any) -> None:
    """TypeError where `value`, which `name` has, is not of the type `hint`."""
    if not _fits(value, hint):
        shown = repr(value)
        shown = shown if len(shown) <= 60 else shown[:59] + "…"
        raise TypeError(f"{name} is {shown}, which is no {getattr(hint, '__name__', hint)}")


def check_inside(path: str) -> str:
    """`path` itself; ValueError where it leads out of the folder that it is relative to."""
    parts = PurePosixPath(path).parts
    if not parts or PurePosixPath(path).is_absolute() or ".." in parts or "\0" in path:
        raise ValueError(f"{path!r} leads out of its folder")
    return path


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in {Union, UnionType}:
        return any(_fits(value, each) for each in inner)
    if origin in {tuple, Sequence}:
        return isinstance(value, tuple if origin is tuple else list | tuple) and all(_fits(e, inner[0]) for e in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if hint in {int, float}:
        is_number = isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
        return is_number and (isinstance(value, float) or abs(value) <= _LARGEST)
    return hint is Any or isinstance(value, hint)
