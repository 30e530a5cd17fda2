"""Read params.yaml or dvc.yaml as plain values, however it is damaged."""

import math
from pathlib import Path
from typing import Any

from pipeline.tinybert.core.errors import UserError

MOST_VALUES = 100_000  # in params.yaml, which has some hundred


def read(path: Path) -> dict:
    """The groups of a file. Raises UserError: one line with the place in the file."""
    try:
        return parse(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        raise UserError(f"there is no {path} in this folder: change to the top of the repository") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None


def parse(text: str, path: Path) -> dict:
    """The groups in the text of a file. Raises UserError as ``read`` does."""
    import ruamel.yaml  # here, because not every machine that imports the pipeline has it (benchmarks/gpu.py)

    # ruamel as in DVC: PyYAML would read 1e-05, which `dvc exp run -S a=1e-5` writes, as text.
    yaml = ruamel.yaml.YAML(typ="safe", pure=True)
    try:
        if "*" in text and _expanded(yaml.compose(text), {}) > MOST_VALUES:  # before they are expanded
            raise UserError(f"{path}: its aliases (*name) stand for more than {MOST_VALUES} values: remove some")
        raw = yaml.load(text)
    except RecursionError:
        raise UserError(f"{path}: groups or lists are nested too deeply") from None
    except (ruamel.yaml.error.YAMLError, ValueError) as error:  # ValueError: a number of 5,000 digits
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected groups of settings, found {type(raw).__name__}")
    return raw


def _expanded(node: Any, known: dict[int, float]) -> float:
    """The number of values below a node of a YAML document if each alias is replaced by what it stands for.

    ``known``: the numbers of nodes seen before. Infinity for an alias within its own anchor.
    """
    if not isinstance(getattr(node, "value", None), list):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf
        inner = [part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_expanded(part, known) for part in inner)
    return known[id(node)]
