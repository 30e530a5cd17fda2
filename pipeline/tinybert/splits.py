"""From a task's source to train, validation and test: no text twice, none on two sides, classes in proportion."""

from collections import Counter

from sklearn.model_selection import train_test_split

from pipeline.tinybert import sources, tasks
from pipeline.tinybert.rows import Row
from pipeline.tinybert.settings import Source
from pipeline.tinybert.settings import Task as TaskSettings
from pipeline.tinybert.stage import UserError, say

SPLITS = ("train", "validation", "test")
Parts = dict[str, list[Row]]


def read(task: TaskSettings, key: str) -> Parts:
    """The splits that the source has (only ``train`` where it names none), as checked rows with an ``id``."""
    named = task.source.splits or {"train": None}
    if "train" not in named:
        raise UserError(f"{key}.splits: no 'train' (it has: {', '.join(named)})")
    kind = tasks.KINDS[task.kind]
    parts = {}
    for split in (name for name in SPLITS if name in named):
        checked = kind.read(sources.records(task.source, named[split], key), task.source, key)
        parts[split] = [
            {"id": f"{split}-{number}", **{name: value for name, value in row.items() if name != "where"}}
            for number, row in enumerate(checked)
        ]
    return parts


def without_duplicates(parts: Parts) -> Parts:
    """Each text once: the first of a split, and none in train or validation that also stands in a later split."""
    taken: dict[str, str] = {}
    kept = {}
    for split in reversed([name for name in SPLITS if name in parts]):
        kept[split], dropped = [], Counter()
        for row in parts[split]:
            if row["text"] in taken:
                dropped[taken[row["text"]]] += 1
            else:
                taken[row["text"]] = split
                kept[split].append(row)
        for owner, count in dropped.items():
            say(
                f"{split}: {count} rows dropped whose text "
                + ("comes before" if owner == split else f"stands in {owner}")
            )
    return {split: kept[split] for split in SPLITS if split in kept}


def complete(parts: Parts, test: float, validation: float, seed: int, key: str) -> Parts:
    """Split off what the source lacks, as shares of all rows that it has for training, classes in proportion."""
    rows = parts["train"]
    if not rows:
        raise UserError(f"{key}: no row is left for train: each of its texts also stands in validation or test")
    if len(label_counts(rows)) < 2:
        raise UserError(
            f"{key}: all {len(rows)} rows have the label '{rows[0]['label']}': expected two classes or more: look at"
            " its `label` and `where`"
        )
    shares = {name: share for name, share in (("test", test), ("validation", validation)) if name not in parts}
    if sum(shares.values()) >= 1:
        raise UserError(f"prepare.test + prepare.validation = {sum(shares.values())}: nothing is left for train")
    made, total = {}, len(rows)
    for name, share in shares.items():
        size = round(share * total)
        smallest, count = min(label_counts(rows).items(), key=lambda item: item[1])
        if count * min(size, len(rows) - size) < len(rows):  # else a side may lack the class
            raise UserError(
                f"{key}: {len(rows)} rows, {count} of them '{smallest}': too few to split off {size} rows for {name}"
                f" with every class on both sides; bring more rows or change prepare.{name}"
            )
        rows, made[name] = train_test_split(
            rows, test_size=size, random_state=seed, stratify=[row["label"] for row in rows]
        )
    made = {name: sorted(part, key=_number) for name, part in made.items()}
    all_parts = {**parts, **made, "train": sorted(rows, key=_number)}
    return {name: all_parts[name] for name in SPLITS}


def _number(row: Row) -> int:
    return int(row["id"].rpartition("-")[2])


def label_counts(rows: list[Row]) -> dict[str, int]:
    return dict(sorted(Counter(row["label"] for row in rows).items()))


def label_names(parts: Parts, source: Source, key: str) -> list[str]:
    """Names in the order of the model's outputs: that of ``labels`` in the settings, else alphabetical."""
    train = label_counts(parts["train"])
    for split, rows in parts.items():
        unknown = sorted(set(label_counts(rows)) - set(train))
        if unknown:
            raise UserError(
                f"{key}: {split} has the label '{unknown[0]}', which no row of train has ({', '.join(train)})"
            )
    return [name for name in source.labels or train if name in train]


def unlabelled_rows(texts: list[str], parts: Parts) -> list[Row]:
    """Rows of the texts that stand in no split."""
    known = {row["text"] for rows in parts.values() for row in rows}
    fresh = [text for text in texts if text not in known]
    if len(fresh) < len(texts):
        say(f"unlabelled: {len(texts) - len(fresh)} texts dropped that also stand in train, validation or test")
    return [{"id": f"unlabelled-{number}", "text": text} for number, text in enumerate(fresh)]
