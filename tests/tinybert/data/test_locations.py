import os

import huggingface_hub
import pytest
import tiny
import torch
from tiny import write_file
from transformers import AutoModel

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.data import locations
from pipeline.tinybert.models import checkpoints

pytestmark = pytest.mark.usefixtures("files_anywhere")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = f"hub:someone/something@{COMMIT}"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that cannot be imported."""
    write_file(tmp_path / "site" / "broken_corpus" / "__init__.py", "raise SystemExit('imported')")
    write_file(tmp_path / "site" / "broken_corpus" / "data" / "rows.csv", "text,label\ngood film,1\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path / "site" / "broken_corpus"


# Packages, paths and hub ids.


def test_a_file_of_a_package_is_found_without_importing_it(package):
    assert locations.local_path("package:broken_corpus/data/rows.csv", "key") == package / "data" / "rows.csv"
    assert locations.local_path("package:broken_corpus", "key") == package


@pytest.fixture
def version(package, monkeypatch):
    """A version of it is installed."""
    metadata = package.parent / "broken_corpus-1.2.dist-info"
    write_file(metadata / "METADATA", "Metadata-Version: 2.1\nName: broken-corpus\nVersion: 1.2\n")
    write_file(metadata / "top_level.txt", "broken_corpus\n")
    locations._check_version.cache_clear()


def test_a_package_at_the_version_that_is_asked_for_is_found(version, package, capsys):
    assert locations.local_path("package:broken_corpus@1.2/data/rows.csv", "key") == package / "data" / "rows.csv"
    assert locations.local_path("package:broken_corpus@1.2", "key") == package
    assert capsys.readouterr().out == ""


def test_another_version_of_a_package_is_refused_because_dvc_would_not_see_the_change(version):
    with pytest.raises(
        UserError, match=r"^key: version 1\.1 of .* 1\.2 is installed: .* set key: package:b.*@1\.2/data$"
    ):
        locations.local_path("package:broken_corpus@1.1/data", "key")


def test_a_package_without_a_version_is_said_once(version, capsys):
    for _ in range(2):
        locations.local_path("package:broken_corpus/data", "key")
    assert capsys.readouterr().out == (
        "key: DVC does not notice another version of the package 'broken_corpus' unless you set key:"
        " package:broken_corpus@1.2/data\n"
    )


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("nowhere/rows.csv", "there is no file or folder nowhere/rows.csv"),
        ("package:not_installed_at_all/rows.csv", "no package 'not_installed_at_all' is installed: pip install it"),
        ("package:not-a-name/rows.csv", "no package 'not-a-name' is installed"),
        ("package:broken_corpus.data/rows.csv", "no package 'broken_corpus.data' is installed"),  # would import it
        ("package:this/rows.csv", "no package 'this' is installed"),  # a module, not a folder
        ("package:broken_corpus/data/absent.csv", "the installed package 'broken_corpus' has no data/absent.csv"),
    ],
)
def test_a_missing_location_is_reported_with_its_setting(package, in_empty_folder, location, expected):
    with pytest.raises(UserError) as raised:
        locations.local_path(location, "encoder.checkpoint")
    assert str(raised.value).startswith("encoder.checkpoint: ")
    assert expected in str(raised.value)


def test_a_local_folder_is_never_read_in_place_of_a_package(in_empty_folder, monkeypatch):
    write_file(in_empty_folder / "some_corpus" / "rows.csv", "text\n")
    monkeypatch.syspath_prepend(in_empty_folder)  # as `python -m` does
    with pytest.raises(UserError, match="^key: the folder some_corpus here hides the installed package 'some_corpus'"):
        locations.local_path("package:some_corpus/rows.csv", "key")


def test_a_file_that_a_queued_experiment_lacks_is_to_be_tracked(tmp_path, monkeypatch):
    folder = tmp_path / ".dvc" / "tmp" / "exps" / "standalone" / "tmpabc"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    expected = "a queued experiment has only files that git or DVC tracks: `git add` or `dvc add` the file, then queue"
    for missing in (
        lambda: locations.local_path("data/raw/tiny/rows.csv", "key"),
        lambda: locations.check_task_folder("t"),
    ):
        with pytest.raises(UserError, match=expected):
            missing()


@pytest.mark.parametrize(
    "location",
    ["hub:owner/name", "hub:owner/name@", f"hub:@{COMMIT}", "hub:", "hub:owner/name@main", "hub:owner/name@0123abc"],
)
def test_a_hub_id_without_a_full_commit_is_refused(location):
    with pytest.raises(UserError, match=r"^key: .*expected hub:OWNER/NAME@COMMIT"):
        locations.hub_id(location, "key")


def test_a_hub_id_is_parsed_into_name_and_commit():
    assert locations.hub_id(f"hub:owner/name@{COMMIT}", "key") == ("owner/name", COMMIT)


# Checkpoints.


def test_a_path_of_a_checkpoint_is_returned_as_it_is(in_empty_folder):
    tiny.write_checkpoint(in_empty_folder / "checkpoint", layers=1)
    assert str(locations.checkpoint_folder("checkpoint", "encoder.checkpoint")) == "checkpoint"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, "has no config.json"),
        ("{", "config.json is not valid JSON"),
        ('{"model_type": "bert", "auto_map": {"AutoModel": "code.Model"}}', "requires remote code .* refused"),
    ],
)
def test_a_folder_that_is_no_model_or_requires_remote_code_is_refused(in_empty_folder, config, expected):
    (in_empty_folder / "checkpoint").mkdir()
    if config is not None:
        write_file(in_empty_folder / "checkpoint" / "config.json", config)
    with pytest.raises(UserError, match=f"^encoder.checkpoint: checkpoint.*{expected}"):
        locations.checkpoint_folder("checkpoint", "encoder.checkpoint")


class Malice:
    """Its unpickling creates a folder, unless the reader loads only weights."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_refused_and_its_code_is_not_run(tmp_path):
    folder = tmp_path / "checkpoint"
    tiny.write_checkpoint(folder, layers=1)
    (folder / "model.safetensors").unlink()
    torch.save({"bert.pooler.dense.weight": Malice(tmp_path / "executed")}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="^encoder.checkpoint: .*checkpoint cannot be loaded: "):
        checkpoints.load(AutoModel, folder, "encoder.checkpoint")
    assert not (tmp_path / "executed").exists()


