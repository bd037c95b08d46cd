"""The table `[kafka]`: what runs because of it, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tickring.actors.topic import keys_numbered
from tickring.codecs.desk.canonical import TOPICS
from tickring.daemon.errors import ConfigError
from tickring.daemon.instance import make_streams, memory_needed, open_folder, prepare_streams, remove_leftovers
from tickring.daemon.loading import parse
from tickring.daemon.plan import Plan, make_plan
from tickring.ringbuf import ByteRingReader, read_spec

KAFKA = """
[instance]
name = "kafka-test"
folder = "{folder}"
data = "{data}"
[kafka]
bootstrap_servers = "127.0.0.1:9092"
"""


def plan_of(shm: Path, tmp_path: Path, more: str = "") -> Plan:
    return make_plan(parse(KAFKA.format(folder=shm, data=tmp_path) + more, "test"))


def test_table_without_topics_runs_an_actor_for_each_of_the_desk(shm: Path, tmp_path: Path) -> None:
    plan = plan_of(shm, tmp_path)
    topics = [actor for actor in plan.actors if actor.kind == "topic"]
    assert [actor.config.topic for actor in topics] == list(TOPICS)
    assert topics[0].name == "topic-exec-reports-v1"
    assert [spec.record for spec in topics[0].streams] == ["event", "fill", "dead_letter"]
    assert [spec.record for spec in topics[1].streams] == ["event", "statement", "dead_letter"]
    assert [spec.record for spec in topics[-1].streams] == ["event", "dead_letter"]
    ranks = {actor.kind: actor.drain_rank for actor in plan.actors}
    assert ranks["topic"] < ranks["writer"] < ranks["front"]


def test_without_the_table_no_topic_runs(shm: Path, tmp_path: Path) -> None:
    text = f'[instance]\nfolder = "{shm}"\ndata = "{tmp_path}"\n[exchanges.binance.spot]\nsymbols = ["BTC-USDT"]\n'
    assert "topic" not in {actor.kind for actor in make_plan(parse(text, "test")).actors}


def test_memory_of_a_topic_holds_its_accounts_and_its_bytes(shm: Path, tmp_path: Path) -> None:
    plan = plan_of(shm, tmp_path, 'topics = ["exec.reports.v1"]\naccounts_max = 4\n')
    actor = next(actor for actor in plan.actors if actor.kind == "topic")
    tails = sum(spec.tail_bytes * keys_numbered(actor.config, spec.record) for spec in actor.streams)
    assert actor.memory_bytes >= tails + actor.config.fill_texts_capacity
    with_more = plan_of(shm, tmp_path, 'topics = ["exec.reports.v1"]\naccounts_max = 5\n')
    assert with_more.memory_bytes - plan.memory_bytes >= 16_384 * 128


def test_rings_of_a_topic_are_made_together_and_made_anew_together(shm: Path, tmp_path: Path) -> None:
    small = 'topics = ["alerts.v1"]\ntexts_capacity = 1048576\n'
    plan = plan_of(shm, tmp_path, small)
    lock = open_folder(plan)
    assert prepare_streams(plan) > 0
    actor = next(actor for actor in plan.actors if actor.kind == "topic")
    texts, event = plan.folder / f"{actor.name}.texts.bytes", plan.folder / actor.streams[0].filename
    positions = plan.folder / f"{actor.name}.positions"
    positions.touch()
    epoch = read_spec(event)[1]
    needed, held = memory_needed(plan)
    assert 0 < held <= needed
    assert prepare_streams(plan) == 0 and positions.exists()
    larger = plan_of(shm, tmp_path, small.replace("1048576", "2097152"))
    make_streams(larger, next(actor for actor in larger.actors if actor.kind == "topic"))
    reader = ByteRingReader(texts)
    assert reader.capacity == 2 << 20 and read_spec(event)[1] > epoch
    reader.close()
    gone = plan_of(shm, tmp_path, 'topics = ["risk.metrics.v1"]\n')
    assert {texts.name, event.name, positions.name} <= set(remove_leftovers(gone))
    lock.release()


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ('topics = ["exec.report.v1"]', "kafka.topics[0]"),
        ("topics = []", "kafka.topics"),
        ('topics = ["alerts.v1", "alerts.v1"]', "kafka.topics"),
        ("event_capacity = 5000", "kafka.event_capacity"),
        ('sasl_password_file = "/nope"', "kafka.sasl_password_file"),
        ('security_protocol = "SASL_SSL"', "kafka"),
        ('topic = "alerts.v1"', "kafka.topic"),
        ('bootstrap = "x:1"', "kafka.bootstrap"),
    ],
)
def test_wrong_table_is_refused_with_the_path_of_the_mistake(shm: Path, tmp_path: Path, more: str, path: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        plan_of(shm, tmp_path, more + "\n")
    assert path in [mistake.path for mistake in refusal.value.mistakes]


def test_password_that_others_may_read_is_refused(shm: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        plan_of(shm, tmp_path, f'sasl_password_file = "{secret}"\n')


def test_table_without_addresses_says_what_is_missing(shm: Path, tmp_path: Path) -> None:
    text = KAFKA.format(folder=shm, data=tmp_path).replace('bootstrap_servers = "127.0.0.1:9092"', "")
    with pytest.raises(ConfigError, match=r"kafka.bootstrap_servers: is missing"):
        parse(text, "test")
