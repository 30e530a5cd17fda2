"""Write the locks: the version and hashes of each package that requirements.txt needs. Run it where uv is installed.

requirements-cuda.lock has torch and the packages that only its CUDA build needs, requirements.lock all others, so that
the CPU build of torch, which comes from another index with other hashes, can replace that of requirements-cuda.lock.
"""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMAND = "uv pip compile requirements.txt --universal --python-version 3.11 --generate-hashes --quiet"
PACKAGE = re.compile(r"^\S.*\n(?:[ \t].*\n)*", re.MULTILINE)  # a package's version, and the lines of its hashes
CUDA = re.compile(r"torch==|triton==|cuda-|nvidia-(?!ml-py)")


def main() -> None:
    command = [*COMMAND.split(), "--no-header", "--no-annotate"]
    compiled = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    packages = PACKAGE.findall(compiled.stdout)
    for file, is_cuda in (("requirements.lock", False), ("requirements-cuda.lock", True)):
        chosen = [package for package in packages if bool(CUDA.match(package)) == is_cuda]
        (ROOT / file).write_text("".join(chosen), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
