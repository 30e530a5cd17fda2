"""How a stage ends: whole outputs or none, one line for what the user can mend, exit code 1."""

import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import lines, start_python

from pipeline.tinybert.core import stage, whole
from pipeline.tinybert.core.errors import Interrupted, UserError, message
from pipeline.tinybert.core.log import log_count, summed_counts
from pipeline.tinybert.core.output import output, write_csv, write_json

START = (
    "from pipeline.tinybert.core import stage; from pipeline.tinybert.core.errors import UserError; "
    "from pipeline.tinybert.core.log import log; from pipeline.tinybert.core.output import output; "
    "import os, time; from pathlib import Path; stage.report_errors_in_one_line()\n"
)


def python(code: str) -> subprocess.Popen:
    return start_python("-c", START + code)


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def in_this_process(in_folder, monkeypatch):
    """A stage may be run in an empty folder by the tests' own process, with errors reported as in the stage's own."""
    for name in ("imports_are_done", "keep_freed_memory"):
        monkeypatch.setattr(stage, name, lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # restored after the test
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    stage.report_errors_in_one_line()


def files(folder: Path) -> dict[str, str | None]:
    """Everything below a folder: path → content, None for folders."""
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_text()
        for path in sorted(folder.rglob("*"))
    }


class TestOutput:
    def test_a_folder_takes_its_place_whole(self, in_folder):
        with output("data/out") as out:
            (out / "a.txt").write_text("new")
            assert not Path("data/out").exists()
        assert files(in_folder) == {"data": None, "data/out": None, "data/out/a.txt": "new"}

    def test_a_path_with_a_suffix_is_a_file(self, in_folder):
        with output("metrics/scores.json") as out:
            out.write_text("new")
        assert files(in_folder) == {"metrics": None, "metrics/scores.json": "new"}

    def test_the_old_one_goes(self, in_folder):
        for name in ("a.txt", "b.txt"):
            with output("out") as out:
                (out / name).write_text(name)
        assert files(in_folder) == {"out": None, "out/b.txt": "b.txt"}

    @pytest.mark.parametrize("name", ["out", "out.json"])
    @pytest.mark.parametrize("error", [ValueError, OSError, Interrupted, KeyboardInterrupt])
    def test_an_error_leaves_the_old_one_and_nothing_half_written(self, name, error, in_folder):
        def write(text: str, fail: bool) -> None:
            with output(name) as out:
                (out / "a.txt" if out.is_dir() else out).write_text(text)
                if fail:
                    raise error

        write("old", fail=False)
        before = files(in_folder)
        with pytest.raises(error):
            write("half", fail=True)
        assert files(in_folder) == before

    def test_what_a_killed_run_left_is_not_taken_over(self, in_folder):
        Path(".out.partial").mkdir()
        Path(".out.partial", "old.txt").write_text("half")
        with output("out") as out:
            (out / "a.txt").write_text("new")
        assert files(in_folder) == {"out": None, "out/a.txt": "new"}

    @pytest.mark.parametrize(("module", "name", "left"), [(os, "replace", "old"), (shutil, "rmtree", "new")])
    def test_an_interrupt_while_it_takes_its_place_leaves_the_old_or_the_new_whole(
        self, in_folder, monkeypatch, module, name, left
    ):
        def write(text):
            with output("out") as out:
                for file in ("a.txt", "b.txt"):
                    (out / file).write_text(text)

        def interrupted(path, target=None):
            if target == Path("out") and not Path("out").exists() and Path(path, "a.txt").read_text() == "new":
                raise KeyboardInterrupt
            if target is None and Path(path).exists():
                Path(path, "a.txt").unlink()
                raise KeyboardInterrupt
            return real(path, target) if target else real(path)

        write("old")
        real = getattr(module, name)
        monkeypatch.setattr(module, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            write("new")
        assert [path.read_text() for path in sorted(Path("out").iterdir())] == [left, left]

    def test_a_link_in_its_place_is_refused(self, in_folder):
        """DVC does not follow links to folders."""
        (in_folder / "elsewhere").mkdir()
        (in_folder / "out").symlink_to(in_folder / "elsewhere")
        expected = r"^out: a link to /.*/elsewhere stands where .* remove it \(`rm out`\)"
        with pytest.raises(UserError, match=expected), output("out"):
            pytest.fail("not reached")
        assert files(in_folder) == {"elsewhere": None, "out": None}

    def test_it_is_on_the_disk_before_it_takes_its_place(self, in_folder, monkeypatch):
        synced = []
        monkeypatch.setattr(whole, "sync", lambda path: synced.append((str(path), Path("out").exists())))
        with output("out") as out:
            (out / "a.txt").write_text("new")
        assert synced == [(".out.partial/a.txt", False), (".out.partial", False), (".", True)]

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_a_number_that_is_not_finite_is_not_written(self, value, in_folder):
        for name, write in {
            "metrics/scores.json": lambda path: write_json(path, {"student": {"f1": value}}),
            "metrics/scores.csv": lambda path: write_csv(path, ["score"], [[value]]),
        }.items():
            with pytest.raises(UserError, match=f"^{Path(name).name} is not written: a number"), output(name) as out:
                write(out)
            assert not Path(name).exists()


class TestEnd:
    @pytest.mark.parametrize(
        ("error", "line"),
        [
            (UserError("a.csv, row 3:\n  no label"), "stage: a.csv, row 3: no label"),
            (OSError(28, "No space left", "a.csv"), "stage: the disk is full while writing a.csv: free some"),
            (torch.OutOfMemoryError("CUDA"), "stage: the GPU's memory is full: set a smaller batch"),
            (PermissionError(13, "Permission denied", "a.csv"), "stage: a.csv cannot be read or written: Per"),
            (OSError(30, "Read-only file system", "a.csv"), "stage: a.csv cannot be read or written: Read-only f"),
            (RuntimeError("Permission denied (os error 13)"), "stage: a file cannot be read or written"),
        ],
    )
    def test_what_the_user_can_mend_is_one_line(self, error, line, in_this_process, monkeypatch, capsys):
        def fail() -> None:
            raise error

        monkeypatch.setattr(sys, "argv", ["stage.py"])
        with pytest.raises(type(error)) as raised:
            stage.run(fail)
        sys.excepthook(raised.type, raised.value, raised.tb)
        [said] = lines(capsys.readouterr().err)
        assert said.startswith(line)

    @pytest.mark.parametrize(
        ("arguments", "line"),
        [
            (["--help"], "no option --help: python -m pipeline.evaluate <task>"),
            ([], "0 arguments given, 1 expected: python -m pipeline.evaluate <task>"),
            (["films"], "there is no models/films/teacher: run `dvc repro evaluate@films`, which first runs the"),
        ],
    )
    def test_a_wrong_call_and_a_missing_input_are_errors_that_say_what_to_run(
        self, arguments, line, in_this_process, monkeypatch
    ):
        Path("dvc.yaml").write_text("stages: {evaluate: {deps: ['models/${item.task}/teacher']}}")
        monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
        with pytest.raises(UserError, match=f"^{re.escape(line)}"):
            stage.run(lambda task: Path("data/films/rows").read_text(), "task")

    @pytest.mark.parametrize(
        ("file", "new", "named"),
        [
            ("params.yaml", "films: {epochs: 3}\nplays: {epochs: 1}", "films.epochs"),
            ("rows.csv", "text\nbad\n", "rows.csv"),
            ("code/loss.py", "loss = 2\n", "code"),
            ("params.yaml", "films: {epochs: 1}\nplays: {epochs: 3}", ""),
        ],
        ids=["parameter", "input", "code", "parameter of another task"],
    )
    def test_a_change_while_a_stage_runs_ends_it_because_dvc_would_record_the_new_state(
        self, file, new, named, in_this_process, monkeypatch
    ):
        entry = "{params: ['${item.task}.epochs'], deps: [rows.csv, code]}"
        Path("code").mkdir()
        for path, text in (
            ("dvc.yaml", f"stages: {{evaluate: {entry}}}"),
            ("params.yaml", "films: {epochs: 1}\nplays: {epochs: 1}"),
            ("rows.csv", "text\ngood\n"),
            ("code/loss.py", "loss = 1\n"),
        ):
            Path(path).write_text(text)
        monkeypatch.setattr(sys, "argv", ["evaluate", "films"])
        ended = pytest.raises(UserError, match=rf"^{named} changed while this stage ran, .* `dvc repro evaluate@films`")
        with ended if named else contextlib.nullcontext():
            stage.run(lambda task: Path(file).write_text(new), "task")

    def test_an_error_ends_the_process_with_its_line_and_code_1(self):
        process = python("raise UserError('a.csv: no label')")
        _, said = process.communicate(timeout=30)
        assert (process.returncode, lines(said)) == (1, ["-c: a.csv: no label"])

    @pytest.mark.parametrize("given", [["tiny"], ["--task", "tiny"]])
    def test_the_task_may_be_given_as_dvc_gives_it(self, given, in_this_process, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["evaluate", *given])
        stage.run(print, "task")
        assert lines(capsys.readouterr().out)[:2] == ["evaluate tiny: starts", "tiny"]

    def test_a_stage_that_runs_already_is_not_started_again(self, in_folder):
        Path(".dvc").mkdir()
        code = "import sys; sys.argv += ['tiny']; stage.SECONDS_FOR_ANOTHER_TO_END = 0.1; stage.run({}, 'task')"
        first = python(code.format("lambda task: (log('ready'), time.sleep(60))"))
        assert [first.stdout.readline() for _ in range(2)][1] == "ready\n"
        second = python(code.format("print"))
        _, said = second.communicate(timeout=30)
        assert lines(said) == [
            "-c: another process runs -c tiny in this folder: wait until it has ended, or end it, then start again"
        ]
        assert second.returncode == 1
        first.kill()
        first.communicate()
        third = python(code.format("print"))
        assert "tiny\n" in third.communicate(timeout=30)[0]

    def test_a_terminal_that_is_not_utf_8_gets_escapes(self, monkeypatch):
        monkeypatch.setenv("PYTHONIOENCODING", "ascii")
        printed, said = python("log('caf\\u00e9'); print('\\u4f60')").communicate(timeout=30)
        assert (printed, said) == ("caf\\xe9\n\\u4f60\n", "")

    def test_a_defect_of_the_program_keeps_its_traceback(self):
        process = python("raise ValueError('a defect')")
        _, said = process.communicate(timeout=30)
        assert process.returncode == 1
        assert "Traceback" in said
        assert "ValueError: a defect" in said

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_an_interrupt_is_one_line_and_leaves_nothing(self, number, in_folder):
        code = "with output('out') as out: (out / 'a').write_text('half'); log('ready'); time.sleep(60)"
        self.interrupt(python(f"stage.imports_are_done()\n{code}"), number)
        assert files(in_folder) == {}

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_an_interrupt_ends_the_import_of_an_optional_package(self, number, in_folder):
        (in_folder / "optional.py").write_text("print('ready', flush=True); import time; time.sleep(60)")
        code = "import sys; sys.path.insert(0, '')\ntry: import optional\nexcept BaseException: print('not installed')"
        assert self.interrupt(python(code), number) == ""

    def test_an_interrupt_is_known_behind_the_error_that_a_library_raises_in_its_place(self):
        code = "try: log('ready'); time.sleep(60)\nexcept BaseException as gone: raise ImportError from gone"
        self.interrupt(python(f"stage.imports_are_done()\n{code}"), signal.SIGTERM)

    def interrupt(self, process: subprocess.Popen, number: signal.Signals) -> str:
        """What the process prints after the signal."""
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        printed, said = process.communicate(timeout=10)
        assert process.returncode == 1
        assert lines(said) == [f"-c: interrupted ({number.name}): no half-written file is left; `dvc repro` resumes"]
        return printed

    def test_garbage_is_collected_while_a_stage_runs_but_for_what_was_imported(self):
        process = python("import gc; gc.disable(); stage.run(lambda: print(gc.isenabled(), gc.get_freeze_count() > 0))")
        said, _ = process.communicate(timeout=30)
        assert "True True" in said

    def test_importing_the_pipeline_leaves_signals_and_errors_alone(self):
        """Whatever they were: a process in the background may have been started with signals ignored."""
        now = "[*map(signal.getsignal, (signal.SIGINT, signal.SIGTERM)), sys.excepthook]"
        code = f"import signal, sys; before = {now}; import pipeline; print(before == {now})"
        shown, _ = start_python("-c", code).communicate(timeout=30)
        assert shown == "True\n"


def write_with_safetensors(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(SIZE)}, path)


