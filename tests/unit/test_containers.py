"""The examples for containers: files that parse, and one ledger for all that they start."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

TOP = Path(__file__).parents[2]
FOLDER = "/var/lib/prefect-slots"


def load(name: str) -> Any:
    return yaml.safe_load((TOP / "configs/containers" / name).read_text())


def test_the_services_of_a_host_share_folder_group_and_name() -> None:
    services = load("docker-compose.yaml")["services"]
    assert len(services) == 2
    assert {each["environment"]["PREFECT_SLOTS_STATE_DIR"] for each in services.values()} == {FOLDER}
    assert {each["environment"]["PREFECT_SLOTS_WORKER"] for each in services.values()} == {"gpu-1"}
    assert all(f"{FOLDER}:{FOLDER}" in each["volumes"] for each in services.values())
    users = [each["user"].split(":") for each in services.values()]
    assert len({user for user, _ in users}) == 2
    assert {group for _, group in users} == {"2000"}
    assert all(each["command"][:3] == ["prefect-slots", "worker", "start"] for each in services.values())


def test_the_worker_of_a_node_keeps_its_ledger_on_the_node() -> None:
    found = load("daemonset.yaml")
    assert (found["apiVersion"], found["kind"]) == ("apps/v1", "DaemonSet")
    template = found["spec"]["template"]
    assert template["metadata"]["labels"] == found["spec"]["selector"]["matchLabels"]
    pod = template["spec"]
    [volume] = pod["volumes"]
    assert volume["hostPath"]["path"] == FOLDER
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": FOLDER}]
    [worker] = pod["containers"]
    variables = {each["name"]: each for each in worker["env"]}
    assert variables["PREFECT_SLOTS_STATE_DIR"]["value"] == FOLDER
    assert variables["PREFECT_SLOTS_WORKER"]["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"
    assert f"chmod 2770 {FOLDER}" in pod["initContainers"][0]["command"][-1]


@pytest.mark.parametrize(
    "path", re.findall(r"`((?:configs|tests)/[\w/.-]+)`", (TOP / "docs/containers.md").read_text())
)
def test_each_file_that_the_document_names_is_there(path: str) -> None:
    assert (TOP / path).is_file()
