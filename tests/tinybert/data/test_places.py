"""A path must lie in the folder that its stage depends on; otherwise DVC would not see the file change."""

from pathlib import Path

import pytest

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import Source
from pipeline.tinybert.data import locations, sources

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
        locations.local_path(str(path), key)
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
    assert locations.raw_folder(key) == Path("data/raw", folder)


@pytest.mark.parametrize("location", ["data/raw/films/rows.csv", "data/raw/films", "data/raw/films/../films/rows.csv"])
def test_a_path_in_the_task_s_folder_is_accepted(location):
    assert locations.local_path(location, KEY) == Path(location)
    assert locations.local_path(str(Path(location).absolute()), KEY) == Path(location).absolute()


def test_a_file_beside_the_folder_is_refused_with_a_command_that_moves_it():
    Path("data/raw/films.csv").touch()
    assert refusal("data/raw/films.csv") == (
        f"{KEY}: data/raw/films.csv is not in data/raw/films, {WHY} Run `mkdir -p data/raw/films && mv"
        f" data/raw/films.csv data/raw/films/`, then set {KEY}: data/raw/films/films.csv"
    )


def test_a_file_elsewhere_is_refused_with_a_command_that_copies_it(elsewhere):
    Path("data/raw/plots").mkdir()
    Path("data/raw/plots/my rows.csv").touch()
    assert (
        f"&& cp -rL 'data/raw/plots/my rows.csv' data/raw/films/`, then set {KEY}: data/raw/films/my rows.csv"
    ) in refusal("data/raw/plots/my rows.csv")
    assert f"&& cp -rL {elsewhere}/more.csv data/raw/films/`" in refusal(elsewhere / "more.csv")


def test_a_folder_above_is_refused_with_advice_to_move_its_files():
    assert refusal("data/raw") == (
        f"{KEY}: data/raw is not in data/raw/films, {WHY} Run `mkdir -p data/raw/films`, move its files there, then set"
        f" {KEY}: data/raw/films"
    )


@pytest.mark.parametrize("name", ["more.csv", "deeper/more.csv"])
def test_a_link_to_a_file_outside_is_refused_with_a_command_that_replaces_it(elsewhere, name):
    """Also if the setting names the link's folder."""
    (HOME / name).parent.mkdir(exist_ok=True)
    (HOME / name).symlink_to(elsewhere / "more.csv")
    expected = (
        f"{KEY}: data/raw/films/{name} is a link to {elsewhere}/more.csv: DVC would not see a file change there."
        f" Replace the link by a copy: `rm data/raw/films/{name} && cp -r {elsewhere}/more.csv data/raw/films/{name}`"
    )
    assert refusal(HOME / name) == refusal(HOME) == expected


def test_a_link_to_a_folder_outside_is_refused(elsewhere):
    (HOME / "linked").symlink_to(elsewhere)
    assert f"data/raw/films/linked is a link to {elsewhere}: " in refusal(HOME / "linked" / "more.csv")
    Path("data/raw/plots").symlink_to(elsewhere)
    key = "tasks.plots.source.location"
    assert f"{key}: data/raw/plots is a link to {elsewhere}: " in refusal("data/raw/plots/more.csv", key)


def test_links_within_the_folder_and_into_dvc_s_cache_are_allowed():
    (HOME / "latest.csv").symlink_to("rows.csv")
    cached = Path(".dvc/cache/files/md5/12/3456").absolute()
    cached.parent.mkdir(parents=True)
    cached.write_text("text\na film\n")
    (HOME / "tracked.csv").symlink_to(cached)
    for name in ("latest.csv", "tracked.csv"):
        assert locations.local_path(str(HOME / name), KEY) == HOME / name


def test_a_split_outside_the_folder_is_refused(elsewhere):
    source = Source(location=str(HOME), splits={"train": "../films.csv"})
    Path("data/raw/films.csv").write_text("text\na film\n")
    with pytest.raises(UserError, match="^tasks.films.source.splits: .* is not in data/raw/films, "):
        list(sources.records(source, "../films.csv", ["text"], "tasks.films.source"))


def test_a_caller_may_require_another_folder():
    Path("data/raw/films/teacher").mkdir()
    within = locations.own_teacher_folder("films")
    assert locations.local_path("data/raw/films/teacher", "finetune_teacher.checkpoint", within) == within
    with pytest.raises(UserError, match="rows.csv is not in data/raw/films/teacher, "):
        locations.local_path("data/raw/films/rows.csv", "finetune_teacher.checkpoint", within)


def test_file_hashes_cover_all_files_below_a_folder():
    (HOME / "deeper").mkdir()
    (HOME / "deeper" / "a.txt").write_text("abc")
    hashes = locations.file_hashes(HOME)
    assert list(hashes) == ["deeper/a.txt", "rows.csv"]
    assert hashes["deeper/a.txt"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert locations.file_hashes(HOME / "nowhere") == {}
