"""The image is pinned, runs as an arbitrary user and contains no secret; checked on the Dockerfile's text."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from helm.charts import CHART, ROOT

FILE = ROOT / "helm" / "image" / "Dockerfile"
SECRET = re.compile(r"(secret|password|token|api_?key|access_?key)", re.IGNORECASE)


@dataclass(frozen=True)
class Step:
    """One instruction."""

    name: str
    text: str


def steps(text: str) -> list[Step]:
    """Return the instructions, with continued lines joined and comments removed."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", lines)
    return [Step(*line.split(None, 1)) for line in joined.splitlines() if line.strip()]


STEPS = steps(FILE.read_text())


def named(name: str) -> list[str]:
    return [step.text for step in STEPS if step.name == name]


def test_bases_are_pinned_by_a_full_version() -> None:
    arguments = dict(text.split("=", 1) for text in named("ARG"))
    for text in named("FROM"):
        image = re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], text.split()[0])
        tag = image.rpartition(":")[2]
        assert re.match(r"\d+\.\d+\.\d+-", tag), image
        assert "latest" not in image


def test_the_base_may_be_pinned_by_its_digest_and_the_file_says_how() -> None:
    text = FILE.read_text()
    assert all(re.match(r"python:\$\{PYTHON\}( AS \w+)?$", image) for image in named("FROM")), "a tag@digest fits"
    assert "--build-arg PYTHON=" in text and "@sha256:" in text and "imagetools inspect python:" in text


def test_every_argument_is_used() -> None:
    for text in named("ARG"):
        name = text.split("=")[0]
        assert len(re.findall(rf"\$\{{{name}\}}", FILE.read_text())) >= 1, name


def test_it_runs_as_the_user_that_the_chart_names_and_owns_no_code() -> None:
    names = [step.name for step in STEPS]
    last = len(names) - names[::-1].index("FROM")
    (user,) = [step.text for step in STEPS[last:] if step.name == "USER"]
    security = (CHART / "templates" / "_pods.tpl").read_text()
    assert user == "1000:1000" and "runAsUser: 1000" in security and "fsGroup: 1000" in security
    after = names.index("USER")
    assert not {"RUN", "COPY", "ADD"} & set(names[after:])
    assert not any("--chown=regraft" in text or "--chown=1000" in text for text in named("COPY"))


def test_no_secret_is_asked_for_or_kept() -> None:
    for text in (*named("ARG"), *named("ENV")):
        for word in shlex.split(text):
            assert not SECRET.search(word.split("=")[0]), word
    assert not named("ADD"), "COPY does not fetch or unpack"


def test_ray_authentication_and_pinned_versions_are_there() -> None:
    assert any("RAY_AUTH_MODE=token" in text for text in named("ENV"))
    installs = [text for text in named("RUN") if "pip install" in text]
    assert installs and all("--constraint constraints.txt" in text for text in installs)
    assert named("HEALTHCHECK") == ["NONE"]
    pins = dict(
        line.split("==") for line in (ROOT / ".ci" / "constraints.txt").read_text().splitlines() if "==" in line
    )
    assert pins["ray"] == yaml.safe_load((CHART / "values.yaml").read_text())["rayVersion"]
    caches = [text for text in named("RUN") if "apt-get install" in text and "/var/lib/apt/lists" not in text]
    assert not caches and any("PIP_NO_CACHE_DIR=1" in text for text in named("ENV"))


def test_what_is_copied_is_what_the_context_lets_through() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for text in named("COPY")
        if "--from" not in text
        for source in [word for word in text.split() if not word.startswith("--")][:-1]
    }
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)


def test_the_extras_exist() -> None:
    (extras,) = [text.split("=")[1].split(",") for text in named("ARG") if text.startswith("EXTRAS=")]
    project = (ROOT / "pyproject.toml").read_text()
    for extra in extras:
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra


def test_the_device_that_is_asked_for_decides_where_torch_comes_from(tmp_path: Path) -> None:
    import subprocess

    (text,) = [text for text in named("RUN") if "TORCH_INDEX" in text]
    script = text.replace("/opt/regraft/bin/pip", "echo pip")

    def run(device: str, index: str) -> tuple[int, str]:
        done = subprocess.run(
            ["sh", "-c", script],
            env={"DEVICE": device, "TORCH_INDEX": index},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    assert run("cuda", "") == (0, "pip install --constraint constraints.txt torch torchvision\n")
    assert run("cpu", "https://x/cpu") == (
        0,
        "pip install --no-deps --index-url https://x/cpu --constraint constraints.txt torch torchvision\n",
    )
    for device, index in (("cpu", ""), ("cuda", "https://x"), ("tpu", "")):
        code, text = run(device, index)
        assert code == 2 and "DEVICE" in text


@pytest.mark.parametrize("text", ["FROM a \\\n  AS b\n# ENV X=1\nUSER 0"])
def test_the_reader_joins_lines_and_skips_comments(text: str) -> None:
    assert steps(text) == [Step("FROM", "a AS b"), Step("USER", "0")]
