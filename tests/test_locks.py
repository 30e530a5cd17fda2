"""The locks have each package that requirements.txt names, at its version, with hashes and without an address."""

import re

import tiny

LOCKS = ("requirements.lock", "requirements-cuda.lock")
PINNED = re.compile(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;]+)", re.MULTILINE)


def pinned(*files: str) -> dict[str, str]:
    return {
        re.sub(r"[-_.]+", "-", name.lower()): version
        for file in files
        for name, version in PINNED.findall((tiny.ROOT / file).read_text(encoding="utf-8"))
    }


def test_the_locks_agree_with_the_requirements():
    locked, required = pinned(*LOCKS), pinned("requirements.txt")
    assert len(locked) > 2 * len(required), "the locks have transitive packages too"
    assert {name: locked.get(name) for name in required} == required, "run `python .github/lock.py`"


def test_each_locked_package_has_hashes_and_no_address():
    for file in LOCKS:
        text = (tiny.ROOT / file).read_text(encoding="utf-8")
        assert "://" not in text and "index-url" not in text
        lines = text.splitlines()
        assert all("--hash=sha256:" in after for line, after in zip(lines, lines[1:], strict=False) if "==" in line)


def test_only_the_lock_for_cuda_has_torch():
    assert pinned("requirements.lock").keys().isdisjoint({"torch", "triton", "nvidia-cublas"})
    assert {"torch", "triton", "nvidia-cublas"} <= pinned("requirements-cuda.lock").keys()
