"""Check a decoded TOML document against msgspec structs and collect every mistake, not only the first.

msgspec's own `convert` stops at the first error. Here tables are walked along the structs' fields, each value is
converted on its own, and what is wrong becomes a `Mistake` with key path, value, what is allowed and the nearest name.
"""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from ..ringbuf.errors import TickringError
from .errors import Mistake

T = TypeVar("T", bound=msgspec.Struct)
VALUE_SHOWN_MAX = 60


INVALID: Any = object()  # what a wrong value is converted to; whoever holds it leaves it out


def check_struct(kind: type[T], raw: object, path: str, mistakes: list[Mistake]) -> T | None:
    """`raw` as a `kind`, its wrong fields left at their defaults so that the rest can still be checked together.

    None if it is no table, or a required field is missing or wrong. `path` is its key path, "" for the document.
    """
    values = check_fields(kind, raw, path, mistakes)
    required = {field.name for field in msgspec.structs.fields(kind) if field.required}
    return None if required - values.keys() else build(kind, values, path, mistakes)


def check_fields(
    kind: type[msgspec.Struct],
    raw: object,
    path: str,
    mistakes: list[Mistake],
    *,
    reserved: Mapping[str, str] | None = None,
    also: Iterable[str] = (),
) -> dict[str, Any]:
    """The fields of `kind` that stand in `raw`, converted; wrong ones are left out after a mistake was added.

    `reserved` names fields which may not stand there because the daemon fills them in, each with what to do instead;
    `also` names keys of the same table that somebody else has taken already, to be named when a key is misspelt.
    """
    reserved = reserved or {}
    if not isinstance(raw, dict):
        mistakes.append(Mistake(path or "document", "expected a table", shown(raw)))
        return {}
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    values: dict[str, Any] = {}
    for key, value in raw.items():
        where = join(path, key)
        if key in reserved:
            mistakes.append(Mistake(where, reserved[key], shown(value)))
        elif (field := fields.get(key)) is None:
            known = [*(name for name in fields if name not in reserved), *also]
            mistakes.append(unknown(where, "key", key, known))
        elif (checked := check_value(field.type, value, where, mistakes)) is not INVALID:
            values[field.name] = checked
    for name, field in fields.items():
        if field.required and name not in raw and name not in reserved:
            mistakes.append(Mistake(join(path, name), f"is missing; expected {describe(field.type)}"))
    return values


def build(kind: type[T], values: Mapping[str, Any], path: str, mistakes: list[Mistake]) -> T | None:
    """A `kind` with these fields; what its own `__post_init__` refuses becomes a mistake at `path`."""
    try:
        return kind(**values)
    except (TypeError, ValueError, TickringError) as error:
        mistakes.append(Mistake(path or "document", str(error)))
        return None


def check_value(kind: Any, value: Any, path: str, mistakes: list[Mistake]) -> Any:
    """`value` as a `kind`, or INVALID after adding mistakes; wrong items of a list or table are left out."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated and typing.get_origin(arguments[0]) is list and isinstance(value, list) and value:
        found = len(mistakes)  # the items first, each at its place; then how many there may be
        check_value(arguments[0], value, path, mistakes)
        if len(mistakes) > found:
            return INVALID
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        made = check_struct(kind, value, path, mistakes)
        return INVALID if made is None else made
    if origin in (typing.Union, types.UnionType):
        tables = [option for option in arguments if isinstance(option, type) and issubclass(option, msgspec.Struct)]
        if isinstance(value, dict) and len(tables) == 1:
            return check_value(tables[0], value, path, mistakes)
    elif origin in (list, tuple, set, frozenset) and isinstance(value, list) and arguments:
        items = [check_value(arguments[0], item, f"{path}[{index}]", mistakes) for index, item in enumerate(value)]
        kept = [item for item in items if item is not INVALID]
        return origin(kept) if kept or not items else INVALID
    elif origin is dict and isinstance(value, dict):
        table = {key: check_value(arguments[1], item, join(path, key), mistakes) for key, item in value.items()}
        return {key: item for key, item in table.items() if item is not INVALID}
    try:
        if isinstance(value, float) and not math.isfinite(value):
            raise msgspec.ValidationError
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        near = _nearest_choice(kind, value) if isinstance(value, str) else None
        mistakes.append(Mistake(path, f"expected {describe(kind)}", shown(value), near))
        return INVALID


def unknown(path: str, what: str, name: str, known: Iterable[str]) -> Mistake:
    """A mistake for a name that is not among the known ones."""
    known = sorted(known)
    near = nearest(name, known)
    listing = "" if near else f"; known: {', '.join(known)}" if known else ""
    return Mistake(path, f"unknown {what}{listing}", None, near)


def nearest(name: str, known: Iterable[str]) -> str | None:
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def _nearest_choice(kind: Any, value: str) -> str | None:
    """The choice that was probably meant; a type may tell its choices' `other_names` in the extra of its Meta."""
    info = msgspec.inspect.type_info(kind)
    others = (info.extra or {}).get("other_names", {}) if isinstance(info, msgspec.inspect.Metadata) else {}
    near = nearest(value, [*choices_of(kind), *others])
    return others.get(near, near)


