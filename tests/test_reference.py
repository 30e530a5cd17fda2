"""docs/reference.md: made from the schema, and its entries are accepted."""

import re

import pytest
from tiny import ROOT

from docs import make_reference
from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings
from pipeline.tinybert.core.schema import Group


def test_the_reference_is_what_the_code_makes():
    text = make_reference.REFERENCE.read_text(encoding="utf-8")
    assert text == make_reference.text(), "run: python -m docs.make_reference"


def test_the_entries_of_all_kinds_are_accepted(tmp_path):
    reference = make_reference.REFERENCE.read_text(encoding="utf-8")
    (entries,) = re.findall(r"^```yaml\ntasks:\n(.*?)^```", reference, re.MULTILINE | re.DOTALL)
    params = (ROOT / "params.yaml").read_text(encoding="utf-8")
    path = tmp_path / "params.yaml"
    path.write_text(params.replace("\ntasks:\n", f"\ntasks:\n{entries}\n"), encoding="utf-8")
    names = re.findall(r"^  (\w+):", entries, re.MULTILINE)
    made = [tasks.create(settings.load(path).task(name), name) for name in names]
    assert [type(task) for task in made] == list(tasks.KINDS.values())


def groups() -> list[type[Group]]:
    """Every group whose keys stand in params.yaml."""
    options = [task.Options for task in tasks.KINDS.values() if task.Options is not Group]
    found = [kind for kind in vars(settings).values() if isinstance(kind, type) and issubclass(kind, Group)]
    return [kind for kind in (*found, *options) if kind not in (Group, settings.Settings, settings.Numerics)]


@pytest.mark.parametrize("group", groups())
def test_every_setting_has_a_meaning(group):
    assert not [name for name, field in group.model_fields.items() if not field.description]
