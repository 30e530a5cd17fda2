"""Code that a stage imports, and parameters that it reads, are its deps in dvc.yaml: DVC infers neither."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ruamel.yaml

from pipeline.tinybert.core.settings import STAGES_A_TASK_MAY_CHANGE

ROOT = Path(__file__).parents[1]
PACKAGE = "pipeline"


def read_yaml(name: str) -> dict:
    return ruamel.yaml.YAML(typ="safe", pure=True).load((ROOT / name).read_text(encoding="utf-8"))


STAGES = read_yaml("dvc.yaml")["stages"]


def module_file(module: str) -> Path | None:
    """The project's file of a dotted name, a package's own being its __init__.py; None where it is no module."""
    path = ROOT.joinpath(*module.split("."))
    files = [path / "__init__.py", path.with_suffix(".py")]
    return next((file for file in files if file.is_file()), None)


def imported_modules(file: Path) -> Iterator[str]:
    """Dotted names that the file imports anywhere, in functions too, with every package on the way to them."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative imports are not followed here"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            if parts[0] == PACKAGE:
                yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def code_of(stage: str) -> set[str]:
    """Files of the project that ``python -m pipeline.<stage>`` reads, from the top of the repository."""
    found: set[Path] = set()
    waiting = [PACKAGE, f"{PACKAGE}.{stage}"]
    while waiting:
        file = module_file(waiting.pop())
        if file is not None and file not in found:
            found.add(file)
            waiting += imported_modules(file)
    return {file.relative_to(ROOT).as_posix() for file in found if file.stat().st_size}


def code_deps(stage: str) -> list[str]:
    return [dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")]


def test_every_stage_script_is_a_stage():
    scripts = {path.stem for path in (ROOT / PACKAGE).glob("*.py")} - {"__init__", "predict", "new_task"}
    assert scripts == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_code_deps_are_the_transitive_imports(stage):
    assert sorted(code_deps(stage)) == sorted(code_of(stage))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_no_other(stage):
    others = {f"{PACKAGE}/{other}.py" for other in STAGES if other != stage}
    assert not others & code_of(stage)


def test_code_is_listed_file_by_file():
    """A folder would take in __pycache__."""
    listed = [dep for stage in STAGES.values() for dep in stage["deps"] if dep.startswith(PACKAGE)]
    assert [dep for dep in listed if not dep.endswith(".py")] == []


DISTILLING = {"general_student", "distill_intermediate", "distill_prediction"}
TEACHING = {"finetune_teacher", "finetune_student", "evaluate", "export", "benchmark"}


@pytest.mark.parametrize(
    ("module", "stages"),
    [
        ("losses", DISTILLING),
        ("distillation", DISTILLING),
        ("sequences", DISTILLING),
        ("training", DISTILLING | TEACHING),
        ("scoring", {"evaluate", "export"}),
        ("onnx_model", {"export", "benchmark"}),
        ("latency", {"benchmark"}),
        ("general", {"general_student"}),
        ("transfer", {"distill_intermediate", "distill_prediction"}),
        ("augmentation", {"augment"}),
        ("masked_language_model", {"encoder"}),
        ("vectors", {"word_vectors", "augment", "export"}),
        ("vocabulary", {"export"}),
        ("splits", {"prepare"}),
        ("settings", set(STAGES)),
    ],
)
def test_a_changed_module_reruns_no_other_stages(module, stages):
    """Cuts between modules are cuts between stages: the losses retrain no teacher, the scoring retrains nothing."""
    assert {stage for stage in STAGES if f"pipeline/tinybert/{module}.py" in code_of(stage)} == stages


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_lists_its_own_group(stage):
    assert stage in STAGES[stage]["params"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_the_groups_that_it_reads(stage):
    source = (ROOT / PACKAGE / f"{stage}.py").read_text(encoding="utf-8")
    listed = {param.split(".")[0] for param in STAGES[stage]["params"]}
    groups = set(read_yaml("params.yaml")) - {"run", "seed", "precision", "tasks"}
    assert {group for group in groups if f'configuration.of("{group}"' in source} <= listed


def test_every_group_is_a_stage():
    assert set(read_yaml("params.yaml")) - {"run", "seed", "precision", "tasks"} == set(STAGES)


@pytest.mark.parametrize("stage", STAGES_A_TASK_MAY_CHANGE)
def test_what_a_task_may_change_is_listed(stage):
    assert "tasks.${item.task}." + stage in STAGES[stage]["params"]


@pytest.mark.parametrize(
    ("setting", "stages"),
    [
        ("kind", {"prepare", "augment", "distill_intermediate", "distill_prediction", "package"} | TEACHING),
        ("metric", {"prepare", "distill_prediction", "package"} | TEACHING),
        ("max_length", {"distill_intermediate", "distill_prediction", "package"} | TEACHING),
    ],
)
def test_a_stage_lists_what_it_reads_of_the_task_itself(setting, stages):
    """No variant is drawn again because the length or the metric is another one."""
    assert {stage for stage in STAGES if "tasks.${item.task}." + setting in STAGES[stage]["params"]} == stages


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("setting", "readings"),
    [
        ("seed", ["configuration.seed", "configuration.numerics"]),
        ("precision", ["configuration.precision", "configuration.numerics"]),
    ],
)
def test_a_stage_lists_what_all_training_shares_where_it_reads_it(stage, setting, readings):
    source = (ROOT / PACKAGE / f"{stage}.py").read_text(encoding="utf-8")
    assert (setting in STAGES[stage]["params"]) == any(reading in source for reading in readings)


@pytest.mark.parametrize("stage", ["distill_intermediate", "evaluate"])
def test_a_stage_does_not_wait_for_libraries_that_it_does_not_need(stage):
    """Each takes half a second or more: of words, of statistics for one kind, of what is shown once there is some."""
    slow = {"nltk", "gensim", "dvclive", "sklearn", "pandas"}
    code = f"import sys, {PACKAGE}.{stage}; print(*{slow} & set(sys.modules))"
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert set(loaded.split()) == {"pandas"}  # of `datasets`
