"""Small data: scores with a few hundred rows, beside those of other methods.

    python benchmarks/small.py --data ../shared/data --workspace ../small --rows 200 500 1000

FOLDER (`--data`) has a folder for each task, with a train and a validation file. The first rows of train are the task's
rows, the validation file is its test file. To choose settings, use `--score-on train`: then the test file has the rows
of train that follow. `python -m pipeline.new_task` writes each entry, without options. Then the
stages run in order, each run in a folder of its own below `--workspace`, with a copy of this repository's code. Run the
same command again after an interruption: finished stages and runs are not repeated. After a change of the code, use
another workspace; `--from WORKSPACE` copies the encoder and the word vectors of a finished one.

The peers (peers.py) use the same rows. Scores are in hundredths of the task's metric. Minutes are the wall time of the
run's stages, without `encoder`, `word_vectors` and the peers; with `--jobs` above 1 they are not those of a quiet
machine.
"""

import argparse
import contextlib
import csv
import io
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import ruamel.yaml
from ablations import spread
from comparison import machine, print_table

ROOT = Path(__file__).resolve().parents[1]
TASKS = ("sst2", "cola", "mrpc", "stsb", "wnut17", "conll2003", "squad")
COMMON = ("encoder", "word_vectors")
SHARED = (Path("models/pretrained"), Path("data/word_vectors"))  # what these leave
STAGES = (
    *("prepare", "general_student", "finetune_teacher", "augment", "distill_intermediate", "distill_prediction"),
    *("finetune_student", "evaluate", "export", "benchmark", "package"),
)
MODELS = {"teacher": "teacher", "student": "student", "student alone": "student_alone"}
PEERS = ("TF-IDF", "frozen embeddings", "cosine", "Trainer", "SetFit")
ALLOWED_LOSS = 0.005


class StageError(Exception):
    """A stage or the peers failed. The message is the last line of the output."""


# Files ----------------------------------------------------------------------------------------------------------------


def part(text: str, suffix: str, rows: slice) -> str:
    """Some rows of a file's text (sentences of CoNLL, questions of SQuAD), with the file's header."""
    if suffix == ".jsonl":
        return "".join(text.splitlines(keepends=True)[rows])
    if suffix == ".tsv":  # no row of these files has a line break
        header, *lines = text.splitlines(keepends=True)
        return "".join([header, *lines[rows]])
    if suffix == ".csv":
        header, *lines = csv.reader(io.StringIO(text))
        written = io.StringIO()
        csv.writer(written, lineterminator="\n").writerows([header, *lines[rows]])
        return written.getvalue()
    if suffix == ".conll":
        sentences = [sentence.strip("\n") for sentence in re.split(r"\n\s*\n", text)]
        sentences = [sentence for sentence in sentences if sentence.strip() and not sentence.startswith("-DOCSTART-")]
        return "\n\n".join(sentences[rows]) + "\n"
    if suffix == ".json":
        return questions(json.loads(text), rows)
    raise ValueError(f"no way to cut a {suffix} file")


def questions(squad: dict, rows: slice) -> str:
    """Some questions of a file of SQuAD, in their paragraphs and articles."""
    everything = [question for article in squad["data"] for text in article["paragraphs"] for question in text["qas"]]
    chosen = {question["id"] for question in everything[rows]}
    articles = []
    for article in squad["data"]:
        paragraphs = []
        for paragraph in article["paragraphs"]:
            kept = [question for question in paragraph["qas"] if question["id"] in chosen]
            if kept:
                paragraphs.append({**paragraph, "qas": kept})
        if paragraphs:
            articles.append({**article, "paragraphs": paragraphs})
    return json.dumps({**squad, "data": articles})


def the_file(folder: Path, split: str) -> Path:
    found = sorted(folder.glob(f"{split}.*"))
    if len(found) != 1:
        sys.exit(f"--data: {folder}: expected one file {split}.*, found {len(found)}")
    return found[0]


# A workspace ----------------------------------------------------------------------------------------------------------


