"""What a change makes stale: one changed line or file, and the stages that `dvc status` then names.

The real dvc.yaml and code, in a repository where every stage is recorded as up to date with small stand-ins for its
outputs. Nothing runs.
"""

import contextlib
import copy
import functools
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import networkx
import pytest
import ruamel.yaml
from dvc.repo import Repo
from dvc.utils.serialize import _yaml
from tiny import COMMON, OF_ALL, PER_TASK, ROOT, set_value

TASK, OTHER = TASKS = ("rotten_tomatoes", "sst2")
LIBRARY = "pipeline/tinybert"
SCORES = '{"student": {"accuracy": 0.75}}\n'
RESAMPLED = (
    '{"part": "test", "metric": "accuracy", "rows": 4, "digest": "aa", "score": 0.75, "resampled": [0.5, 0.75, 1]}\n'
)
TEACHER = f"data/raw/{TASK}/teacher/model.safetensors"


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Iterator[Repo]:
    """The project's files with two tasks to run, and every stage recorded as up to date."""
    folder = tmp_path_factory.mktemp("repository")
    tracked = subprocess.check_output(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
    )
    for name in tracked.splitlines():
        if (ROOT / name).is_file() and name != "dvc.lock" and not name.startswith(("metrics/", "tests/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    yaml = ruamel.yaml.YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["run"] = list(TASKS)
    params["tasks"] = {task: params["tasks"][task] for task in TASKS}
    yaml.dump(params, folder / "params.yaml")
    teacher = folder / TEACHER
    teacher.parent.mkdir()
    teacher.write_text("weights")
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("site")))
        # DVC parses params.yaml again for each stage, which would take most of the time.
        parse = functools.cache(_yaml.parse_yaml)
        patch.setattr(_yaml, "parse_yaml", lambda *arguments: copy.deepcopy(parse(*arguments)))
        subprocess.run(["git", "init", "--quiet"], check=True)
        subprocess.run(["git", "add", "--all"], check=True)
        with Repo() as repo:
            outputs = {str(out) for stage in repo.index.stages for out in stage.outs}
            inputs = {str(dep) for stage in repo.index.stages for dep in stage.deps if not dep.exists}
            for name in outputs | inputs:
                path = Path(name) if Path(name).suffix else Path(name, "file")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text({".json": SCORES, ".jsonl": RESAMPLED}.get(path.suffix, name))
            repo.commit(force=True)
            assert repo.status() == {}
            with repo.lock:
                yield repo


@pytest.fixture
def stale(repository) -> Iterator[Callable]:
    """``stale(name, change)``: the stages that are stale after this change of a file's text ("" if it is new).

    Returns those that `dvc status` names, and the further ones that run if an output that they read changes.
    """
    with contextlib.ExitStack() as undo, contextlib.chdir(repository.root_dir):

        def change_and_ask(name: str, change: Callable[[str], str]) -> tuple[set[str], set[str]]:
            path = Path(name)
            before = path.read_text(encoding="utf-8") if path.exists() else ""
            undo.callback(path.write_text, before, encoding="utf-8") if path.exists() else undo.callback(path.unlink)
            path.parent.mkdir(exist_ok=True)
            path.write_text(change(before), encoding="utf-8")
            assert path.read_text(encoding="utf-8") != before
            # As repo.status() does, which also reads dvc.yaml and dvc.lock again.
            named = {stage.addressing for stage in repository.index.stages if stage.status(check_updates=True)}
            graph = networkx.relabel_nodes(repository.index.graph, lambda stage: stage.addressing)
            return named, set().union(*(networkx.ancestors(graph, stage) for stage in named)) - named

        yield change_and_ask


def further_line(text: str) -> str:
    return f"{text}\n# Changed.\n"


def expand(stages: str, tasks: tuple[str, ...] = TASKS) -> set[str]:
    """Names as DVC writes them: a stage that runs for each task gets ``@task``."""
    return {
        name
        for stage in stages.split()
        for name in ([stage] if stage in (*COMMON, *OF_ALL) else [f"{stage}@{task}" for task in tasks])
    }


def with_summary(named: str, further: str, tasks: tuple[str, ...] = TASKS) -> tuple[set[str], set[str]]:
    """Both expanded; `summary` follows each stage of a task."""
    follows = named and not set(OF_ALL) & set(named.split())
    return expand(named, tasks), expand(" ".join([further, *(OF_ALL if follows else ())]), tasks)


def test_every_stage_is_recorded_for_each_task(repository):
    assert {stage.addressing for stage in repository.index.stages} == expand(" ".join([*COMMON, *PER_TASK, *OF_ALL]))


DEPLOY = "export benchmark package"
DISTIL = "distill_intermediate distill_prediction"

