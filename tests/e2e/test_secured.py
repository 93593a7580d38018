# SPDX-License-Identifier: Apache-2.0
"""An exporter behind TLS and passwords: a real Prometheus and the commands get in, others are told
how."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cap_exporter.client import NoAnswer, NotLetIn, ask_exporter, follow_events
from cap_exporter.fleet.http_config import HttpConfig, read_http_config
from cap_exporter.top.feed import Running
from tests.e2e.exporter import COMMAND, RunningExporter
from tests.e2e.played import write_recording
from tests.e2e.prometheus import Prometheus, eventually
from tests.e2e.served import Served
from tests.e2e.web_config import PASSWORD, WebFiles, hash_of
from tests.ports import free_port

USER = "prometheus"


@pytest.fixture
def files(tmp_path: Path) -> WebFiles:
    return WebFiles(tmp_path)


def client_config(files: WebFiles, **more: Any) -> Path:
    """As promtool and a scrape configuration take it."""
    (files.folder / "password").write_text(PASSWORD + "\n")
    path = files.folder / "http.yml"
    tls = {"ca_file": "ca.pem", **more.pop("tls", {})}
    login = {"username": USER, "password_file": "password"}
    path.write_text(yaml.safe_dump({"tls_config": tls, "basic_auth": login} | more))
    return path


@pytest.mark.needs("prometheus")
def test_a_real_prometheus_scrapes_with_certificate_and_password(files: WebFiles) -> None:
    path = files.write(
        tls_server_config={
            "cert_file": "cert.pem",
            "key_file": "key.pem",
            "client_ca_file": "ca.pem",
            "client_auth_type": "RequireAndVerifyClientCert",
            "client_allowed_sans": ["prometheus.monitoring.svc"],
        },
        basic_auth_users={USER: hash_of(PASSWORD)},
    )
    files.issue("client.pem", "client-key.pem", "prometheus.monitoring.svc")
    files.issue("other.pem", "other-key.pem", "somebody.else")
    folder = files.folder

    def job(name: str, certificate: str, password: str) -> dict[str, Any]:
        tls = {"ca_file": str(folder / "ca.pem"), "server_name": "localhost"}
        if certificate:
            tls |= {
                "cert_file": str(folder / f"{certificate}.pem"),
                "key_file": str(folder / f"{certificate}-key.pem"),
            }
        return {
            "job_name": name,
            "scheme": "https",
            "tls_config": tls,
            "basic_auth": {"username": USER, "password": password},
            "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
        }

    with RunningExporter(
        folder, f"--source=replay:{write_recording(folder / 'recording')}", f"--web-config={path}"
    ) as exporter:
        port = exporter.metrics_port
        jobs = [
            job("right", "client", PASSWORD),
            job("password", "client", "wrong"),
            job("name", "other", PASSWORD),
            job("certificate", "", PASSWORD),
        ]
        with Prometheus(folder, [], scrape_configs=jobs) as prometheus:
            eventually(lambda: len(prometheus.query("up")) == len(jobs), "four targets are scraped")
            eventually(lambda: bool(prometheus.query("capability_checks_total")), "a sample")
            up = {one["metric"]["job"]: one["value"][1] for one in prometheus.query("up")}
            assert up == {"right": "1", "password": "0", "name": "0", "certificate": "0"}
            asked = prometheus.query("count(capability_checks_total) by (job)")
            assert [one["metric"] for one in asked] == [{"job": "right"}]
        assert " WARNING " not in exporter.log.read_text()
        assert " ERROR " not in exporter.log.read_text()


def test_the_commands_get_in_by_the_file_that_promtool_takes(files: WebFiles) -> None:
    path = files.write(
        tls_server_config={"cert_file": "cert.pem", "key_file": "key.pem"},
        basic_auth_users={USER: hash_of(PASSWORD)},
    )
    config = client_config(files)
    source = f"--source=replay:{write_recording(files.folder / 'recording')}"
    with RunningExporter(files.folder, source, f"--page-web-config={path}") as exporter:
        url = f"https://localhost:{exporter.page_port}"
        event = first_line(
            "events", "--recent", "-ojson", f"--url={url}", f"--http-config={config}"
        )
        assert json.loads(event)["capability"]["name"] == "CAP_SYSLOG"

        profile = run("profile", "-ojson", f"--url={url}", f"--http-config={config}")
        assert json.loads(profile.stdout)["containers"]
        assert Running(url, read_http_config(config)).profiles()[0]

        (files.folder / "password").write_text("wrong")
        refused = run("top", "--once", f"--url={url}", f"--http-config={config}", status=1)
        assert "does not take the name and password" in refused.stderr
        refused = run("top", "--once", f"--url={url}", status=1)
        assert "tls_config.ca_file" in refused.stderr
        assert "Start the exporter" not in refused.stderr
        cgroup = f"/docker/{'a' * 64}"
        told = run("resolve", "--as=path", cgroup, f"--url={url}", status=0)
        assert "tls_config.ca_file" in told.stderr
        told = run("resolve", "--as=path", cgroup, f"--url={url}", f"--http-config={config}")
        assert "does not take" in told.stderr
        wrong = run("events", "--http-config=/none.yml", status=2)
        assert "cannot read /none.yml" in wrong.stderr
        assert exporter.get("/metrics").startswith("#")  # its own address is open as before


def test_a_wrong_web_configuration_ends_the_start(files: WebFiles) -> None:
    path = files.write_tls(certfile="x")
    ended = run("run", "--listen=127.0.0.1:0", f"--web-config={path}", status=2)
    assert re.search(
        r"line \d: tls_server_config\.certfile: unknown key; did you mean", ended.stderr
    )


def run(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def first_line(*arguments: str) -> str:
    with subprocess.Popen([COMMAND, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        line = process.stdout.readline()
        process.kill()
        return line


@pytest.fixture
def secured(files: WebFiles) -> Iterator[Served]:
    path = files.write(
        tls_server_config={"cert_file": "cert.pem", "key_file": "key.pem"},
        basic_auth_users={USER: hash_of(PASSWORD)},
    )
    with Served(page_web_config=path) as served:
        yield served


def test_who_has_the_password_and_knows_the_authority_gets_in(
    files: WebFiles, secured: Served
) -> None:
    config = read_http_config(client_config(files))
    url = f"https://localhost:{secured.page.port}"
    assert ask_exporter(url, config)["containers"]
    assert next(follow_events(url, True, config))["verdict"]
    # From the address, as the environment variable has it.
    login = f"https://{USER}:{PASSWORD.replace(' ', '%20')}@localhost:{secured.page.port}/"
    assert ask_exporter(login, HttpConfig(ca_file=files.ca))["containers"]
    assert ask_exporter(login, HttpConfig(insecure=True))["containers"]


def test_who_does_not_get_in_is_told_what_to_do(files: WebFiles, secured: Served) -> None:
    mutual = files.folder / "mutual.yml"
    mutual.write_text(
        files.write_tls(
            client_ca_file="ca.pem", client_auth_type="RequireAndVerifyClientCert"
        ).read_text()
    )
    cases: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("https://localhost:{tls}", {"ca_file": None}, r"verify failed.* tls_config\.ca_file"),
        ("https://localhost:{tls}", {"server_name": "a.b"}, r"is for another name"),
        ("http://localhost:{tls}", {}, r"speaks TLS: write https://"),
        ("https://localhost:{plain}", {}, r"speaks plain HTTP: write http://"),
        ("https://localhost:{tls}", {}, r"asks for the name and password .*basic_auth"),
        ("https://a:b@localhost:{tls}", {}, r"does not take the name and password"),
        ("https://localhost:{mutual}", {}, r"may want a certificate.* tls_config\.cert_file"),
        ("http://localhost:{plain}", {"headers": {"Host": "a.b"}}, r"answers to localhost"),
        ("https://localhost:{tls}", {"ca_file": Path("/none.pem")}, r"cannot use /none\.pem"),
    )
    with Served(page_web_config=mutual) as other:
        for url, config, said in cases:
            http = HttpConfig(**{"ca_file": files.ca, **config})
            address = url.format(
                tls=secured.page.port, plain=secured.metrics.port, mutual=other.page.port
            )
            with pytest.raises(NotLetIn, match=said) as raised:
                ask_exporter(address, http)
            assert "a:b" not in str(raised.value)
            with pytest.raises(NotLetIn, match=said):
                next(follow_events(address, False, http))


@pytest.mark.parametrize("url", ["localhost:10839", "ftp://localhost", "http://", "http://a:b:c"])
def test_what_is_no_address_is_told(url: str) -> None:
    with pytest.raises(NoAnswer, match=r"is no address: write e\.g\. http://127"):
        ask_exporter(url)


def test_where_nobody_listens_is_told_without_the_password() -> None:
    with pytest.raises(NoAnswer, match=r"Connection refused") as raised:
        ask_exporter(f"http://a:geheim@127.0.0.1:{free_port()}")
    assert "geheim" not in str(raised.value)