@dataclass
class Workspace:
    """The code, the encoder, the word vectors, and a folder for each run."""

    folder: Path
    threads: int | None  # of a process; None: as the environment says

    def make(self, finished: Path | None) -> None:
        if not self.code.exists():
            with tempfile.TemporaryDirectory(dir=self.folder) as partial:
                for part in ("pipeline", "benchmarks"):
                    shutil.copytree(ROOT / part, Path(partial, part), ignore=shutil.ignore_patterns("__pycache__"))
                shutil.copy(ROOT / "params.yaml", partial)
                shutil.copytree(partial, self.code)
        base = self.base
        base.mkdir(exist_ok=True)
        shutil.copy(self.code / "params.yaml", base)
        shutil.copytree(ROOT / "data" / "raw", base / "data" / "raw", dirs_exist_ok=True)
        for stage, shared in zip(COMMON, SHARED, strict=True):
            if (base / shared).exists():
                continue
            if finished is None:
                say(f"{stage}: {self.stage(base, stage):.0f} s")
            else:
                source = next(
                    (part / shared for part in (finished / "base", finished) if (part / shared).exists()), None
                )
                shutil.copytree(source or sys.exit(f"--from: there is no {finished / shared}"), base / shared)

    @property
    def code(self) -> Path:
        return self.folder / "code"

    @property
    def base(self) -> Path:
        """Where `encoder` and `word_vectors` run."""
        return self.folder / "base"

    def stage(self, folder: Path, stage: str, *arguments: str) -> float:
        """Run a stage in a folder; return its seconds."""
        start = time.perf_counter()
        self.python(folder, "-m", f"pipeline.{stage}", *arguments)
        return time.perf_counter() - start

    def python(self, folder: Path, *arguments: str) -> None:
        """A Python process with the copied code. Its output is appended to the folder's log.txt."""
        environment = {**os.environ, "PYTHONPATH": str(self.code)}
        if self.threads:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        with open(folder / "log.txt", "a+", encoding="utf-8", errors="replace") as log:
            command = [sys.executable, *arguments]
            process = subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
            if process.returncode:
                log.seek(0)
                lines = [line.strip() for line in re.split(r"[\r\n]+", log.read()) if line.strip()]
                raise StageError(lines[-1] if lines else f"exit code {process.returncode}")


# Runs -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Test:
    """The rows on which the models are scored: the first ones of the validation file, or those of train that follow."""

    split: str  # validation or train
    rows: int | None  # None: all

    def slice(self, train_rows: int) -> slice:
        first = train_rows if self.split == "train" else 0
        return slice(first, None if self.rows is None else first + self.rows)

    def __str__(self) -> str:
        rows = "all" if self.rows is None else f"the first {self.rows}"
        return f"{rows} validation rows" if self.split == "validation" else f"{rows} rows of train that follow"


