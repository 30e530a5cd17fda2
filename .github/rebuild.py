"""Compare a fresh run with the commit: ``dvc repro --force``, then ``python .github/rebuild.py``.

It prints, in Markdown, the outputs whose hashes in dvc.lock differ from those of the last commit, without outputs that
contain measured times. The exit code is 1 if there are some and the run was on the kind of machine that made the commit
(`metrics/<task>/benchmark.json` names it). Bytes differ between kinds of machines, so elsewhere they are only listed.
On CPUs, torch's CPU build and its CUDA build count as the same.
"""

import json
import subprocess
import sys
from pathlib import Path

import ruamel.yaml

TIMED_STAGES = ("benchmark", "package", "summary")  # their outputs contain measured times


def main() -> None:
    before, now = hashes(committed("dvc.lock")), hashes(Path("dvc.lock").read_text(encoding="utf-8"))
    changed = sorted(path for path in before.keys() | now if before.get(path) != now.get(path))
    machines = {path: (machine(committed(path)), machine(Path(path).read_text(encoding="utf-8")))
                for path in map(Path.as_posix, sorted(Path("metrics").glob("*/benchmark.json")))}  # fmt: skip
    other = [f"- {path}: {old or 'none'} before, {new} now" for path, (old, new) in machines.items()
             if is_another_kind(old, new)]  # fmt: skip
    print(f"## Rebuild\n\n{len(now) - len(changed)} of {len(now)} outputs have the bytes of the commit.")
    if changed:
        print("\n".join(["\nThese differ:\n", *(f"- `{path}`" for path in changed)]))
    if other:
        print("\n".join(["\nThis is another kind of machine, so they may differ:\n", *other]))
    sys.exit(bool(changed and not other))


def committed(path: str) -> str:
    """A file of the last commit; empty if it is not there."""
    return subprocess.run(["git", "show", f"HEAD:{path}"], capture_output=True, encoding="utf-8").stdout


def hashes(lock: str) -> dict[str, str]:
    """Output → hash in dvc.lock."""
    stages = (ruamel.yaml.YAML(typ="safe", pure=True).load(lock) or {}).get("stages", {})
    return {
        out["path"]: out["md5"]
        for name, stage in stages.items()
        if name.split("@")[0] not in TIMED_STAGES
        for out in stage.get("outs", [])
    }


def machine(report: str) -> dict:
    """The kind of machine in benchmark.json: processor, cores, threads, GPU, versions of the libraries."""
    return json.loads(report or "{}").get("machine", {})


def is_another_kind(old: dict, new: dict) -> bool:
    """Whether two machines differ. Without a GPU, torch's builds (`+cpu`, `+cu130`) of one version are the same."""
    if old.get("gpu") is None and new.get("gpu") is None:
        old, new = without_build(old), without_build(new)
    return old != new


def without_build(machine: dict) -> dict:
    return {**machine, "torch": machine.get("torch", "").partition("+")[0]}


if __name__ == "__main__":
    main()
