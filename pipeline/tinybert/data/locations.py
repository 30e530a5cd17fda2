"""Locations of the user's data and models, and their downloads.

``package:NAME@VERSION/PATH`` a file or folder of an installed package; the version may be left out
``hub:OWNER/NAME@COMMIT``     a model or dataset of the Hugging Face hub at a commit (a branch or tag could move)
``gensim:NAME@MD5``           word vectors from gensim's downloads; the MD5 sum of the file may be left out
anything else                 a path, relative to the top of the repository

A path must lie in the folder that its stage depends on in dvc.yaml: ``data/raw/<task>`` if a task's entry names it,
``data/raw/<group>`` if a settings group does. Otherwise DVC would not notice a changed file.

Nothing that is read is executed: packages are not imported, and remote code is refused.
"""

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shlex
from pathlib import Path

import huggingface_hub

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log
from pipeline.tinybert.data.rows import parse_json

RAW = Path("data/raw")
CACHE = ("files", "md5")  # in the path of a file in DVC's cache: .dvc/cache/files/md5/12/3456…
EXPERIMENTS = re.compile(r"/\.dvc/tmp/exps/")
COMMIT = re.compile(r"[0-9a-f]{40}")

huggingface_hub.logging.set_verbosity_error()  # it would warn of each retry


# Paths


def raw_folder(key: str) -> Path:
    """The folder for the user's files that the setting ``key`` may name: data/raw/<task> or data/raw/<group>."""
    group, *rest = key.split(".")
    return RAW / (rest[0] if group == "tasks" else group)


def own_teacher_folder(task: str) -> Path:
    """The folder for the user's own fine-tuned teacher of a task: data/raw/<task>/teacher."""
    return RAW / task / "teacher"


def check_task_folder(task: str) -> None:
    """Raise UserError if data/raw/<task> does not exist. `prepare` depends on it, wherever the rows come from."""
    folder = RAW / task
    if not folder.is_dir():
        raise UserError(
            f"{folder}: there is no such folder, and DVC fails without it: `mkdir -p {folder}`, then put the task's"
            f" files there, or a README.md that says where its rows come from{untracked_hint()}"
        )


def untracked_hint() -> str:
    """Advice on a missing file if this is the copy of the workspace in which a queued experiment runs; else nothing."""
    if not EXPERIMENTS.search(Path.cwd().as_posix()):
        return ""
    return (
        ": a queued experiment has only files that git or DVC tracks: `git add` or `dvc add` the file, then queue again"
    )


def local_path(location: str, key: str, folder: Path | None = None) -> Path:
    """The local file or folder that a ``package:`` location or a path names.

    ``key``: the setting that holds the location. ``folder``: where a path must lie, by default ``raw_folder(key)``.
    Raises UserError if the file or folder does not exist or lies elsewhere.
    """
    if location.startswith("package:"):
        return _package_path(location, key)
    path = Path(location)
    if not path.exists():
        raise UserError(f"{key}: there is no file or folder {location}{untracked_hint()}")
    check_place(path, folder or raw_folder(key), key)
    return path


def _package_path(location: str, key: str) -> Path:
    name, _, inner = location.removeprefix("package:").partition("/")
    name, _, version = name.partition("@")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{key}: no package '{name}' is installed: pip install it (requirements.txt), or change {key}")
    folder = Path(next(iter(spec.submodule_search_locations)))
    if folder.parent.resolve() == Path.cwd():
        raise UserError(f"{key}: the folder {name} here hides the installed package '{name}': rename the folder")
    path = folder / inner
    if not path.exists():
        raise UserError(f"{key}: the installed package '{name}' has no {inner}")
    _check_version(name, version, inner, key)
    return path


@functools.cache
def _check_version(name: str, version: str, inner: str, key: str) -> None:
    """UserError if another version is installed. Without a version, log once that DVC does not see a change of it."""
    distributions = importlib.metadata.packages_distributions().get(name)
    found = importlib.metadata.version(distributions[0]) if distributions else "unknown"
    value = f"package:{name}@{found}/{inner}".rstrip("/")
    if version and version != found:
        raise UserError(
            f"{key}: version {version} of the package '{name}' is asked for, {found} is installed: pip install that"
            f" version, or set {key}: {value}"
        )
    if not version and distributions:
        log(f"{key}: DVC does not notice another version of the package '{name}' unless you set {key}: {value}")


