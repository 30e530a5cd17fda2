"""The page: HTML from the results of one or several runs, without scripts or files beside it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import escape
from itertools import groupby

from pipeline.tinybert.evaluation import comparison, verdicts
from pipeline.tinybert.report import charts

MODELS = {"teacher": "teacher", "student": "student", "student_alone": "baseline"}  # in the files → on the page
EXAMPLES = 10  # rows of each kind
LONGEST_TEXT = 400  # characters of an example
COLUMNS = [
    "",
    "student",
    "95 % interval",
    "int8",
    "teacher",
    "gain",
    "retention",
    "agreement",
    "int8 MB",
    "int8 ms",
    "times faster",
]


@dataclass
class Run:
    """A task's results in one run. ``scores``, ``export``, ``benchmark``: reports; ``tables``: file → its records."""

    name: str  # of the run: "this folder", a commit or an experiment
    task: str
    metric: str
    scores: dict
    export: dict = field(default_factory=dict)
    benchmark: dict = field(default_factory=dict)
    tables: dict[str, list[dict]] = field(default_factory=dict)
    resampled: dict = field(default_factory=dict)  # the line of test in resampled/student.jsonl
    int8_resampled: dict = field(default_factory=dict)  # and in resampled/int8.jsonl
    doubts: list[str] = field(default_factory=list)  # why the scores are doubtful
    examples: list[tuple[dict, dict]] = field(default_factory=list)  # (row, its predictions)


def render(runs: list[Run], settings_that_differ: list[list[str]]) -> str:
    """The page. The first run of each task is shown in full; the students of the others beside its own."""
    by_task = [list(of_task) for _, of_task in groupby(sorted(runs, key=lambda run: run.task), lambda run: run.task)]
    body = ["<h1>Distillation results</h1>", *(task_section(of_task) for of_task in by_task)]
    if len(settings_that_differ) > 1:
        body += ["<h2>Settings that differ</h2>", table(*settings_that_differ)]
    for first, *_ in by_task:
        body += [f"<h2>{escape(first.task)} in detail</h2>", detail_charts(first), curves(first), examples(first)]
    return PAGE.format(style=STYLE, body="\n".join(body))


def task_section(runs: list[Run]) -> str:
    first, *others = runs
    lines = [COLUMNS + (["verdict"] if others else [])]
    for run in runs:
        lines.append([run.name, *result_cells(run), *([verdict(first, run)] if others else [])])
    what = f"{first.metric} in percent, on {first.scores['test_rows']} test rows"
    title = f"<h2>{escape(first.task)} <small>{escape(what)}</small></h2>"
    chart = ""
    if others:
        students = ((run.name, run.scores["student"]) for run in runs)
        values = [(name, *(student[key] for key in (first.metric, "low", "high"))) for name, student in students]
        chart = grid([("The student in each run", charts.intervals(values, first.metric)), *comparison_charts(runs)])
    words = "".join(f"<p>{escape(sentence[0].upper() + sentence[1:])}.</p>" for sentence in findings(first))
    return f"{title}{words}{table(*lines)}{chart}"


def comparison_charts(runs: list[Run]) -> Iterator[tuple[str, str]]:
    """Charts of the students of several runs."""
    metric = runs[0].metric
    latencies = [
        (run.name, float(row["milliseconds"]), float(row["score"]))
        for run in runs for row in run.tables.get("package/score.csv", []) if row["model"] == "student int8"
    ]  # fmt: skip
    if latencies:
        yield "Score and latency of int8", charts.scatter(latencies, "milliseconds, one text on one thread", metric)
    if lengths := lengths_of(runs):
        points = {run.name: by_length(run, "student", lengths) for run in runs}
        yield "Score by length", charts.lines(points, "words", metric, lengths)
    for file, rows in runs[0].tables.items():
        stage, _, name = file.removesuffix(".tsv").partition("/plots/metrics/")
        if name and len(rows) > 1 and stage.startswith("distill_"):
            points = {run.name: curve(run.tables.get(file, []), name) for run in runs}
            yield f"{stage}: {name}", charts.lines(points, "step", name, dots=False)


def lengths_of(runs: list[Run]) -> list[str]:
    """The names of the bins of text lengths, the shortest first."""
    rows = (row for run in runs for row in run.tables.get("scores_by_length.csv", []) if row["metric"] == run.metric)
    found = {row["length"] for row in rows}  # such as none, 1, 2-3
    return sorted(found, key=lambda length: charts.numeric_first(length.replace("none", "0").partition("-")[0]))


def by_length(run: Run, model: str, lengths: list[str]) -> list[charts.Point]:
    rows = [row for row in run.tables.get("scores_by_length.csv", []) if row["metric"] == run.metric]
    return [(lengths.index(row["length"]), float(row["score"])) for row in rows if row["model"] == model]


def curve(rows: list[dict], name: str) -> list[charts.Point]:
    return [(float(row["step"]), float(row[name])) for row in rows]


