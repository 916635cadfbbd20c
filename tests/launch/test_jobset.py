"""launch/jobset.yaml against the fields of the API, and the consistency of its sections."""

from typing import Any

import pytest
import yaml

from tests.runs import ROOT

NAMED = {"name": str}
JOBSET: dict[str, Any] = {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": NAMED,
    "spec": {
        "failurePolicy": {"maxRestarts": int},
        "network": {"enableDNSHostnames": bool},
        "replicatedJobs": [
            {
                "name": str,
                "replicas": int,
                "template": {
                    "spec": {
                        "parallelism": int,
                        "completions": int,
                        "completionMode": "Indexed",
                        "backoffLimit": int,
                        "template": {
                            "spec": {
                                "restartPolicy": "Never",
                                "terminationGracePeriodSeconds": int,
                                "containers": [
                                    {
                                        "name": str,
                                        "image": str,
                                        "workingDir": str,
                                        "env": [{"name": str, "value": str, "valueFrom": {"fieldRef": {"fieldPath": str}}}],
                                        "command": [str],
                                        "ports": [{"containerPort": int}],
                                        "resources": {"limits": {"nvidia.com/gpu": int}},
                                        "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool}],
                                    }
                                ],
                                "volumes": [
                                    {
                                        "name": str,
                                        "persistentVolumeClaim": {"claimName": str},
                                        "emptyDir": {"medium": "Memory"},
                                    }
                                ],
                            }
                        },
                    }
                },
            }
        ],
    },
}
"""The fields in use with their types or only value, from the CRD of kubernetes-sigs/jobset and Kubernetes' own API."""


def check(value: Any, schema: Any, path: str = "") -> None:
    """Raise `AssertionError` if a field isn't in the API or has another type."""
    if isinstance(schema, dict):
        assert isinstance(value, dict), path
        for name, inner in value.items():
            assert name in schema, f"{path}.{name}"
            check(inner, schema[name], f"{path}.{name}")
    elif isinstance(schema, list):
        assert isinstance(value, list), path
        for number, inner in enumerate(value):
            check(inner, schema[0], f"{path}[{number}]")
    elif isinstance(schema, type):
        assert type(value) is schema, f"{path} = {value!r}"
    else:
        assert value == schema, f"{path} = {value!r}"


@pytest.fixture
def jobset() -> Any:
    return yaml.safe_load((ROOT / "launch" / "jobset.yaml").read_text())


def test_jobset_has_the_fields_of_the_api(jobset: Any):
    check(jobset, JOBSET)


def test_jobset_is_consistent_with_the_dockerfile(jobset: Any):
    (worker,) = jobset["spec"]["replicatedJobs"]
    job = worker["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    env = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert job["parallelism"] == job["completions"] == int(env["NUM_PROCESSES"])
    assert worker["replicas"] == 1
    host, _, port = env["JAX_COORDINATOR_ADDRESS"].partition(":")
    name = jobset["metadata"]["name"]
    assert host == f"{name}-{worker['name']}-0-0.{name}"
    assert [int(port)] == [entry["containerPort"] for entry in container["ports"]]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    dockerfile = (ROOT / "launch" / "Dockerfile").read_text()
    assert f"WORKDIR {container['workingDir']}\n" in dockerfile
    assert container["image"] in dockerfile
    assert container["command"][0] == ".venv/bin/python", "a shell as the first process would keep SIGTERM to itself"
    assert "--exit_code_if_stopped=75" in container["command"], "the JobSet would take a stopped run for a finished one"
