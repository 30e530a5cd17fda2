"""dvc.yaml lists the code and parameters that each stage reads, because DVC infers neither.

Code is listed as the stage's script and its rooms (the folders of pipeline/tinybert), all but `core`, where nothing can
change a result.
"""

import ast
import functools
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ruamel.yaml
from dvc.repo import Repo

from pipeline.tinybert.core.settings import STAGES_A_TASK_MAY_CHANGE

ROOT = Path(__file__).parents[1]
PACKAGE = "pipeline"
LIBRARY = f"{PACKAGE}/tinybert"
CORE = "core"
NOT_STAGES = ("cost", "experiments", "new_task", "predict", "report")
WITHOUT_SETTINGS = {"summary"}


def read_yaml(name: str) -> dict:
    return ruamel.yaml.YAML(typ="safe", pure=True).load((ROOT / name).read_text(encoding="utf-8"))


STAGES = read_yaml("dvc.yaml")["stages"]
MODULES = sorted((ROOT / LIBRARY).glob("*/*.py"))

# Each room, and the rooms that its modules may import besides their own.
ALLOWED: dict[str, set[str]] = {CORE: set(), "data": {CORE}}
ALLOWED["models"] = {CORE, "data"}
ALLOWED["tasks"] = {CORE, "data", "models"}
ALLOWED |= dict.fromkeys(
    ("preparation", "guessing", "training", "evaluation", "release"), {CORE, "data", "models", "tasks"}
)
ALLOWED |= dict.fromkeys(("augmentation", "distillation"), {CORE, "data", "models", "tasks", "training"})
ALLOWED["report"] = {CORE, "data", "evaluation"}
ALLOWED["cost"] = {CORE, "data", "models", "tasks", "training", "augmentation", "release"}


def module_file(module: str) -> Path | None:
    """The project's file of a dotted name (a package's is its __init__.py); None if the name is not a module's."""
    path = ROOT.joinpath(*module.split("."))
    files = [path / "__init__.py", path.with_suffix(".py")]
    return next((file for file in files if file.is_file()), None)


def executed_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below, without the blocks of ``if TYPE_CHECKING:``, which never run."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            assert not child.orelse, "an `else` of `if TYPE_CHECKING:` is not followed here"
            continue
        yield child
        yield from executed_nodes(child)


@functools.cache
def imported_files(file: Path) -> set[Path]:
    """The project's files that a file imports anywhere, in functions too, with the packages on the way to them."""
    found = set()
    for node in executed_nodes(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{file}: relative imports are not followed here"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            if parts[0] == PACKAGE:
                found |= {module_file(".".join(parts[:count])) for count in range(1, len(parts) + 1)} - {None}
    return found


def code_of(stage: str) -> set[Path]:
    """Files of the project that ``python -m pipeline.<stage>`` imports, directly or through others, and its script."""
    found, waiting = set(), {ROOT / PACKAGE / "__init__.py", ROOT / PACKAGE / f"{stage}.py"}
    while waiting:
        file = waiting.pop()
        found.add(file)
        waiting |= imported_files(file) - found
    return found


def room(file: Path) -> str | None:
    """The room of a module; None for what is in no room: a stage's script, an __init__ outside the rooms."""
    parts = file.relative_to(ROOT).parts
    return parts[2] if len(parts) == 4 else None


def rooms_of(stage: str) -> set[str]:
    return {name for name in map(room, code_of(stage)) if name is not None}


def code_deps(stage: str) -> list[str]:
    return [dep for dep in STAGES[stage]["deps"] if dep.startswith(f"{PACKAGE}/")]


def test_every_stage_script_is_a_stage():
    scripts = {path.stem for path in (ROOT / PACKAGE).glob("*.py")} - {"__init__", *NOT_STAGES}
    assert scripts == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_code_deps_are_the_script_and_the_rooms_that_it_imports(stage):
    """Each imported module lies in a listed room or in core, and each listed room is imported."""
    rooms = sorted(f"{LIBRARY}/{name}" for name in rooms_of(stage) - {CORE})
    first, *others = code_deps(stage)
    assert first == f"{PACKAGE}/{stage}.py"
    assert sorted(others) == rooms


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_no_other(stage):
    others = {ROOT / PACKAGE / f"{other}.py" for other in {*STAGES, *NOT_STAGES} - {stage}}
    assert not others & code_of(stage)


def test_every_module_is_in_a_room_that_the_rules_know():
    files = (path for path in (ROOT / LIBRARY).rglob("*.py") if "__pycache__" not in path.parts)
    assert {file for file in files if room(file) not in ALLOWED} == {ROOT / LIBRARY / "__init__.py"}
    assert (ROOT / LIBRARY / "__init__.py").read_text() == ""


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.relative_to(ROOT / LIBRARY).as_posix())
def test_a_module_imports_only_rooms_on_which_its_own_may_depend(file):
    """Imports go one way: core ← data ← models ← tasks ← training ← the others; core imports no other room."""
    imported = {room(other) for other in imported_files(file)} - {None, room(file)}
    assert imported <= ALLOWED[room(file)]


