"""What kind of value each member of a canonical struct is, read from its annotation."""

from __future__ import annotations

import types
from functools import cache
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Struct


class Member(NamedTuple):
    """A member of a canonical struct.

    `kind` is one of: amount, ratio, time, json, word, text, count, flag, items (a list of structs).
    """

    name: str
    kind: str
    optional: bool  # may be None
    required: bool  # has no default
    default: Any


@cache
def members(struct: type[Struct]) -> tuple[Member, ...]:
    """All members of a struct, those of its bases first."""
    return tuple(
        Member(f.name, *_kind(f.type), f.required, None if f.default is NODEFAULT else f.default)
        for f in msgspec.structs.fields(struct)
    )


def _kind(annotation: Any) -> tuple[str, bool]:
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [arg for arg in get_args(annotation) if arg is not type(None)]
        assert len(inner) == 1, annotation
        return _kind(inner[0])[0], True
    if get_origin(annotation) is Annotated:
        _, meta = get_args(annotation)
        return meta.extra["kind"], False
    if get_origin(annotation) is list:
        return "items", False
    return {int: "count", str: "text", bool: "flag", float: "ratio"}[annotation], False


@cache
def form(struct: type[Struct]) -> str:
    """What the JSON of a struct looks like, in one line: another version of it has another line."""
    described = []
    for field, member in zip(msgspec.structs.fields(struct), members(struct), strict=True):
        of_items = ",".join(form(item) for item in _structs(field.type))
        need = "!" if member.required else "?" if member.optional else ""
        described.append(f"{member.name}:{member.kind}{need}{of_items}")
    opening, closing = "[]" if struct.__struct_config__.array_like else "()"
    return f"{struct.__name__}{opening}{' '.join(described)}{closing}"


def _structs(annotation: Any) -> list[type[Struct]]:
    """The structs that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return [annotation]
    return [struct for argument in get_args(annotation) for struct in _structs(argument)]
