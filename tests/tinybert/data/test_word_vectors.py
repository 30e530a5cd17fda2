import gzip
import hashlib

import gensim.downloader
import numpy as np
import pandas as pd
import pytest

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.data import word_vectors

pytestmark = pytest.mark.usefixtures("files_anywhere")

WORDS = ["the", "film", "café", "電影", "'s", "\x85odd", ". . ."]
VALUES = np.random.default_rng(0).normal(size=(len(WORDS), 4)).astype(np.float32)
LINES = [" ".join([word, *(repr(float(value)) for value in row)]) for word, row in zip(WORDS, VALUES, strict=True)]
GLOVE = "\n".join(LINES) + "\n"
WORD2VEC = f"{len(WORDS)} 4\n{GLOVE}"


def write_folder(folder, values=VALUES, words=WORDS):
    (folder / "inner").mkdir(parents=True, exist_ok=True)
    np.save(folder / "inner" / "some.npy", values)
    pd.DataFrame({"word": words}).to_parquet(folder / "inner" / "names.parquet")
    return folder


def write_text(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.fixture(params=["package folder", "GloVe", "word2vec", "GloVe, gz", "word2vec, gz", "gensim"])
def location(request, tmp_path, monkeypatch):
    form, _, compressed = request.param.partition(", ")
    if form == "package folder":
        return str(write_folder(tmp_path / "package"))
    path = write_text(tmp_path / f"vectors.txt{'.gz' if compressed else ''}", GLOVE if form == "GloVe" else WORD2VEC)
    if form != "gensim":
        return str(path)

    def download(name, return_path):  # load() without return_path would run code that was downloaded
        assert (name, return_path) == ("glove-tiny", True)
        return str(path)

    monkeypatch.setattr(gensim.downloader, "load", download)
    return "gensim:glove-tiny"


def test_vectors_are_read_from_every_kind_of_location(location):
    vectors = word_vectors.fetch(location, 1000, "word_vectors.location")
    assert vectors.index_to_key == WORDS
    np.testing.assert_allclose(vectors.vectors, VALUES, rtol=1e-6)


def test_only_the_wanted_number_of_words_is_read(location):
    vectors = word_vectors.fetch(location, 3, "word_vectors.location")
    assert vectors.index_to_key == WORDS[:3]
    np.testing.assert_allclose(vectors["café"], VALUES[2], rtol=1e-6)


def test_the_first_vector_of_a_repeated_word_is_kept(tmp_path):
    vectors = word_vectors.fetch(str(write_text(tmp_path / "v.txt", "film 1 2\nplot 3 4 \r\nfilm 5 6\n")), 9, "key")
    assert vectors.index_to_key == ["film", "plot"]
    assert vectors.vectors.tolist() == [[1, 2], [3, 4]]


def test_vectors_are_read_from_an_installed_package(tmp_path, monkeypatch):
    write_folder(tmp_path / "some_glove")
    monkeypatch.syspath_prepend(tmp_path)
    assert word_vectors.fetch("package:some_glove", 2, "word_vectors.location").index_to_key == WORDS[:2]


def test_loaded_vectors_equal_the_saved_ones_and_saving_is_deterministic(tmp_path):
    words = [*WORDS, "carriage\rreturn"]
    values = np.vstack([VALUES, VALUES[:1]])
    vectors = word_vectors.fetch(str(write_folder(tmp_path / "package", values, words)), 100, "word_vectors.location")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        word_vectors.save(vectors, ["der", "für"], tmp_path / name)
        loaded, stop_words = word_vectors.load(tmp_path / name)
        assert loaded.index_to_key == words
        assert stop_words == {"der", "für"}
        np.testing.assert_array_equal(loaded.vectors, values)
    files = [sorted((path.name, path.read_bytes()) for path in (tmp_path / name).iterdir()) for name in ("one", "two")]
    assert files[0] == files[1]
    assert [name for name, _ in files[0]] == ["stop_words.txt", "vectors.npy", "words.txt"]


# Stop words.

STOP = "word_vectors.stop_words"


def test_stop_words_come_from_gensim_or_a_file_or_are_empty(tmp_path):
    (tmp_path / "german.txt").write_bytes("\ufeffDer\r\n\r\nfür \r\nder\n".encode())
    assert word_vectors.stop_words(str(tmp_path / "german.txt"), STOP) == ["der", "für"]
    assert word_vectors.stop_words(None, STOP) == []
    assert {"the", "is", "and"} <= set(word_vectors.stop_words("english", STOP))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "there is no file or folder .*: expected english, a text file with one word per line, or blank"),
        (b"der\nf\xfcr\n", "expected a UTF-8 text file with one word per line: .* 0xfc"),
        (b"der\ndie oder das\n", "expected one word per line, found 'die oder das'"),
    ],
)
def test_a_bad_file_of_stop_words_is_reported_with_its_setting(tmp_path, content, expected):
    if content is not None:
        (tmp_path / "stop.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"^{STOP}: .*{expected}"):
        word_vectors.stop_words(str(tmp_path / "stop.txt"), STOP)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("absent.txt", None, "there is no file or folder"),
        ("empty.txt", b"", "the file ends after 0 words"),
        ("words.txt", b"film\nplot\n", "cannot be read as GloVe or word2vec text: word 1 ('film'): expected a word"),
        ("tabs.txt", b"film\t0.1\t0.2\n", "expected a word and 2 numbers, with spaces between them"),
        ("line.txt", b"film" + b" 0.1" * 40_000, "a line is longer than 131072 bytes"),
        ("blank.txt", b"\n" * 2000, "more than 1000 lines are blank"),
        (
            "bomb.txt.gz",
            gzip.compress((b"film" * 25_000 + b" 0.1 0.2\n") * 200),
            "or it unpacks to over 20 times its size",
        ),
        ("zeros.txt", b"film 0 0\nplot nan 1\n", "none of the 2 vectors can be used"),
        ("ragged.txt", b"film 0.1 0.2\nplot 0.3\n", "word 2 ('plot 0.3'): expected a word and 2 numbers"),
        ("names.txt", b"film 0.1 0.2\nplot 0.3 x\n", "cannot be read as GloVe or word2vec text"),
        ("binary.bin", bytes(range(256)), "cannot be read as GloVe or word2vec text"),
        ("short.txt", b"5 2\nfilm 0.1 0.2\n", "the file ends after 1 words, expected 5"),
        ("cut.txt.gz", gzip.compress(GLOVE.encode() * 50)[:-20], "cannot be read as GloVe or word2vec text"),
        ("plain.txt.gz", GLOVE.encode(), "cannot be read as GloVe or word2vec text"),
    ],
)
def test_a_bad_text_file_is_reported_with_its_setting(tmp_path, name, content, expected):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"^word_vectors.location: .*{name}") as raised:
        word_vectors.fetch(str(tmp_path / name), 10**7, "word_vectors.location")
    assert expected in str(raised.value)