@dataclass
class Run:
    """One task, with its first rows, one seed, and changed settings."""

    task: str
    rows: int
    seed: int
    changes: dict[str, object]
    test: Test
    workspace: Workspace
    keep: bool

    @property
    def name(self) -> str:
        return f"{self.task}_{self.rows}"  # of the task in params.yaml: the repository's has others of the same names

    @property
    def title(self) -> str:
        return f"{self.task} {self.rows} seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Runs with other changed settings lie beside one another."""
        changes = f"-{zlib.crc32(repr(self.changes).encode()):08x}" if self.changes else ""
        test = "-on-train" if self.test.split == "train" else ""
        return self.workspace.folder / "runs" / f"{self.task}-{self.rows}-seed{self.seed}{changes}{test}"

    def result(self, data: Path, last: str, jobs: int) -> dict:
        """Run what is not finished; return scores, seconds of each stage, and the scores of the peers."""
        finished = self.folder / "result.json"
        if finished.exists():
            return json.loads(finished.read_text(encoding="utf-8"))
        record = {"task": self.task, "rows": self.rows, "seed": self.seed, "set": self.changes, "jobs": jobs}
        try:
            self.begin(data)
            seconds = self.run_stages(STAGES[: STAGES.index(last) + 1])
            peers = self.peers()
        except StageError as error:
            say(f"{self.title}: stops at {error}; see {self.folder / 'log.txt'}")
            return {**record, "error": str(error)}
        scores = json.loads((self.folder / "metrics" / self.name / "scores.json").read_text(encoding="utf-8"))
        entry = ruamel.yaml.YAML(typ="safe").load(self.folder / "params.yaml")["tasks"][self.name]
        record |= {"metric": entry["metric"], "scores": scores, "seconds": seconds, "peers": peers}
        finished.write_text(json.dumps(record), encoding="utf-8")
        if not self.keep:
            for part in ("models", "data"):
                shutil.rmtree(self.folder / part)
        return record

    def begin(self, data: Path) -> None:
        """Make the run's folder: its files, the task's entry, links to the encoder and the word vectors."""
        if self.folder.exists():
            return
        partial = self.folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        for shared in SHARED:
            (partial / shared).parent.mkdir(parents=True)
            (partial / shared).symlink_to(self.workspace.base / shared)
        raw = Path("data", "raw", "encoder")  # the general text, if it is a file
        shutil.copytree(self.workspace.base / raw, partial / raw)
        shutil.copy(self.workspace.code / "params.yaml", partial)
        options = []
        files = {"file": ("train", slice(self.rows)), "test": (self.test.split, self.test.slice(self.rows))}
        for name, (split, rows) in files.items():
            source = the_file(data / self.task, split)
            file = partial / f"{name}{source.suffix}"
            file.write_text(part(source.read_text("utf-8"), source.suffix, rows), encoding="utf-8")
            options += [f"--{name}", file.name]
        self.workspace.stage(partial, "new_task", self.name, *options)
        change(partial / "params.yaml", {"seed": self.seed, **self.changes})
        partial.rename(self.folder)

    def run_stages(self, stages: tuple[str, ...]) -> dict[str, float]:
        """Stage → its seconds, of those that an interrupted run has finished too."""
        path = self.folder / "seconds.json"
        seconds = json.loads(path.read_text()) if path.exists() else {}
        for stage in stages:
            if stage not in seconds:
                seconds[stage] = round(self.workspace.stage(self.folder, stage, self.name), 1)
                path.write_text(json.dumps(seconds))
                say(f"{self.title}: {stage}: {seconds[stage]:.0f} s")
        return seconds

    def peers(self) -> dict[str, float]:
        path = self.folder / "peers.json"
        if not path.exists():
            script = self.workspace.code / "benchmarks" / "peers.py"
            self.workspace.python(self.folder, str(script), self.name, "--seed", str(self.seed), "--out", path.name)
            say(f"{self.title}: peers: {path.read_text()}")
        return json.loads(path.read_text())


def change(params: Path, changes: dict) -> None:
    """Set values of params.yaml, by dotted keys."""
    yaml = ruamel.yaml.YAML()
    content = yaml.load(params.read_text(encoding="utf-8"))
    for key, value in changes.items():
        *groups, last = key.split(".")
        reduce(dict.__getitem__, groups, content)[last] = value
    with open(params, "w", encoding="utf-8", newline="\n") as file:
        yaml.dump(content, file)


def setting(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text}: expected key=value")
    return key, ruamel.yaml.YAML(typ="safe").load(value)


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


# The table ------------------------------------------------------------------------------------------------------------


def score(record: dict, model: str) -> float:
    return record["scores"][model][record["metric"]]


def table(records: list[dict]) -> tuple[list[str], list[list[str]]]:
    """A row for each task and number of rows: means over the seeds, in hundredths."""
    peers = [peer for peer in PEERS if any(peer in record["peers"] for record in records)]
    columns = ["task", "rows", "seeds", "metric", *MODELS, "gain", "retention", "agreement", *peers, "minutes"]
    rows = []
    for (task, count, metric), group in grouped(records).items():
        models = [spread([score(record, model) for record in group]) for model in MODELS.values()]
        gain = statistics.mean(score(record, "student") - score(record, "student_alone") for record in group)
        shares = [
            spread([record["scores"][share] for record in group if record["scores"][share]])
            for share in ("retention", "agreement")
        ]
        others = [spread([record["peers"][peer] for record in group if peer in record["peers"]]) for peer in peers]
        minutes = statistics.mean(sum(record["seconds"].values()) for record in group) / 60
        rows.append(
            [task, str(count), str(len(group)), metric, *models, f"{100 * gain:+.1f}", *shares, *others]
            + [f"{minutes:.1f}"]
        )
    return columns, rows


