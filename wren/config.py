"""Settings to JSON and back: frozen dataclasses in, plain JSON out, and the same dataclasses again.

A field that may hold one of several classes (a mixer's or an MLP's settings) is annotated with a Protocol; its JSON
carries `"type": "mixers.attention"`, the module of `wren` whose `Config` it is. Nothing outside `wren` can be named,
so opening someone's run executes none of their code.
"""

import contextlib
import dataclasses
import importlib
import json
import math
import pkgutil
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
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    names = [field.name for field in fields]
    for key in value:
        if key not in names:
            raise ConfigError(unknown_key(f"{where} key", str(key), names))
    for field in fields:
        missing = dataclasses.MISSING
        if field.name not in value and field.default is missing and field.default_factory is missing:
            raise ConfigError(f"{where} lacks '{field.name}'; add it.")
    return cls(**{name: _read(hints[name], value[name], f"{where}.{name}") for name in names if name in value})


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
    is_protocol = getattr(hint, "_is_protocol", False)
    if origin is dict:
        return _read_dict(arguments[1], value, where)
    if origin is not tuple and not is_protocol and not dataclasses.is_dataclass(hint):
        return _read_scalar(hint, value, where)
    if isinstance(value, str) and value[:1] in ("[", "{"):
        value = _parse(value, where)
    if origin is tuple:
        return _read_tuple(arguments, value, where)
    if is_protocol:
        return _read_typed(value, where)
    return from_json(typing.cast(type, hint), value, where)


def _parse(text: str, where: str) -> Any:
    """A list or an object that a user wrote as JSON in one setting."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where} is not valid JSON ({error}): {text}") from error


def _read_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if isinstance(value, str):  # "0.9,0.95" on the command line
        value = [item.strip() for item in value.split(",")]
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where} must be a list, not {value!r}.")
    inner = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(inner) != len(value):
        raise ConfigError(f"{where} must hold {len(inner)} values, not {len(value)}.")
    return tuple(_read(h, v, f"{where}.{i}") for i, (h, v) in enumerate(zip(inner, value, strict=True)))


def _read_dict(hint: Any, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be an object with keys, not {value!r}.")
    return {str(key): _read(hint, item, f"{where}.{key}") for key, item in value.items()}


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
    if isinstance(value, str):  # "mlps.swiglu": that class at its defaults
        value = {"type": value}
    if not isinstance(value, dict) or "type" not in value:
        raise ConfigError(f"{where} must be an object with a 'type' such as 'mixers.attention', not {value!r}.")
    kind = value["type"]
    if not isinstance(kind, str) or not _TYPE_NAME.fullmatch(kind):
        raise ConfigError(f"{where}.type {kind!r} is not a module of wren; use e.g. 'mixers.attention'.")
    package, _, name = kind.partition(".")
    names = _modules(package)
    if name not in names:
        raise ConfigError(unknown_key(f"{where}.type", kind, [f"{package}.{name}" for name in names]))
    module = importlib.import_module(f"wren.{kind}")
    return from_json(module.Config, {key: item for key, item in value.items() if key != "type"}, where)


def _modules(package: str) -> list[str]:
    """The names of the architecture files in wren/mixers or wren/mlps."""
    path = importlib.import_module(f"wren.{package}").__path__
    return sorted(module.name for module in pkgutil.iter_modules(path) if not module.ispkg)


def _read_scalar(hint: Any, value: Any, where: str) -> Any:
    if isinstance(value, str) and hint is bool and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, str) and hint in (int, float):
        value = _number(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1e300 else math.inf
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        mend = "; write true or false" if hint is bool else ""
        raise ConfigError(f"{where} must be of type {hint.__name__}, not {value!r}{mend}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} must be a finite number, not {value!r}.")
    return value


def _number(hint: type, text: str, where: str) -> int | float:
    """A number from a text: 12, 1e3 where it is whole, 6e-4."""
    with contextlib.suppress(ValueError):
        return int(text)
    try:
        value = float(text)
    except ValueError as error:
        raise ConfigError(f"{where} must be a number ({hint.__name__}), not '{text}'.") from error
    if hint is float:
        return value
    if not value.is_integer():
        raise ConfigError(f"{where} must be a whole number, not '{text}'.")
    return int(value)


def read_text(hint: Any, text: str, where: str) -> Any:
    """A value of type `hint` from what a user wrote on the command line; raises ConfigError naming `where`."""
    return _read(hint, text, where)