def empty(folder):
    folder.mkdir()


def two_arrays(folder):
    write_folder(folder)
    np.save(folder / "other.npy", VALUES)


def pickled(folder):
    write_folder(folder, np.array([{}] * len(WORDS), dtype=object))


def damaged(folder):
    write_folder(folder)
    with open(folder / "inner" / "some.npy", "r+b") as file:
        file.truncate(100)


def zipped(folder):
    write_folder(folder)
    np.savez(folder / "inner" / "some.npz", VALUES)
    (folder / "inner" / "some.npz").rename(folder / "inner" / "some.npy")


def no_parquet(folder):
    write_folder(folder)
    (folder / "inner" / "names.parquet").write_text("words")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (empty, "expected one .npy file of vectors and one .parquet file of their words"),
        (two_arrays, "expected one .npy"),
        (pickled, "cannot be read as vectors"),
        (damaged, "cannot be read as vectors"),
        (zipped, "cannot be read as vectors"),
        (lambda folder: write_folder(folder, np.array([["a"]] * 7)), "some.npy holds values of the type <U1"),
        (no_parquet, "cannot be read as vectors"),
        (lambda folder: write_folder(folder, words=WORDS[:4]), "4 words but vectors of the shape (7, 4)"),
        (lambda folder: write_folder(folder, values=VALUES[:, 0]), "7 words but vectors of the shape (7,)"),
    ],
)
def test_a_bad_folder_is_reported_with_its_setting(tmp_path, make, expected):
    make(tmp_path / "package")
    with pytest.raises(UserError, match="^word_vectors.location: .*package") as raised:
        word_vectors.fetch(str(tmp_path / "package"), 2, "word_vectors.location")
    assert expected in str(raised.value)


