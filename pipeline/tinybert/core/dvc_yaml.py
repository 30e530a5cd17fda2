"""What dvc.yaml lists for a stage: its parameters and its inputs."""

import functools
import hashlib
from pathlib import Path

from pipeline.tinybert.core import yaml_file

DVC_YAML, PARAMS = Path("dvc.yaml"), Path("params.yaml")
# A stage reads the same text several times, and parsing takes 0.2 s.
_parse = functools.lru_cache(maxsize=4)(yaml_file.parse)


def inputs(stage: str, arguments: list[str]) -> list[str]:
    """The paths that a stage depends on; none where there is no dvc.yaml or no such stage in it."""
    return _listed(stage, arguments, "deps")


def state(stage: str, arguments: list[str]) -> dict[str, dict[str, object]]:
    """The values of a stage's parameters (``parameters``) and the hashes of its inputs (``inputs``)."""
    keys = _listed(stage, arguments, "params")
    parameters = _read(PARAMS) if keys and PARAMS.exists() else {}  # `settings.load` says that it is missing
    return {
        "parameters": {key: _value(parameters, key) for key in keys},
        "inputs": {path: _hash(Path(path)) for path in inputs(stage, arguments)},
    }


def _listed(stage: str, arguments: list[str], part: str) -> list[str]:
    entry = _read(DVC_YAML)["stages"].get(stage, {}) if DVC_YAML.exists() else {}
    return [text.replace("${item.task}", "".join(arguments)) for text in entry.get(part, [])]


def _read(path: Path) -> dict:
    return _parse(path.read_text(encoding="utf-8", errors="replace"), path)


def _value(parameters: dict, key: str) -> object:
    """The value of a dotted key; None if it does not exist."""
    value: object = parameters
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _hash(path: Path) -> str:
    """A hash of a file, or of the names and contents of a folder's files; of nothing if the path does not exist."""
    digest = hashlib.blake2b(digest_size=20)
    files = [path]
    if path.is_dir():
        files = sorted(entry for entry in path.rglob("*") if entry.is_file() and "__pycache__" not in entry.parts)
    for file in files:
        if file.is_file():
            digest.update(file.relative_to(path).as_posix().encode())
            with open(file, "rb") as content:
                digest.update(hashlib.file_digest(content, "blake2b").digest())
    return digest.hexdigest()
