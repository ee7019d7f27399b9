"""modeling_wren.py: one file with all that an exported model needs besides transformers and torch."""

import dataclasses
from typing import Any

from wren import __version__
from wren.export.source import Bundle, Item
from wren.export.wrapper import HEAD, IMPORTS, TAIL
from wren.model import LM, ModelConfig

FILE = "modeling_wren.py"
AUTO_MAP = {"AutoConfig": "modeling_wren.WrenConfig", "AutoModelForCausalLM": "modeling_wren.WrenForCausalLM"}


def modelling_file(config: ModelConfig) -> str:
    """The text of modeling_wren.py for a model of this configuration: no mixer or MLP that it does not use."""
    kinds = {type(part) for part in _parts(config)}
    settings = {kind: Item(kind.__module__, kind.__name__) for kind in sorted(kinds, key=lambda k: k.__module__)}
    bundle = Bundle([Item(LM.__module__, LM.__name__), *settings.values()], TAIL.format(settings=""))
    imports, definitions = bundle.text()
    lines = ",\n    ".join(f'"{_kind(kind)}": {bundle.flat[item]}' for kind, item in settings.items())
    head = HEAD.format(version=__version__)
    return f"{head}\n{imports}\n{IMPORTS}\n\n{definitions}\n\n{TAIL.format(settings=lines + ',')}"


def settings_json(value: Any) -> Any:
    """A configuration as JSON in which every object names its class, since the file knows no types of fields."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: settings_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": _kind(type(value)), **fields}
    if isinstance(value, (tuple, list)):
        return [settings_json(item) for item in value]
    return value


def _kind(kind: type) -> str:
    """ "mixers.attention" for a mixer's settings as in Wren's own config.json, "model.ModelConfig" for others."""
    module = kind.__module__.removeprefix("wren.")
    return module if kind.__name__ == "Config" else f"{module}.{kind.__name__}"


def _parts(value: Any) -> list[Any]:
    """Every dataclass inside a configuration, itself included."""
    if isinstance(value, (tuple, list)):
        return [part for item in value for part in _parts(item)]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return []
    return [value, *(part for field in dataclasses.fields(value) for part in _parts(getattr(value, field.name)))]
