"""The entries that benchmarks/kinds.py measures: they cannot all be run in a test, but they can be read."""

import kinds
import pytest
from tiny import ROOT

from pipeline.tinybert import models, settings, tasks
from pipeline.tinybert.settings import Shape

ENTRIES = kinds.YAML.load(kinds.ENTRIES.read_text(encoding="utf-8"))["tasks"]
TEACHER = Shape(layers=6, hidden=384, heads=12, feed_forward=1536)  # the default encoder


@pytest.fixture(scope="module")
def configuration(tmp_path_factory) -> settings.Settings:
    """params.yaml with the measured entries."""
    params = kinds.YAML.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["tasks"].update(ENTRIES)
    path = tmp_path_factory.mktemp("kinds") / "params.yaml"
    with open(path, "w", encoding="utf-8") as file:
        kinds.YAML.dump(params, file)
    return settings.load(path)


@pytest.mark.parametrize("name", ENTRIES)
def test_a_measured_student_is_as_small_as_its_kind_demands(configuration, name):
    task, student = configuration.task(name), configuration.of("general_student", name)
    most = 1 / 3 if task.kind == "text_classification" else 1 / 2
    mine, whole = (kinds.multiplications(shape, task.max_length) for shape in (student.shape, TEACHER))
    assert mine <= most * whole


@pytest.mark.parametrize("name", ENTRIES)
def test_a_measured_entry_is_one_that_the_stages_accept(configuration, name):
    tasks.create(configuration.task(name), name)
    student, recipe = configuration.of("general_student", name), configuration.of("distill_intermediate", name)
    assert len(student.layers) == student.shape.layers
    models.map_layers(recipe.layer_map, student.shape.layers, TEACHER.layers, f"tasks.{name}")