SIZE = 100_000
WRITERS = {
    "text": lambda path: path.write_text("x" * SIZE),
    "numpy": lambda path: np.save(path, np.zeros(SIZE)),
    "torch": lambda path: torch.save(torch.zeros(SIZE), path),
    "safetensors": write_with_safetensors,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_line_whatever_writes(writer, tmp_path, small_disk):
    disk = tmp_path / "disk"
    disk.mkdir()
    small_disk(disk, kib=64)
    with pytest.raises(Exception) as raised, output(disk / "model") as out:
        WRITERS[writer](out / "weights")
    assert message(raised.value).startswith("the disk is full")
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("100000 requested and 8176 written"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
        RuntimeError("basic_ios::clear: iostream error"),
        Exception("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_known_behind_other_errors(error):
    try:
        raise ValueError("while saving") from error
    except ValueError as raised:
        assert message(raised) == "the disk is full: free some space, then run `dvc repro` again; it resumes"


def test_what_is_counted_in_parts_is_said_once(capsys):
    with summed_counts():
        for count in (1, 0, 2):
            log_count(count, 10, "rows are odd")
            log_count(0, 10, "rows are even")
        assert capsys.readouterr().out == ""
    assert capsys.readouterr().out == "3 of 30 rows are odd\n"
    log_count(1, 10, "rows are odd")
    assert capsys.readouterr().out == "1 of 10 rows are odd\n"


@pytest.mark.skipif(sys.platform != "linux", reason="torch uses GNU OpenMP on Linux only")
@pytest.mark.parametrize("value", [None, "77"])
def test_openmp_spins_shortly_unless_the_user_has_set_how_long(value, monkeypatch):
    """GNU OpenMP reads the variable when torch is imported, so nothing may import torch earlier."""
    monkeypatch.setenv("OMP_DISPLAY_ENV", "verbose")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if value:
        monkeypatch.setenv("GOMP_SPINCOUNT", value)
    _, errors = start_python("-c", "import pipeline, torch").communicate()
    assert f"GOMP_SPINCOUNT = '{value or 10000}'" in errors


def test_what_is_printed_into_a_closed_pipe_is_dropped_and_the_stage_goes_on(tmp_path):
    print_much = "from pipeline.tinybert.core.log import log; [log('x' * 999) for _ in range(999)]"
    process = start_python("-c", f"{print_much}; open({str(tmp_path / 'done')!r}, 'w')")
    assert process.stdout.readline() == "x" * 999 + "\n"
    process.stdout.close()
    assert (process.wait(60), process.stderr.read()) == (0, "")
    assert (tmp_path / "done").exists()


def test_a_file_is_replaced_in_one_step(in_empty_folder, monkeypatch):
    """A kill at the worst moment leaves the earlier file."""
    Path("params.yaml").write_text("before")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt), output("params.yaml") as out:
        out.write_text("after")
    assert [path.read_text() for path in in_empty_folder.iterdir()] == ["before"]