def grouped(records: list[dict]) -> dict[tuple, list[dict]]:
    groups: dict[tuple, list[dict]] = {}
    for record in records:
        groups.setdefault((record["task"], record["rows"], record["metric"]), []).append(record)
    return groups


def findings(records: list[dict]) -> list[str]:
    """What the table says of all runs together."""
    gains = [score(record, "student") - score(record, "student_alone") for record in records]
    retentions = [record["scores"]["retention"] for record in records if record["scores"]["retention"]]
    beaten = [
        f"{record['task']} {record['rows']} seed {record['seed']}: {peer} {100 * value:.1f}"
        for record in records
        for peer, value in record["peers"].items()
        if value > score(record, "student")
    ]
    worse = [name_of(record) for record, gain in zip(records, gains, strict=True) if gain < -ALLOWED_LOSS]
    weak = [name_of(record) for record in records if score(record, "teacher") < score(record, "student_alone")]
    retention = f"{100 * statistics.mean(retentions):.1f} %" if retentions else "undefined"
    return [
        f"gain: {100 * statistics.mean(gains):+.1f} on average; student more than {100 * ALLOWED_LOSS:.1f} below the"
        f" student alone: {'; '.join(worse) or 'nowhere'}",
        f"retention: {retention} on average; teacher below the student alone: {'; '.join(weak) or 'nowhere'}",
        f"student below a peer: {'; '.join(beaten) or 'nowhere'}",
    ]


def name_of(record: dict) -> str:
    return f"{record['task']} {record['rows']} seed {record['seed']}"


# The command ----------------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", metavar="FOLDER")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help="folders of --data")
    parser.add_argument("--rows", nargs="+", type=int, default=[200, 500, 1000], help="of train")
    parser.add_argument("--test-rows", type=int, help="default: all")
    parser.add_argument(
        "--score-on",
        choices=("validation", "train"),
        default="validation",
        help="the file of the test rows; train: the rows that follow those of --rows",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument(
        "--set", nargs="+", action="extend", type=setting, default=[], metavar="KEY=VALUE", help="change params.yaml"
    )
    parser.add_argument("--upto", choices=STAGES[STAGES.index("evaluate") :], default="evaluate", help="the last stage")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, each on its share of the cores")
    parser.add_argument("--workspace", type=Path, help="kept; default: a temporary folder")
    parser.add_argument("--from", type=Path, dest="finished", help="workspace or repository with encoder, word vectors")
    parser.add_argument("--keep", action="store_true", help="keep each run's models and data")
    parser.add_argument("--json", type=Path, help="append each result to this file, one a line, as it comes")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    for task in given.tasks:
        the_file(given.data / task, "train"), the_file(given.data / task, "validation")
    with contextlib.ExitStack() as stack:
        folder = given.workspace or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        threads = None if given.jobs == 1 else max(1, os.cpu_count() // given.jobs)
        workspace = Workspace(folder.resolve(), threads)
        workspace.make(given.finished)
        runs = [
            Run(task, rows, seed, dict(given.set), Test(given.score_on, given.test_rows), workspace, given.keep)
            for seed, task, rows in itertools.product(given.seeds, given.tasks, given.rows)
        ]
        saving = threading.Lock()

        def result(run: Run) -> dict:
            record = run.result(given.data, given.upto, given.jobs)
            if given.json:
                with saving, open(given.json, "a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
            return record

        with ThreadPoolExecutor(given.jobs) as pool:
            records = list(pool.map(result, runs))
    done = [record for record in records if "error" not in record]
    print(f"\n{machine()}; {note(given)}")
    if done:
        print_table(*table(done))
        print("", *findings(done), sep="\n")
    for record in records:
        if "error" in record:
            print(f"{name_of(record)}: stops at {record['error']}")
    sys.exit(len(done) < len(records))


def note(given: argparse.Namespace) -> str:
    """Under which conditions the table was made."""
    changes = ", ".join(f"{key}={value}" for key, value in given.set) or "params.yaml as it is"
    how = "one run at a time" if given.jobs == 1 else f"{given.jobs} runs side by side: minutes do not count"
    return f"test: {Test(given.score_on, given.test_rows)}; {changes}; stages to {given.upto}; {how}"


if __name__ == "__main__":
    main()
