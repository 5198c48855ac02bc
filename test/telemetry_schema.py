"""The JSON schema of a telemetry message, and a check of JSON values against it.

The schema states what the receiver of a message requires, in words of its own. The check knows the keywords of JSON
Schema that the schema uses, and no others.
"""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["SCHEMA", "message_in", "problems_of"]


def _all_of(properties: dict[str, Any]) -> dict[str, Any]:
    """An object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }


NUMBER = {"type": "number"}
BOOLEAN = {"type": "boolean"}

TIMESTAMP = _all_of(
    {
        "omg_time": {"type": "integer", "minimum": 0},
        "unix_time": NUMBER,
        "mjd": NUMBER,
        "iso8601": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"},
    }
)

CHANNEL = _all_of(
    {
        "id": {"type": "integer", "minimum": 0},
        "attenuation": NUMBER,
        "bandWidth": NUMBER,
        "bins": {"type": "integer", "minimum": -1},
        "polarization": {"enum": ["LHCP", "RHCP", "FULL STOKES"]},
        "sampleRate": NUMBER,
        "startFrequency": NUMBER,
        "systemTemperature": NUMBER,
    }
)

BACKEND = _all_of(
    {
        "backendTime": TIMESTAMP,
        "timestamp": TIMESTAMP,
        **dict.fromkeys(
            ("busy", "commandLineError", "dataLineError", "sampling", "suspended", "timeSync"),
            BOOLEAN,
        ),
        "integration": {"type": "number", "minimum": -1},
        "channels": {"type": "array", "items": CHANNEL},
    }
)

SCHEMA = {
    "type": "object",
    "patternProperties": {r"^[A-Za-z0-9_]+$": BACKEND},
    "additionalProperties": False,
    "minProperties": 1,
    "maxProperties": 1,
}

_KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}

_KEYWORDS = {
    *("type", "enum", "minimum", "pattern", "items", "properties", "patternProperties", "required"),
    *("additionalProperties", "minProperties", "maxProperties"),
}


def problems_of(value: Any, schema: dict[str, Any] = SCHEMA, where: str = "message") -> list[str]:
    """A sentence for each way in which a value does not match the schema."""
    unknown = schema.keys() - _KEYWORDS
    assert not unknown, unknown
    kind = schema.get("type")
    if kind is not None and (not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return [f"{where} is {value!r}, not of type {kind}"]
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{where} is {value!r}, which is none of {schema['enum']}")
    if value is not None and "minimum" in schema and value < schema["minimum"]:
        found.append(f"{where} is {value!r}, less than {schema['minimum']}")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(f"{where} is {value!r}, which does not match {schema['pattern']}")
    if kind == "array":
        for number, item in enumerate(value):
            found += problems_of(item, schema["items"], f"{where}[{number}]")
    if kind == "object":
        found += _problems_of_object(value, schema, where)
    return found


def _problems_of_object(value: dict[str, Any], schema: dict[str, Any], where: str) -> list[str]:
    found = [f"{where} lacks {name}" for name in schema.get("required", ()) if name not in value]
    if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", len(value)):
        found.append(f"{where} has {len(value)} properties")
    for name, item in value.items():
        matching = [part for pattern, part in schema.get("patternProperties", {}).items() if re.search(pattern, name)]
        if name in schema.get("properties", {}):
            matching.append(schema["properties"][name])
        if not matching and schema.get("additionalProperties") is False:
            found.append(f"{where} has the unknown property {name}")
        for part in matching:
            found += problems_of(item, part, f"{where}.{name}")
    return found


def message_in(payload: bytes) -> dict[str, Any]:
    """The content of a payload. AssertionError if the receiver would not accept it."""

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads(payload.decode("utf-8"), parse_constant=refuse)
    found = problems_of(content)
    assert not found, found
    assert isinstance(content, dict)
    return content