def findings(run: Run) -> Iterator[str]:
    """What a task's results are worth."""
    yield f"{verdicts.gain(run.scores)}; {verdicts.retention(run.scores)}"
    yield from (f"DOUBTFUL: {doubt}" for doubt in run.doubts)
    if run.resampled and run.int8_resampled:
        yield f"the int8 model, compared with the student in PyTorch: {compared(run.resampled, run.int8_resampled)}"


def result_cells(run: Run) -> list[str]:
    student, int8 = run.scores["student"], run.benchmark.get("student", {}).get("int8", {})
    shown = [int8.get("megabytes"), int8.get("p50"), int8.get("times_faster")]
    return [
        percent(student.get(run.metric)),
        f"{percent(student['low'])} to {percent(student['high'])}",
        percent(run.export.get("int8", {}).get(run.metric)),
        percent(run.scores.get("teacher", {}).get(run.metric)),
        f"{100 * run.scores['gain']['value']:+z.1f}",
        percent(run.scores.get("retention")),
        percent(run.scores.get("agreement")),
        *("–" if value is None else f"{value:.4g}" for value in shown),
    ]


def verdict(first: Run, run: Run) -> str:
    """How the student of another run compares with that of the first."""
    if run is first:
        return ""
    if not (first.resampled and run.resampled):
        return f"{comparison.IMPOSSIBLE}: no scores on resamples"
    return compared(first.resampled, run.resampled)


def compared(before: dict, after: dict) -> str:
    """Whether the second of two models is better or worse, by their scores on the same resamples."""
    found = comparison.compare_scores(before, after)
    if found.reason:
        return f"{found.verdict}: {found.reason}"
    return f"{found.verdict} ({100 * found.value:+z.1f}, {100 * found.low:z.1f} to {100 * found.high:z.1f})"


def detail_charts(run: Run) -> str:
    tables, made = run.tables, []
    if rows := tables.get("scores.csv"):
        values = [(MODELS[row["model"]], float(row["score"]), float(row["low"]), float(row["high"])) for row in rows]
        made.append(("Scores with 95 % intervals", charts.intervals(values, run.metric)))
    if rows := tables.get("package/score.csv"):
        points = [(row["model"], float(row["milliseconds"]), float(row["score"])) for row in rows]
        made.append(("Score and latency", charts.scatter(points, "milliseconds, one text on one thread", run.metric)))
    if rows := tables.get("calibration.csv"):
        series = {
            name: [(float(row["confidence"]), float(row["accuracy"])) for row in rows if row["model"] == which]
            for which, name in MODELS.items()
        }
        sides = ("confidence", "accuracy") if "confidence" in run.scores["student"] else ("prediction", "mean label")
        made.append(("Calibration", charts.lines(series, *sides, diagonal=True)))
    if lengths := lengths_of([run]):
        series = {name: by_length(run, which, lengths) for which, name in MODELS.items()}
        made.append(("Score by length", charts.lines(series, "words", run.metric, lengths)))
    for which in ("student", "teacher"):
        if rows := tables.get(f"confusion/{which}.csv"):
            pairs = ((row["actual"], row["predicted"]) for row in rows)
            made.append((f"Confusion of the {which}", charts.confusion(pairs)))
    return grid(made)


def curves(run: Run) -> str:
    made = []
    for file, rows in run.tables.items():
        if file.endswith(".tsv") and len(rows) > 1:
            stage, name = file.split("/")[0], file.split("/")[-1].removesuffix(".tsv")
            model = {"finetune_teacher": "teacher", "finetune_student": "baseline"}.get(stage, "student")
            made.append((f"{stage}: {name}", charts.lines({model: curve(rows, name)}, "step", name, dots=False)))
    return f"<details open><summary>Training curves</summary>{grid(made)}</details>" if made else ""


def grid(figures: list[tuple[str, str]]) -> str:
    cells = (f"<figure><h3>{escape(title)}</h3>{chart}</figure>" for title, chart in figures)
    return f'<div class="grid">{"".join(cells)}</div>'


def examples(run: Run) -> str:
    if not run.examples:
        return "<p>No examples: the test rows or their predictions are not here (<code>dvc pull</code>).</p>"
    differ = sorted((pair for pair in run.examples if distance(pair[1])), key=lambda pair: -distance(pair[1]))
    surest = sorted((pair for pair in run.examples if pair[1]["mistake"]), key=lambda pair: -pair[1]["mistake"])
    shown = {
        f"Teacher and student differ ({len(differ)} of {len(run.examples)} rows)": differ[:EXAMPLES],
        f"The student's surest mistakes ({len(surest)} rows with a mistake)": surest[:EXAMPLES],
    }
    return "".join(f"<h3>{escape(title)}</h3>{example_table(run, pairs)}" for title, pairs in shown.items())


def distance(predicted: dict) -> float:
    """How far student and teacher are apart: for regression, the difference of their numbers; 0 without a teacher."""
    if "teacher" not in predicted:
        return 0.0
    teacher, student = predicted["teacher"], predicted["student"]
    return abs(teacher - student) if isinstance(teacher, float) else float(teacher != student)


