"""Settings to JSON and back: frozen dataclasses in, plain JSON out, and the same dataclasses again.

A field that may hold one of several classes (a mixer's or an MLP's settings) is annotated with a Protocol; its JSON
carries `"type": "mixers.attention"`, the module of `wren` whose `Config` it is. Nothing outside `wren` can be named,
so opening someone's run executes none of their code.
"""

import dataclasses
import importlib
import re
import types
import typing
from typing import Any, TypeVar

from wren.errors import ConfigError, unknown_key

T = TypeVar("T")
_TYPE_NAME = re.compile(r"(mixers|mlps)\.[a-z][a-z0-9_]*")


def to_json(config: Any) -> Any:
    """A dataclass (or tuple, dict, number, text, bool, None) as JSON values."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {field.name: to_json(getattr(config, field.name)) for field in dataclasses.fields(config)}
        module = type(config).__module__.removeprefix("wren.")
        return {"type": module, **fields} if _TYPE_NAME.fullmatch(module) else fields
    if isinstance(config, (tuple, list)):
        return [to_json(item) for item in config]
    if isinstance(config, dict):
        return {key: to_json(value) for key, value in config.items()}
    return config


def from_json(cls: type[T], value: Any, where: str = "config") -> T:
    """The dataclass `cls` from JSON values; raises ConfigError for an unknown key or a wrong type."""
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be an object with keys, not {value!r}.")
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in value:
        if key not in names and key != "type":
            raise ConfigError(unknown_key(f"{where} key", key, names))
    read = {name: _read(hints[name], value[name], f"{where}.{name}") for name in names if name in value}
    try:
        return cls(**read)
    except TypeError as error:
        raise ConfigError(f"{where} is incomplete: {error}.") from error


def replace(config: T, changes: dict[str, Any], where: str = "config") -> T:
    """`config` with changes given as {"a.b": value}; values may be texts, which are read as the field's type."""
    for path, value in changes.items():
        config = _replace_one(config, path.split("."), value, where)
    return config


def _replace_one(config: Any, path: list[str], value: Any, where: str) -> Any:
    if isinstance(config, tuple):
        if not path[0].isdigit() or int(path[0]) >= len(config):
            raise ConfigError(
                f"{where} is a list of {len(config)}; name an item by its number, 0 to {len(config) - 1}."
            )
        index = int(path[0])
        item = _replace_one(config[index], path[1:], value, f"{where}.{index}")
        return (*config[:index], item, *config[index + 1 :])
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ConfigError(f"{where} is a single value and has no key '{path[0]}'.")
    names = [field.name for field in dataclasses.fields(config)]
    if path[0] not in names:
        raise ConfigError(unknown_key(f"{where} key", path[0], names))
    inner = f"{where}.{path[0]}"
    if len(path) > 1:
        new = _replace_one(getattr(config, path[0]), path[1:], value, inner)
    else:
        new = _read(typing.get_type_hints(type(config))[path[0]], value, inner)
    return dataclasses.replace(config, **{path[0]: new})


def _read(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None or (value == "none" and type(None) in arguments):
            return _none(arguments, where)
        return _first_that_reads([a for a in arguments if a is not type(None)], value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(unknown_key(f"{where} value", str(value), [str(a) for a in arguments]))
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} must be a list, not {value!r}.")
        inner = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(inner) != len(value):
            raise ConfigError(f"{where} must hold {len(inner)} values, not {len(value)}.")
        return tuple(_read(h, v, f"{where}.{i}") for i, (h, v) in enumerate(zip(inner, value, strict=True)))
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type, hint), value, where)
    if getattr(hint, "_is_protocol", False):
        return _read_typed(value, where)
    return _read_scalar(hint, value, where)


def _none(arguments: tuple[Any, ...], where: str) -> None:
    if type(None) not in arguments:
        raise ConfigError(f"{where} must not be empty.")


def _first_that_reads(hints: list[Any], value: Any, where: str) -> Any:
    errors = []
    for hint in hints:
        try:
            return _read(hint, value, where)
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _read_typed(value: Any, where: str) -> Any:
    if not isinstance(value, dict) or "type" not in value:
        raise ConfigError(f"{where} must be an object with a 'type' such as 'mixers.attention', not {value!r}.")
    if not isinstance(value["type"], str) or not _TYPE_NAME.fullmatch(value["type"]):
        raise ConfigError(f"{where}.type {value['type']!r} is not a module of wren; use e.g. 'mixers.attention'.")
    try:
        module = importlib.import_module(f"wren.{value['type']}")
    except ModuleNotFoundError as error:
        raise ConfigError(f"{where}.type '{value['type']}' does not exist in this version of wren.") from error
    return from_json(module.Config, value, where)


def _read_scalar(hint: Any, value: Any, where: str) -> Any:
    if isinstance(value, str) and hint is bool and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, str) and hint in (int, float):
        try:
            return hint(float(value)) if hint is int and float(value).is_integer() else hint(value)
        except ValueError as error:
            raise ConfigError(f"{where} must be a number ({hint.__name__}), not '{value}'.") from error
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{where} must be of type {hint.__name__}, not {value!r}.")
    return value


def read_text(hint: Any, text: str, where: str) -> Any:
    """A value of type `hint` from what a user wrote on the command line; raises ConfigError naming `where`."""
    return _read(hint, text, where)