def test_scripts_are_imported_by_no_room():
    scripts = set((ROOT / PACKAGE).glob("*.py")) - {ROOT / PACKAGE / "__init__.py"}
    assert not {file for file in MODULES if imported_files(file) & scripts}


def test_no_stage_depends_on_core_or_on_another_s_script():
    listed = {stage: [dep for dep in code_deps(stage) if dep.endswith((CORE, ".py"))] for stage in STAGES}
    assert listed == {stage: [f"{PACKAGE}/{stage}.py"] for stage in STAGES}


def test_every_folder_of_data_raw_that_a_stage_depends_on_exists():
    """DVC fails if a dependency is missing. git does not store an empty folder, so each has a README.md."""
    listed = {dep for stage in STAGES.values() for dep in stage["deps"] if dep.startswith("data/raw")}
    assert listed == {
        f"data/raw/{name}"
        for name in ("encoder", "word_vectors", "general_student", "finetune_teacher", "${item.task}")
    }
    folders = {dep.replace("${item.task}", task) for dep in listed for task in read_yaml("params.yaml")["tasks"]}
    assert {folder for folder in folders if not (ROOT / folder / "README.md").is_file()} == set()


def test_dvc_yaml_is_short_enough_to_read():
    assert len((ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("stage", sorted(set(STAGES) - WITHOUT_SETTINGS))
def test_each_stage_lists_its_own_group(stage):
    assert stage in STAGES[stage]["params"]


NOT_IN_OUTPUTS = {"prepare": {"finetune_teacher"}}  # read for what is logged


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_the_groups_that_it_reads(stage):
    source = (ROOT / PACKAGE / f"{stage}.py").read_text(encoding="utf-8").replace("(STAGE,", f'("{stage}",')
    groups = "|".join(set(read_yaml("params.yaml")) - {"run", "seed", "precision", "tasks"})
    read = set(re.findall(rf'(?:configuration|load\(\))\.(?:(?:of|quietly)\(")?({groups})\b', source))
    assert stage in read | WITHOUT_SETTINGS
    listed = {param.split(".")[0] for param in STAGES[stage]["params"]}
    assert read - NOT_IN_OUTPUTS.get(stage, set()) <= listed


def test_every_group_is_a_stage_except_that_of_the_review():
    assert (
        set(read_yaml("params.yaml")) - {"run", "seed", "precision", "review", "tasks"}
        == set(STAGES) - WITHOUT_SETTINGS
    )


@pytest.mark.parametrize("stage", STAGES_A_TASK_MAY_CHANGE)
def test_what_a_task_may_change_is_listed(stage):
    assert "tasks.${item.task}." + stage in STAGES[stage]["params"]


STUDENT = {"general_student", "distill_intermediate", "distill_prediction"}
TRAIN_OR_SCORE = {"finetune_teacher", "finetune_student", "evaluate", "export", "benchmark"}


@pytest.mark.parametrize(
    ("setting", "stages"),
    [
        ("kind", {"prepare", "augment", "package"} | STUDENT | TRAIN_OR_SCORE),
        ("metric", {"prepare", "distill_prediction", "package"} | TRAIN_OR_SCORE),
        ("max_length", {"augment", "package"} | STUDENT | TRAIN_OR_SCORE),
    ],
)
def test_a_stage_lists_what_it_reads_of_the_task_itself(setting, stages):
    """A change of the metric does not draw the augmented rows again."""
    assert {stage for stage in STAGES if "tasks.${item.task}." + setting in STAGES[stage]["params"]} == stages


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("setting", "readings"),
    [
        ("seed", ["configuration.seed", "configuration.numerics"]),
        ("precision", ["configuration.precision", "configuration.numerics"]),
    ],
)
def test_a_stage_lists_the_settings_of_all_training_if_it_reads_them(stage, setting, readings):
    source = (ROOT / PACKAGE / f"{stage}.py").read_text(encoding="utf-8")
    assert (setting in STAGES[stage]["params"]) == any(reading in source for reading in readings)


def test_a_stage_does_not_wait_for_libraries_that_it_does_not_need():
    """Each takes half a second or more to import: tokenizers of words, statistics for one kind, live plots."""
    slow = {"nltk", "gensim", "dvclive", "sklearn", "pandas"}
    stages = ", ".join(f"{PACKAGE}.{stage}" for stage in ("distill_intermediate", "evaluate"))
    code = f"import sys, {stages}; print(*{slow} & set(sys.modules))"
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert loaded.split() == []


def test_no_name_of_a_task_is_executed_by_the_shell(tmp_path):
    names = ["$(touch x)", "`touch x`", "a; touch x", "a'b", "x y", "tiny"]
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "params.yaml").write_text(f"run: {names}\n")
    with Repo.init(tmp_path, no_scm=True) as repo:
        commands = [shlex.split(stage.cmd) for stage in repo.index.stages if "--task" in stage.cmd]
    assert len(commands) == len(names) * sum("matrix" in stage for stage in STAGES.values())
    assert {tuple(words[3:]) for words in commands} == {("--task", name) for name in names}