def test_pickled_weights_without_code_are_loaded(tmp_path):
    folder = tmp_path / "checkpoint"
    tiny.write_checkpoint(folder, layers=1)
    weights = checkpoints.load(AutoModel, folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    loaded = checkpoints.load(AutoModel, folder).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())


# The hub, without a network.


def test_a_model_download_without_a_network_fails_with_a_one_line_message(offline):
    with pytest.raises(UserError) as raised:
        locations.checkpoint_folder(HUB, "encoder.checkpoint")
    assert str(raised.value).startswith(f"encoder.checkpoint: cannot fetch {HUB} (")
    assert "check the name, the revision and the network" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_message_of_a_failed_download_has_the_first_line_of_the_cause(monkeypatch):
    def fail(*rest, **more):
        raise OSError("the first line\nand more of them")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"\(OSError: the first line\): check the name") as raised:
        locations.checkpoint_folder(HUB, "encoder.checkpoint")
    assert "\n" not in str(raised.value)


def test_only_the_files_of_a_model_are_downloaded_at_the_pinned_commit(in_empty_folder, monkeypatch):
    tiny.write_checkpoint(in_empty_folder / "checkpoint", layers=1)
    requests = []

    def download(name, revision, allow_patterns):
        requests.append((name, revision, *allow_patterns))
        return str(in_empty_folder / "checkpoint")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert locations.checkpoint_folder(HUB, "key") == in_empty_folder / "checkpoint"
    assert requests == [("someone/something", COMMIT, "*.json", "*.txt", "*.safetensors")]
    (in_empty_folder / "checkpoint" / "model.safetensors").unlink()
    locations.checkpoint_folder(HUB, "key")
    assert requests[2:] == [("someone/something", COMMIT, "pytorch_model.bin")]
