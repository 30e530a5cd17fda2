"""A path lies in the folder that its stage depends on; otherwise DVC would not see the file change."""

from pathlib import Path

import pytest

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import Source
from pipeline.tinybert.data import sources

KEY = "tasks.films.source.location"
HOME = Path("data/raw/films")
WHY = "on which the stage depends: DVC would not see the file change."


@pytest.fixture(autouse=True)
def elsewhere(in_empty_folder, tmp_path_factory) -> Path:
    """A folder outside the repository with a file; the task's own folder has another."""
    HOME.mkdir(parents=True)
    (HOME / "rows.csv").write_text("text\na film\n")
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "more.csv").write_text("text\na plot\n")
    return folder


def refusal(path, key: str = KEY) -> str:
    with pytest.raises(UserError) as raised:
        sources.local_path(str(path), key)
    return str(raised.value)


@pytest.mark.parametrize(
    ("key", "folder"),
    [
        (KEY, "films"),
        ("tasks.films.unlabelled.location", "films"),
        ("encoder.masked_language_model.text.location", "encoder"),
        ("word_vectors.stop_words", "word_vectors"),
        ("general_student.distillation.text.location", "general_student"),
    ],
)
def test_each_task_and_each_group_has_a_folder(key, folder):
    assert sources.raw_folder(key) == Path("data/raw", folder)


@pytest.mark.parametrize("location", ["data/raw/films/rows.csv", "data/raw/films", "data/raw/films/../films/rows.csv"])
def test_a_path_in_the_task_s_folder_is_used(location):
    assert sources.local_path(location, KEY) == Path(location)
    assert sources.local_path(str(Path(location).absolute()), KEY) == Path(location).absolute()


def test_a_file_beside_the_folder_is_to_be_moved():
    Path("data/raw/films.csv").touch()
    assert refusal("data/raw/films.csv") == (
        f"{KEY}: data/raw/films.csv is not in data/raw/films, {WHY} Run `mkdir -p data/raw/films && mv"
        f" data/raw/films.csv data/raw/films/`, then set {KEY}: data/raw/films/films.csv"
    )


def test_a_file_of_another_task_or_from_outside_is_to_be_copied(elsewhere):
    Path("data/raw/plots").mkdir()
    Path("data/raw/plots/my rows.csv").touch()
    assert (
        f"&& cp -rL 'data/raw/plots/my rows.csv' data/raw/films/`, then set {KEY}: data/raw/films/my rows.csv"
    ) in refusal("data/raw/plots/my rows.csv")
    assert f"&& cp -rL {elsewhere}/more.csv data/raw/films/`" in refusal(elsewhere / "more.csv")


def test_the_files_of_a_folder_above_are_to_be_moved():
    assert refusal("data/raw") == (
        f"{KEY}: data/raw is not in data/raw/films, {WHY} Run `mkdir -p data/raw/films`, move its files there, then set"
        f" {KEY}: data/raw/films"
    )


@pytest.mark.parametrize("name", ["more.csv", "deeper/more.csv"])
def test_a_link_that_leads_outside_is_to_be_replaced(elsewhere, name):
    """Of a file, of a folder, and of one below the folder that is named."""
    (HOME / name).parent.mkdir(exist_ok=True)
    (HOME / name).symlink_to(elsewhere / "more.csv")
    expected = (
        f"{KEY}: data/raw/films/{name} is a link to {elsewhere}/more.csv: DVC would not see a file change there."
        f" Replace the link by a copy: `rm data/raw/films/{name} && cp -r {elsewhere}/more.csv data/raw/films/{name}`"
    )
    assert refusal(HOME / name) == refusal(HOME) == expected


def test_a_linked_folder_is_to_be_replaced(elsewhere):
    (HOME / "linked").symlink_to(elsewhere)
    assert f"data/raw/films/linked is a link to {elsewhere}: " in refusal(HOME / "linked" / "more.csv")
    Path("data/raw/plots").symlink_to(elsewhere)
    key = "tasks.plots.source.location"
    assert f"{key}: data/raw/plots is a link to {elsewhere}: " in refusal("data/raw/plots/more.csv", key)


def test_a_link_within_the_folder_or_into_dvc_s_cache_is_used():
    (HOME / "latest.csv").symlink_to("rows.csv")
    cached = Path(".dvc/cache/files/md5/12/3456").absolute()
    cached.parent.mkdir(parents=True)
    cached.write_text("text\na film\n")
    (HOME / "tracked.csv").symlink_to(cached)
    for name in ("latest.csv", "tracked.csv"):
        assert sources.local_path(str(HOME / name), KEY) == HOME / name


def test_a_split_may_not_leave_the_folder(elsewhere):
    source = Source(location=str(HOME), splits={"train": "../films.csv"})
    Path("data/raw/films.csv").write_text("text\na film\n")
    with pytest.raises(UserError, match="^tasks.films.source.splits: .* is not in data/raw/films, "):
        list(sources.records(source, "../films.csv", ["text"], "tasks.films.source"))


def test_another_folder_may_be_required():
    Path("data/raw/films/teacher").mkdir()
    within = sources.own_teacher_folder("films")
    assert sources.local_path("data/raw/films/teacher", "finetune_teacher.checkpoint", within) == within
    with pytest.raises(UserError, match="rows.csv is not in data/raw/films/teacher, "):
        sources.local_path("data/raw/films/rows.csv", "finetune_teacher.checkpoint", within)


def test_the_hashes_of_a_folder_name_every_file_below():
    (HOME / "deeper").mkdir()
    (HOME / "deeper" / "a.txt").write_text("abc")
    hashes = sources.file_hashes(HOME)
    assert list(hashes) == ["deeper/a.txt", "rows.csv"]
    assert hashes["deeper/a.txt"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sources.file_hashes(HOME / "nowhere") == {}