def choices_of(kind: Any) -> list[str]:
    """The strings a type allows, where it lists them."""
    info = msgspec.inspect.type_info(kind)
    if isinstance(info, msgspec.inspect.Metadata):
        info = info.type
    options = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    choices: list[str] = []
    for option in options:
        if isinstance(option, msgspec.inspect.LiteralType):
            choices += [str(value) for value in option.values]
        elif isinstance(option, msgspec.inspect.EnumType):
            choices += [str(member.value) for member in option.cls]
    return choices


def describe(kind: Any) -> str:
    """What a type allows, in words: `an integer from 1 to 65535`."""
    return _describe(msgspec.inspect.type_info(kind))


def _describe(info: msgspec.inspect.Type) -> str:
    inspect = msgspec.inspect
    if isinstance(info, inspect.Metadata):
        return (info.extra_json_schema or {}).get("description") or _describe(info.type)
    if isinstance(info, inspect.UnionType):
        return " or ".join(_describe(option) for option in info.types if not isinstance(option, inspect.NoneType))
    if isinstance(info, inspect.LiteralType):
        return "one of " + ", ".join(f'"{value}"' for value in info.values)
    if isinstance(info, inspect.EnumType):
        return "one of " + ", ".join(f'"{member.value}"' for member in info.cls)
    if isinstance(info, inspect.IntType | inspect.FloatType):
        return ("an integer" if isinstance(info, inspect.IntType) else "a number") + _range(info)
    if isinstance(info, inspect.StrType):
        return "a string" + (f" that matches {info.pattern}" if info.pattern else "")
    if isinstance(info, inspect.BoolType):
        return "true or false"
    if isinstance(info, inspect.ListType | inspect.VarTupleType | inspect.SetType | inspect.FrozenSetType):
        size = getattr(info, "min_length", None)
        return f"a list{f' of at least {size}' if size else ''}, each item {_describe(info.item_type)}"
    if isinstance(info, inspect.DictType | inspect.StructType):
        return "a table"
    return type(info).__name__.removesuffix("Type").lower()


def _range(info: msgspec.inspect.IntType | msgspec.inspect.FloatType) -> str:
    low = info.ge if info.ge is not None else info.gt
    high = info.le if info.le is not None else info.lt
    above, below = ("above " if info.ge is None else ""), ("below " if info.le is None else "")
    if low is not None and high is not None:
        return f" from {above}{low} to {below}{high}"
    if low is not None:
        return f" above {low}" if above else f", at least {low}"
    if high is not None:
        return f" below {high}" if below else f", at most {high}"
    return ""


def join(path: str, key: str) -> str:
    """Key path of a member; keys that TOML must quote are quoted."""
    shown_key = key if key.replace("-", "").replace("_", "").isalnum() and key.isascii() else f'"{key}"'
    return f"{path}.{shown_key}" if path else shown_key


def shown(value: object) -> str:
    """A value the way the file has it, shortened."""
    if isinstance(value, float):
        return repr(value)
    try:
        text = msgspec.json.encode(value).decode()
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= VALUE_SHOWN_MAX else text[: VALUE_SHOWN_MAX - 1] + "…"
