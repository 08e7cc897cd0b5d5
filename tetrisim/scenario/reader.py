"""From plain mappings to frozen dataclasses and back: names, types and units, with the path of every mistake."""

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from tetrisim import units
from tetrisim.errors import ScenarioError, nearest_name

T = TypeVar("T")


@cache
def yaml_fields(cls: type) -> dict[str, tuple[str, Any]]:
    """YAML key -> (field name, type); units are written as text, so `latency_s` is called `latency`."""
    hints = get_type_hints(cls)
    return {
        field.name.removesuffix(units.family_of(field.name) or ""): (field.name, hints[field.name])
        for field in fields(cls)
        if field.name != "document"
    }


def read(cls: type[T], value: object, path: str) -> T:
    """An instance of a spec class; any problem is a ScenarioError that names `path` and the key below it."""
    if not isinstance(value, Mapping):
        raise ScenarioError(path, f"is {_show(value)}", "a mapping with keys " + ", ".join(yaml_fields(cls)))
    known = yaml_fields(cls)
    arguments: dict[str, Any] = {}
    for key, item in cast("Mapping[object, object]", value).items():
        if key not in known:
            raise ScenarioError(
                f"{path}.{key}".lstrip("."), "unknown key", "one of " + ", ".join(known), nearest_name(key, known)
            )
        name, kind = known[str(key)]
        arguments[name] = _value(kind, item, name, f"{path}.{key}".lstrip("."))
    for field in fields(cast(Any, cls)):
        if field.default is MISSING and field.default_factory is MISSING and field.name not in arguments:
            key = field.name.removesuffix(units.family_of(field.name) or "")
            raise ScenarioError(f"{path}.{key}".lstrip("."), "is missing", _example(field.name))
    try:
        return cls(**arguments)
    except ValueError as error:
        key, _, expected = str(error).partition(": expected ")
        raise ScenarioError(f"{path}.{key}".lstrip("."), "is not usable", expected) from None


def _value(kind: Any, value: object, name: str, path: str) -> Any:
    """One value as the type `kind`, units taken off by the suffix of the field's `name`."""
    origin = get_origin(kind)
    if origin in (types.UnionType, Union):
        inner = [option for option in get_args(kind) if option is not type(None)]
        return None if value is None else _value(inner[0], value, name, path)
    if origin is Literal:
        choices = get_args(kind)
        if value not in choices:
            known = [str(choice) for choice in choices]
            raise ScenarioError(path, f"is {_show(value)}", "one of " + ", ".join(known), nearest_name(value, known))
        return value
    if origin is tuple:
        return _several(get_args(kind)[0], value, name, path)
    if is_dataclass(kind):
        return read(cast(type, kind), value, path)
    family = units.family_of(name)
    if family is not None:
        try:
            return units.parse(value, family)
        except ValueError as error:
            raise ScenarioError(path, f"is {_show(value)}", str(error)) from None
    return _plain(kind, value, path)


def _several(kind: Any, value: object, name: str, path: str) -> tuple[Any, ...]:
    """A list, or a mapping by name of what has one."""
    named = "name" in getattr(kind, "__dataclass_fields__", ())
    if named and isinstance(value, Mapping):
        return _named(kind, cast("Mapping[object, object]", value), path)
    if not isinstance(value, list | tuple):
        raise ScenarioError(path, f"is {_show(value)}", "a mapping by name" if named else "a list")
    items = cast("list[object]", value)
    return tuple(_value(kind, item, name, f"{path}.{index}") for index, item in enumerate(items))


def _named(cls: type[T], value: Mapping[object, object], path: str) -> tuple[T, ...]:
    for name, item in value.items():
        if not isinstance(item, Mapping):
            raise ScenarioError(f"{path}.{name}", f"is {_show(item)}", "a mapping")
    items = {str(name): cast("Mapping[object, object]", item) for name, item in value.items()}
    return tuple(read(cls, {"name": name, **item}, f"{path}.{name}") for name, item in items.items())


def _plain(kind: type, value: object, path: str) -> Any:
    """A number, text or truth value of exactly the type asked for (an int also serves as a float)."""
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ScenarioError(path, f"is {value}", "a finite number")
        return float(value)
    if type(value) is not kind:
        expected = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind]
        raise ScenarioError(path, f"is {_show(value)}", expected)
    return value


def _example(name: str) -> str:
    family = units.family_of(name)
    return "a value" if family is None else f"a value such as '{units.FAMILIES[family][1]}'"


def _show(value: object) -> str:
    text = repr(value) if isinstance(value, str) else "null" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def dump(spec: Any) -> dict[str, Any]:
    """The mapping that `read` turns back into an equal spec; values that are None by default are left out."""
    written: dict[str, Any] = {}
    defaults = {field.name: field.default for field in fields(spec)}
    for key, (name, _) in yaml_fields(type(spec)).items():
        value = getattr(spec, name)
        if value is None and defaults[name] is None:
            continue
        written[key] = _written(value, name)
    return written


def _written(value: Any, name: str) -> Any:
    if is_dataclass(value):
        return dump(value)
    if isinstance(value, tuple):
        if value and hasattr(cast("tuple[Any, ...]", value)[0], "name"):
            items = [dump(item) for item in cast("tuple[Any, ...]", value)]
            return {item.pop("name"): item for item in items}
        return [_written(item, name) for item in cast("tuple[Any, ...]", value)]
    family = units.family_of(name)
    return units.text(value, family) if family is not None and value is not None else value
