"""What the Hub reads from a model card."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

_FRONT_MATTER = re.compile(r"^\s*---[ \t]*\r?\n(.*?)\r?\n?---[ \t]*(\r?\n|$)", re.DOTALL)
_RELATIONS = ("finetune", "adapter", "merge", "quantized")


def errors(text: str) -> list[str]:
    """Why the Hub would refuse the card; nothing for a card that it takes."""
    match = _FRONT_MATTER.match(text)
    if match is None:
        return []
    try:
        data = yaml.safe_load(match[1]) or {}
    except yaml.YAMLError as error:
        return [f"YAML metadata is not valid: {str(error).splitlines()[0]}"]
    if not isinstance(data, dict):
        return ["YAML metadata must be a mapping"]
    found = []
    for key in ("license", "library_name", "pipeline_tag", "base_model_relation"):
        if key in data and not isinstance(data[key], (str, list)):
            found.append(f'"{key}" must be a string')
    for key in ("tags", "datasets", "language", "base_model"):
        if not isinstance(data.get(key, ""), str) and not _strings(data[key]):
            found.append(f'"{key}" must be a string or an array of strings')
    if data.get("base_model_relation", _RELATIONS[0]) not in _RELATIONS:
        found.append(f'"base_model_relation" must be one of [{", ".join(_RELATIONS)}]')
    for base in _list(data.get("base_model")):
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(base)):
            found.append(f'"base_model" with value "{base}" is not valid. Use a model id.')
    if "model-index" in data and not isinstance(data["model-index"], list):
        found.append('"model-index" must be an array')
    return found


def metadata(text: str) -> dict[str, Any]:
    """The card's metadata; empty where the Hub would not read it."""
    match = _FRONT_MATTER.match(text)
    if match is None or errors(text):
        return {}
    return yaml.safe_load(match[1]) or {}


def tags(data: dict[str, Any], paths: Iterable[str]) -> list[str]:
    """The tags by which a repo is found: its own, and those made of other metadata and files."""
    found = [data["library_name"]] if data.get("library_name") else []
    if any(path.endswith(".safetensors") for path in paths):
        found.append("safetensors")
    found += _list(data.get("tags"))
    found += [f"dataset:{name}" for name in _list(data.get("datasets"))]
    relation = data.get("base_model_relation")
    for base in _list(data.get("base_model")):
        found.append(f"base_model:{base}")
        if relation:
            found.append(f"base_model:{relation}:{base}")
    found += [f"license:{name}" for name in _list(data.get("license"))]
    return list(dict.fromkeys(found))


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