def check_place(path: Path, folder: Path, key: str, value: str | None = None) -> None:
    """Raise UserError if ``path``, or a link below it, leads out of ``folder``, which the stage depends on.

    DVC does not follow symbolic links to folders. Links into DVC's own cache are allowed (``cache.type symlink``).
    ``value``: the setting's new value after the file was moved into the folder, for the message.
    """
    top = Path.cwd().resolve()

    def outside(entry: Path) -> bool:
        target = entry.resolve()
        return not target.is_relative_to(top / folder) and target.parts[-4:-2] != CACHE

    if outside(path) and not Path(os.path.abspath(path)).is_relative_to(top / folder):
        raise UserError(_advice_to_move(path, folder, key, value or str(folder / path.name)))
    for entry in (path, *path.rglob("*")):
        if outside(entry):
            link = next(part for part in (*reversed(entry.parents), entry) if part.is_symlink())
            raise UserError(
                f"{key}: {link} is a link to {link.resolve()}: DVC would not see a file change there. Replace the link"
                f" by a copy: `{_command('rm', link)} && {_command('cp', '-r', link.resolve(), link)}`"
            )


def _advice_to_move(path: Path, folder: Path, key: str, value: str) -> str:
    problem = f"{key}: {path} is not in {folder}, on which the stage depends: DVC would not see the file change."
    if (Path.cwd() / folder).is_relative_to(path.resolve()):
        return f"{problem} Run `mkdir -p {folder}`, move its files there, then set {key}: {folder}"
    # A file in a folder of another task is copied: the other task may read it too.
    move = ["mv"] if path.parent == RAW else ["cp", "-rL"]
    return f"{problem} Run `mkdir -p {folder} && {_command(*move, path, f'{folder}/')}`, then set {key}: {value}"


def _command(*words: str | Path) -> str:
    return shlex.join(map(str, words))


def file_hashes(folder: Path) -> dict[str, str]:
    """Path below ``folder`` → SHA-256, for each file; empty if there is no such folder."""
    hashes = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with open(path, "rb") as file:
            hashes[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


# Models and the hub


def hub_id(location: str, key: str) -> tuple[str, str]:
    """Parse ``hub:OWNER/NAME@COMMIT`` into (OWNER/NAME, COMMIT)."""
    name, _, commit = location.removeprefix("hub:").partition("@")
    if not name or not COMMIT.fullmatch(commit):
        raise UserError(
            f"{key}: {location}: expected hub:OWNER/NAME@COMMIT, the 40 hexadecimal digits of a commit of the"
            " repository (its page lists them under Files, History): a branch or a tag would move"
        )
    return name, commit


def checkpoint_folder(location: str, key: str, within: Path | None = None) -> Path:
    """The folder of a model (configuration, weights, tokenizer), downloaded first if it is on the hub.

    ``within``: the folder in which a path must lie, by default ``raw_folder(key)``.
    Raises UserError if it is no model, or if its configuration requires remote code (``auto_map``).
    """
    folder = _download_model(location, key) if location.startswith("hub:") else local_path(location, key, within)
    config = folder / "config.json"
    if not config.is_file():
        raise UserError(f"{key}: {location} has no config.json: expected the folder of a Hugging Face model")
    for file in (path for path in (config, folder / "tokenizer_config.json") if path.is_file()):
        try:
            settings = parse_json(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{key}: {location}: {file.name} is not valid JSON: {error}") from None
        if "auto_map" in settings:
            raise UserError(f"{key}: {location} requires remote code (auto_map in {file.name}), which is refused")
    return folder


def _download_model(location: str, key: str) -> Path:
    name, revision = hub_id(location, key)
    log(f"downloading {name} at {revision}")
    huggingface_hub.utils.enable_progress_bars()  # transformers' own switch turns them off
    patterns = ["*.json", "*.txt", "*.safetensors"]
    try:
        folder = Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns))
        if not any(folder.glob("*.safetensors")):
            huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=["pytorch_model.bin"])
    except Exception as error:
        raise download_error(location, key, error) from error
    return folder


def download_error(location: str, key: str, error: Exception) -> UserError:
    """The UserError for a failed download: the first line of the cause, and advice."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(
        f"{key}: cannot fetch {location} ({type(error).__name__}: {reason}): check the name, the revision and the"
        " network, or name an installed package or a folder"
    )