# What the change is, the file with it, the stages that `dvc status` names, and those that run if an output changes.
CODE = {
    "a loss": (
        "distillation/losses.py",
        f"general_student {DISTIL}",
        f"finetune_student evaluate {DEPLOY}",
    ),
    "scoring": ("evaluation/scoring.py", "evaluate export package summary", "benchmark"),
    "the settings schema": ("core/settings.py", "", ""),
    "a plot": ("core/curves.py", "", ""),
    "a progress bar, a message": ("core/log.py", "", ""),
    "an export format": ("release/onnx_model.py", DEPLOY, ""),
    # A room is one dependency: all stages that read rows of any kind depend on each kind's module.
    "one kind's metric": (
        "tasks/text_classification.py",
        f"prepare general_student augment finetune_teacher {DISTIL} finetune_student evaluate {DEPLOY}",
        "",
    ),
    # The training loop may change every model, so its whole room counts for each stage that trains.
    "code for CUDA graphs": (
        "training/cuda_graphs.py",
        f"encoder general_student finetune_teacher {DISTIL} finetune_student package",
        "augment evaluate export benchmark",
    ),
    "the draw of augmentation": (
        "augmentation/word_replacement.py",
        "encoder augment package",
        f"general_student finetune_teacher {DISTIL} finetune_student evaluate export benchmark",
    ),
}


@pytest.mark.parametrize(("file", "named", "further"), CODE.values(), ids=CODE)
def test_a_changed_line_of_code_makes_these_stages_stale(stale, file, named, further):
    assert stale(f"{LIBRARY}/{file}", further_line) == with_summary(named, further)


@pytest.mark.parametrize("stage", [*COMMON, *PER_TASK, *OF_ALL])
def test_a_stage_s_script_makes_only_this_stage_stale(stale, stage):
    assert stale(f"pipeline/{stage}.py", further_line)[0] == expand(stage)


@pytest.mark.parametrize("script", ["predict", "new_task", "__init__"])
def test_a_script_that_is_no_stage_makes_nothing_stale(stale, script):
    assert stale(f"pipeline/{script}.py", further_line) == (set(), set())


SETTINGS = {
    "distill_prediction.temperature": (2, "distill_prediction package", "evaluate export benchmark"),
    "finetune_teacher.learning_rate": (1e-3, "finetune_teacher package", f"{DISTIL} evaluate export benchmark"),
    "augment.variants": (4, "augment package", f"{DISTIL} evaluate export benchmark"),
    "evaluate.resamples": (7, "evaluate package", ""),
    "export.frequent_words": (7, "export package", "benchmark"),
    "benchmark.seconds": (0.1, "benchmark package", ""),
    "prepare.seed": (
        5,
        "prepare package",
        f"general_student finetune_teacher augment finetune_student {DISTIL} evaluate export benchmark",
    ),
}


@pytest.mark.parametrize(
    ("key", "value", "named", "further"), [(key, *row) for key, row in SETTINGS.items()], ids=SETTINGS
)
def test_a_changed_setting_makes_these_stages_stale(stale, key, value, named, further):
    assert stale("params.yaml", set_value(key, value)) == with_summary(named, further)


def test_a_task_s_own_setting_makes_only_its_own_stages_stale(stale):
    named, further = stale("params.yaml", set_value(f"tasks.{TASK}.finetune_student", {"epochs": 1}))
    assert named == expand("finetune_student package", (TASK,))
    assert further == expand("evaluate summary", (TASK,))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: f"# A comment before all.\n{text}",
        lambda text: text.replace("augment:\n", "augment:  # of words\n", 1),
        lambda text: "".join(line.split("#")[0].rstrip() + "\n" for line in text.splitlines()),
        lambda text: text.replace("seed: 1", "# first\n# second\nseed: 1", 1).replace("run:", "# third\nrun:", 1),
    ],
    ids=["before", "beside", "all removed", "several"],
)
def test_a_comment_in_the_parameters_makes_nothing_stale(stale, change):
    assert stale("params.yaml", change) == (set(), set())


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (f"data/raw/{OTHER}/new.csv", expand("prepare", (OTHER,))),
        (f"data/raw/{TASK}/README.md", expand("prepare", (TASK,))),
        (TEACHER, expand("prepare", (TASK,))),
        ("data/raw/films/rows.csv", set()),
        ("data/raw/encoder/text.csv", expand("encoder prepare")),  # text for tasks without unlabelled text
        ("data/raw/word_vectors/vectors.txt", {"word_vectors"}),
        ("data/raw/general_student/text.csv", expand("general_student")),
        ("data/raw/finetune_teacher/config.json", expand("finetune_teacher")),
    ],
    ids=[
        "new file",
        "changed file",
        "own teacher",
        "task that is not run",
        "encoder",
        "word vectors",
        "general student",
        "teacher's encoder",
    ],
)
def test_a_user_s_file_makes_only_the_stage_of_its_folder_stale(stale, file, expected):
    assert stale(file, lambda text: f"{text}a line\n")[0] == expected


def test_new_weights_of_the_own_teacher_run_that_stage_again_and_new_text_does_not(stale):
    """Both rerun `prepare`, which writes the hashes of the weights to a file of its own; the teacher depends on it."""
    named, _ = stale(f"data/{TASK}/own_teacher.json", lambda text: "{}")
    assert named == expand("prepare finetune_teacher", (TASK,))  # `prepare` because its output was edited here


def test_new_unlabelled_text_does_not_train_the_teacher_again(stale):
    named, _ = stale(f"data/{TASK}/unlabelled/file", lambda text: "another text")
    assert named == expand(f"prepare {DISTIL}", (TASK,))  # `prepare` because its output was edited here
