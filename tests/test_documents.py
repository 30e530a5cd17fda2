"""The documents name only what exists: links, files, settings, commands with their options, and messages."""

import ast
import functools
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import ruamel.yaml
from dvc.cli.parser import get_main_parser

from pipeline.tinybert.core import settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")),
             ROOT / "models/README.md", ROOT / "data/raw/README.md"]  # fmt: skip
PARAMS = ruamel.yaml.YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
STAGES = ruamel.yaml.YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]
LONGEST_README = 1900  # words
FILE_ENDING = r"\.(py|md|ya?ml|lock|jsonl?|csv|html|txt|safetensors|onnx)$"
IGNORED = (".dvc/tmp", ".dvc/cache", ".dvc/config.local")  # by git

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())


def read(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def blocks(document: Path, language: str) -> list[str]:
    """The contents of the code blocks of a language, without their indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", read(document), re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def prose(document: Path) -> str:
    """The text without its code blocks."""
    return re.sub(r"^ *```.*?^ *```", "", read(document), flags=re.MULTILINE | re.DOTALL)


def spans(document: Path) -> list[str]:
    """The contents of `code` in the text."""
    return re.findall(r"`([^`\n]+)`", prose(document))


def commands(document: Path) -> list[list[str]]:
    """The words of each shell command in a document, without variables, comments and here-documents."""
    lines = []
    for block in blocks(document, "bash"):
        block = re.sub(r"<<'(\w+)'.*?^\1$", "", block, flags=re.MULTILINE | re.DOTALL).replace("\\\n", " ")
        lines += [part for line in block.splitlines() for part in line.strip("()").split("&&")]
    lines += [span for span in spans(document) if re.match(r"([A-Z_]+=\S+ )*(dvc|python) ", span)]
    found = [shlex.split(line, comments=True) for line in lines if "…" not in line]
    without_variables = [words[next((at for at, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)), 0) :]
                         for words in found]  # fmt: skip
    return [[word.strip("()") for word in words] for words in without_variables if words]


def anchor(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(document: Path) -> set[str]:
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)}


@each_document
def test_every_link_leads_to_a_file_and_a_heading(document):
    broken = []
    for target in re.findall(r"\]\(\s*([^)\s]+)\s*\)", prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        if not file.exists() or (heading and heading not in anchors(file)):
            broken.append(target)
    assert broken == []


@each_document
def test_every_file_of_the_repository_that_is_named_exists(document):
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split()
    places = {path.split("/")[0] for path in tracked if "/" in path} - {"data", "models", "metrics"}
    files = [span for span in spans(document) if re.fullmatch(r"[\w./-]+", span) and span.split("/")[0] in places]
    assert [file for file in files if not (ROOT / file).exists() and not file.startswith(IGNORED)] == []


def test_commands_and_settings_are_found():
    """The tests below are of nothing else."""
    dvc = [words for document in DOCUMENTS for words in dvc_commands(document)]
    python = [words for document in DOCUMENTS for words in commands(document) if words[0] == "python"]
    settings = [name for document in DOCUMENTS for name in settings_named(document)]
    assert (len(dvc) > 25, len(python) > 40, len(settings) > 40) == (True, True, True)
    assert any(words[:2] == ["python", "-m"] for words in python)


@each_document
def test_every_module_and_script_that_is_called_exists(document):
    missing = []
    for words in commands(document):
        if words[:2] == ["python", "-m"] and words[2].startswith("pipeline."):
            missing += [words[2]] * (not (ROOT / f"{words[2].replace('.', '/')}.py").exists())
        elif words[0] == "python":
            missing += [word for word in words if word.endswith(".py") and not (ROOT / word).exists()]
    assert missing == []


def dvc_commands(document: Path) -> list[list[str]]:
    return [words for words in commands(document) if words[0] == "dvc" and len(words) > 2]  # not the name `dvc add`


@each_document
def test_dvc_accepts_every_command(document):
    for words in dvc_commands(document):
        get_main_parser().parse_args(words[1:])  # exits with 2 if an option does not exist


def settings_named(document: Path) -> list[str]:
    """What looks like a setting: not files and modules. In the reference, which test_reference.py compares with the
    code, only those of `-S`: it names the others without their groups.
    """
    named = [] if document.name == "reference.md" else spans(document)
    names = [span.split(":")[0] for span in named if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+(: \S.*)?", span)]
    names += [words[at + 1].split("=")[0] for words in commands(document) for at, word in enumerate(words)
              if word == "-S"]  # fmt: skip
    return [name for name in names if not re.search(FILE_ENDING, name) and not name.startswith("pipeline.")]


@each_document
def test_every_setting_that_is_named_exists(document):
    wrong = []
    for name in settings_named(document):
        group = PARAMS
        for key in name.split("."):
            group = group.get(key, "missing") if isinstance(group, dict) else "missing"
        wrong += [name] * (group == "missing")
    assert wrong == []


def test_the_readme_is_short():
    assert len(read(ROOT / "README.md").split()) <= LONGEST_README


def test_the_readme_s_commands_install_in_a_new_folder_and_test_in_an_existing_clone():
    lines = read(ROOT / "README.md").splitlines()
    install = next(line for line in lines if "pip install" in line)
    test = next(line for line in lines if "python -m pytest" in line)  # .ci/run executes this line
    assert install.startswith("git clone ")
    assert install.endswith("dvc repro")
    assert test.startswith("python3 -m venv .venv && ")
    torch = re.search(r"^torch==\S+", read(ROOT / "requirements.txt"), re.MULTILINE).group()
    packages = f"pip install {torch} && pip install --no-deps -r requirements.lock"
    assert packages in install
    for other in ("CONTRIBUTING.md", ".devcontainer/devcontainer.json"):
        assert packages in read(ROOT / other)
    assert test.endswith(f"{packages} && python -m pytest")


def test_the_readme_explains_every_stage():
    explained = re.findall(r"^\| `(\w+)` \| \w", read(ROOT / "README.md"), re.MULTILINE)
    assert [name for name in STAGES if name not in explained] == []


def test_the_readme_names_every_room():
    rooms = {path.parent.name for path in (ROOT / "pipeline/tinybert").glob("*/__init__.py")}
    named = set(re.findall(r"^    (\w+)/ ", read(ROOT / "README.md"), re.MULTILINE))
    assert named == rooms


def test_the_entry_in_the_documents_is_valid(tmp_path):
    (entry,) = (block for block in blocks(ROOT / "docs/your-task.md", "yaml") if block.startswith("  films:"))
    path = tmp_path / "params.yaml"
    path.write_text(read(ROOT / "params.yaml").replace("\ntasks:\n", f"\ntasks:\n{entry}\n"), encoding="utf-8")
    films = settings.load(path).task("films")
    assert (films.kind, films.source.group) == ("regression", "film")


@pytest.mark.parametrize("block", blocks(ROOT / "docs/troubleshooting.md", "yaml"))
def test_the_settings_in_the_troubleshooting_page_are_valid(block, tmp_path):
    params = dict(PARAMS)
    for group, values in ruamel.yaml.YAML(typ="safe", pure=True).load(block).items():
        params[group] = {**params[group], **values}
    path = tmp_path / "params.yaml"
    ruamel.yaml.YAML(typ="safe", pure=True).dump(params, path)
    settings.load(path)


@functools.cache
def strings_of_the_code() -> str:
    """All strings of the pipeline, one a line, with … in place of the values of an f-string, except constants."""
    found = []
    for file in (ROOT / "pipeline").rglob("*.py"):
        module = ast.parse(read(file))
        constants = {
            target.id: node.value.value
            for node in module.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets if isinstance(target, ast.Name)
        }  # fmt: skip
        for node in ast.walk(module):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(text_of(part, constants) for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def text_of(part: ast.expr, constants: dict[str, object]) -> str:
    """A part of an f-string."""
    if isinstance(part, ast.Constant):
        return part.value
    value = part.value if isinstance(part, ast.FormattedValue) else None
    return str(constants.get(value.id, "…")) if isinstance(value, ast.Name) else "…"


@pytest.mark.parametrize("message", [
    line for block in blocks(ROOT / "docs/troubleshooting.md", "text") for line in block.splitlines()
    if not line.startswith(("ERROR:", "  (PID"))
])  # fmt: skip
def test_the_code_has_the_messages_of_the_troubleshooting_page(message):
    code = strings_of_the_code()
    assert [part for part in message.split("…") if part not in code] == []