def example_table(run: Run, pairs: list[tuple[dict, dict]]) -> str:
    last = "confidence in the mistake" if "confidence" in run.scores["student"] else "error"
    lines = [["text", "actual", "teacher", "student", last]]
    for row, predicted in pairs:
        actual = row.get("label", row.get("tags", [answer["text"] for answer in row.get("answers", [])]))
        models = [readable(row, predicted[which]) if which in predicted else "–" for which in ("teacher", "student")]
        lines.append(
            [
                text_of(row),
                readable(row, actual),
                *models,
                f"{predicted['mistake']:.2f}" if predicted["mistake"] else "–",
            ]
        )
    return table(*lines, classes="examples")


def text_of(row: dict) -> str:
    parts = [row[key] for key in ("text", "pair", "question", "passage") if key in row]
    text = " ⏎ ".join(parts or [" ".join(row.get("words", []))])
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"


def readable(row: dict, value: object) -> str:
    """A label or prediction: of a question, the text of the answer; of a sentence, its words with a tag."""
    if "passage" in row and (value is None or (isinstance(value, list) and value and isinstance(value[0], int))):
        return row["passage"][slice(*value)] if value else "no answer"
    if "words" in row and isinstance(value, list):
        return (
            ", ".join(f"{word}: {tag}" for word, tag in zip(row["words"], value, strict=False) if tag != "O") or "none"
        )
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(head: list[str], *lines: list[str], classes: str = "") -> str:
    titles = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(cells(head, cell_texts))}</tr>" for cell_texts in lines)
    return f'<div class="scroll"><table class="{classes}"><tr>{titles}</tr>{body}</table></div>'


def cells(head: list[str], texts: Iterable[str]) -> Iterator[str]:
    for name, text in zip(head, texts, strict=True):
        yield f'<td data-name="{escape(name)}">{escape(text)}</td>'


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Distillation results</title><style>{style}</style></head>
<body><main>
{body}
</main></body></html>
"""

STYLE = """
:root { --back: #fff; --text: #1b1f24; --soft: #5b6572; --edge: #dfe3e8; --teacher: #2f6fb7; --student: #d1600a;
  --baseline: #708090; --fourth: #6a51a3; --fifth: #1d7f4e; --sixth: #b0306a; color-scheme: light dark }
@media (prefers-color-scheme: dark) { :root { --back: #14171b; --text: #e6e9ee; --soft: #9aa5b1; --edge: #30363d;
  --teacher: #6aa9ec; --student: #f0914a; --baseline: #9fb0c0; --fourth: #b39ddb; --fifth: #5cc48e; --sixth: #f07bb0 } }
body { margin: 0; background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1240px; margin: auto; padding: 16px }
h1 { font-size: 24px; margin: 8px 0 } h2 { font-size: 20px; margin: 28px 0 8px }
h3 { font-size: 15px; margin: 12px 0 4px }
small, figcaption, th { color: var(--soft); font-weight: normal }
p { margin: 4px 0 8px }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 16px }
figure { margin: 0; border: 1px solid var(--edge); border-radius: 8px; padding: 4px 12px 8px; min-width: 0 }
svg { width: 100%; max-width: 520px; height: auto; display: block }
svg text { font-size: 11px; fill: var(--text) } svg .label { fill: var(--soft) }
.grid line, line.grid { stroke: var(--edge) } line.axis { stroke: var(--soft) }
line.dashed { stroke-dasharray: 4 4; stroke: var(--soft) }
.line { fill: none; stroke-width: 2 } line.line { stroke-width: 3 }
.m-teacher { --colour: var(--teacher) } .m-student { --colour: var(--student) }
.m-baseline { --colour: var(--baseline) } .m-0 { --colour: var(--student) } .m-1 { --colour: var(--teacher) }
.m-2 { --colour: var(--fourth) } .m-3 { --colour: var(--fifth) } .m-4 { --colour: var(--sixth) }
.m-5 { --colour: var(--baseline) }
circle { fill: var(--colour) } svg .line { stroke: var(--colour) }
.cell { fill: var(--teacher); stroke: var(--edge) } svg .strong { fill: #fff }
.legend span { margin-right: 14px } .key { display: inline-block; width: 10px; height: 10px; border-radius: 5px;
  background: var(--colour); margin-right: 5px }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--edge); vertical-align: top }
td { font-variant-numeric: tabular-nums } td:first-child { font-weight: 600 }
.examples td:first-child { font-weight: normal }
summary { cursor: pointer; margin: 12px 0; font-weight: 600 }
@media (max-width: 640px) { tr:first-child { display: none } tr, td { display: block } td { border: 0; padding: 2px 0 }
  tr { border-bottom: 1px solid var(--edge); padding: 8px 0 }
  td:not(:first-child)::before { content: attr(data-name) ": "; color: var(--soft) } }
"""
