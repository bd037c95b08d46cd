"""TLS and SASL on the real broker: the settings pass through, and what is wrong is said and tried again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from . import broker as kafka
from .conftest import TopicRig, report

Wait = Callable[..., None]
Make = Callable[..., TopicRig]


@pytest.fixture
def one_event(broker: kafka.Broker, topic: str) -> None:
    kafka.produce(broker.bootstrap, topic, [(0, None, report(1), None)])


def password_file(folder: Path, user: str) -> str:
    path = folder / "password"
    path.write_text(kafka.PASSWORDS[user] + "\n")
    path.chmod(0o600)
    return str(path)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
@pytest.mark.usefixtures("one_event")
def test_topic_with_sasl_reads_as_its_user(
    broker: kafka.Broker, topic: str, make_rig: Make, wait_for: Wait, tmp_path: Path, mechanism: str
) -> None:
    rig = make_rig(
        topic, bootstrap_servers=broker.sasl, security_protocol="SASL_PLAINTEXT", sasl_mechanism=mechanism,
        sasl_username="desk", sasl_password_file=password_file(tmp_path, "desk"),
    )  # fmt: skip
    rig.start()
    wait_for(lambda: rig.published() == 1, "the event")
    rig.stop()


@pytest.mark.usefixtures("one_event")
def test_topic_with_tls_trusts_the_configured_authority_only(
    broker: kafka.Broker, topic: str, make_rig: Make, wait_for: Wait, tmp_path: Path
) -> None:
    authority = tmp_path / "authority.pem"
    (tmp_path / "other").mkdir()
    kafka.make_certificates(tmp_path / "other")
    authority.write_bytes((tmp_path / "other" / "ca.pem").read_bytes())
    rig = make_rig(
        topic, bootstrap_servers=broker.tls, security_protocol="SSL", ssl_ca_file=str(authority), group_id=""
    )
    rig.start()
    wait_for(lambda: rig.detail().get("state") == "away", "the refusal is said")
    assert "certificate verify failed" in rig.detail()["reason"].lower()
    assert rig.published() == 0
    authority.write_bytes(broker.ca_file.read_bytes())  # files are read at every attempt
    wait_for(lambda: rig.published() == 1, "the event")
    rig.stop()


@pytest.mark.usefixtures("one_event")
def test_topic_whose_user_may_not_read_it_says_so_and_stays(
    broker: kafka.Broker, topic: str, make_rig: Make, wait_for: Wait, tmp_path: Path
) -> None:
    rig = make_rig(
        topic, bootstrap_servers=broker.sasl, security_protocol="SASL_PLAINTEXT", sasl_username="guest",
        sasl_password_file=password_file(tmp_path, "guest"),
    )  # fmt: skip
    rig.start()
    wait_for(lambda: rig.detail().get("state") == "unauthorized", "the refusal is said")
    password_file(tmp_path, "desk")  # now the password is wrong as well
    wait_for(lambda: "authentication" in rig.detail().get("reason", "").lower(), "the other refusal is said")
    assert rig.process.is_alive()
    rig.stop()


def test_topic_that_is_not_there_is_read_once_it_is(
    broker: kafka.Broker, topic: str, make_rig: Make, wait_for: Wait
) -> None:
    missing = "risk.metrics.v1"
    kafka.delete_topics(broker.bootstrap, [missing])  # of a test that had the broker before
    rig: Any = make_rig(missing, bootstrap_servers=broker.bootstrap)
    rig.start()
    wait_for(lambda: rig.detail().get("state") == "missing", "the actor says so")
    kafka.make_topics(broker.bootstrap, [missing])
    kafka.produce(broker.bootstrap, missing, [(0, None, b"{", None)])
    wait_for(lambda: rig.published() == 1, "the event")
    kafka.delete_topics(broker.bootstrap, [missing])
    rig.stop()