@pytest.mark.parametrize("location", ["gensim"], indirect=True)
def test_vectors_of_gensim_are_those_with_the_sum_that_the_setting_names(location, capsys, tmp_path):
    key = "word_vectors.location"
    found = hashlib.md5((tmp_path / "vectors.txt").read_bytes()).hexdigest()
    word_vectors.fetch(location, 3, key)
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(f"{key}: DVC does not notice a changed file of {location} ") and said.endswith(f"@{found}")
    word_vectors.fetch(f"{location}@{found}", 3, key)
    assert "DVC" not in capsys.readouterr().out
    with pytest.raises(UserError, match=f"has the MD5 sum {found}, expected 0123: delete .* set {key}: {location}@"):
        word_vectors.fetch(f"{location}@0123", 3, key)


def test_a_failed_download_is_reported_with_its_setting_and_advice(monkeypatch):
    def fail(name, return_path):
        raise OSError("no route\nto host")

    monkeypatch.setattr(gensim.downloader, "load", fail)
    with pytest.raises(UserError, match="^word_vectors.location: cannot fetch gensim:glove-tiny .*no route.*network"):
        word_vectors.fetch("gensim:glove-tiny", 10, "word_vectors.location")


@pytest.mark.parametrize("form", ["text", "folder"])
def test_words_without_letters_and_vectors_without_direction_are_left_out_and_counted(tmp_path, capsys, form):
    """A neighbour search would find zeros and NaN next to every word."""
    words = ["", "film", " ", "zero", "plot", "nan", "infinite", "huge", "tiny"]
    values = np.array([[1, 2], [3, 4], [5, 6], [0, 0], [7, 8], [np.nan, 1], [-np.inf, 1], [1e30, 1e30], [1e-30, 1e-30]])
    if form == "folder":
        location = write_folder(tmp_path / "package", values, [*words[:2], None, *words[3:]])
    else:
        lines = [f"{word} {' '.join(map(str, row))}" for word, row in zip(words, values, strict=True)]
        location = write_text(tmp_path / "vectors.txt", "\n".join([*lines[:3], "", *lines[3:], "", ""]))
    vectors = word_vectors.fetch(str(location), 100, "word_vectors.location")
    assert vectors.index_to_key == ["film", "plot"]
    assert vectors.vectors.tolist() == [[3, 4], [7, 8]]
    assert capsys.readouterr().out == ("2 blank lines left out\n" if form == "text" else "") + (
        "2 of 9 words are empty or hold a line break, and are left out\n"
        "5 of 9 vectors are zero, infinite or not a number, and are left out\n"
    )


@pytest.mark.parametrize(
    ("file", "content"),
    [("vectors.npy", b""), ("words.txt", b""), ("words.txt", b"film\n"), ("words.txt", b"caf\xe9\n")],
)
def test_a_damaged_file_of_saved_vectors_is_reported(tmp_path, file, content):
    word_vectors.save(word_vectors.fetch(str(write_folder(tmp_path / "package")), 9, "key"), [], tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read .*: run `dvc repro --force word_vectors`"):
        word_vectors.load(tmp_path)
