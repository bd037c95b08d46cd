"""The tables of the desk: which actors they run, and what the check says of what is wrong in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tickring.daemon.commands import running
from tickring.daemon.errors import ConfigError
from tickring.daemon.loading import check, parse
from tickring.daemon.plan import Plan, make_plan

KAFKA = """
[kafka]
bootstrap_servers = "{}"
topics = ["exec.reports.v1", "alerts.v1"]
"""
REAL = KAFKA.format("broker.example:9092")
EMBEDDED = KAFKA.format("embedded")
STRATEGY = '[strategy]\nsymbols = ["BTCUSDT"]\n'


def plan(text: str) -> Plan:
    return make_plan(parse(text, "test"))


def kinds(text: str) -> list[str]:
    return [actor.kind for actor in plan(text).actors]


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        parse(text, "test")
    return [str(mistake) for mistake in refused.value.mistakes]


def rule(body: str) -> str:
    return f'[[alerts.rules]]\nrule_id = "mine"\nname = "Mine"\n{body}\n'


def test_kafka_table_runs_topics_portfolio_and_alerts() -> None:
    assert kinds(REAL) == ["clickhouse", "topic", "topic", "portfolio", "alerts", "writer", "front", "front"]


def test_alerts_actor_is_told_the_brokers_the_account_and_the_history() -> None:
    [alerts] = [actor for actor in plan(REAL + 'default_account = "desk-1"\n').actors if actor.kind == "alerts"]
    assert (alerts.config.kafka.bootstrap_servers, alerts.config.default_account) == ("broker.example:9092", "desk-1")
    assert alerts.config.clickhouse.url.startswith("http://127.0.0.1:")
    assert (alerts.drain_rank, alerts.nice, [spec.record for spec in alerts.streams]) == (1, 5, ["alert"])


def test_embedded_servers_run_a_broker_with_the_topics() -> None:
    [broker] = [actor for actor in plan(EMBEDDED).actors if actor.kind == "broker"]
    assert broker.config.topics == ["exec.reports.v1", "alerts.v1"]
    assert broker.drain_rank == 4
    assert "strategy" in kinds(EMBEDDED + STRATEGY)


def test_strategy_on_a_real_broker_is_refused() -> None:
    [mistake] = mistakes(REAL + STRATEGY)
    assert mistake.startswith("strategy: ") and 'bootstrap_servers = "embedded"' in mistake


def test_wrong_rules_are_named_with_their_place() -> None:
    condition = '{ metric_name = "tickring_kafka_up", operator = "=<", threshold = 1 }'
    found = mistakes(REAL + rule(f'severity = "HIHG"\nconditions = [{condition}]') + rule('severity = "LOW"'))
    assert any(one.startswith('alerts.rules[0].severity = "HIHG"') and "did you mean 'HIGH'" in one for one in found)
    assert any(one.startswith('alerts.rules[0].conditions[0].operator = "=<"') for one in found)
    assert any(one.startswith("alerts.rules[1].conditions: is missing") for one in found)


def test_rule_without_conditions_is_refused() -> None:
    [mistake] = mistakes(REAL + rule('severity = "LOW"\nconditions = []'))
    assert mistake.startswith("alerts.rules[0].conditions = []: expected a list of at least 1")


def test_two_rules_of_one_name_are_refused() -> None:
    one = rule('severity = "LOW"\nconditions = [{ metric_name = "x", operator = ">", threshold = 1 }]')
    assert mistakes(REAL + one + one) == ["alerts: rules: two have the rule_id 'mine'"]


def test_alerts_are_produced_only_where_there_is_kafka() -> None:
    [mistake] = mistakes('[exchanges.binance.spot]\nsymbols = ["BTC-USDT"]\n[alerts]\nproduce = true\n')
    assert mistake.startswith("alerts.produce") and "needs [kafka]" in mistake
    assert plan(REAL + "[alerts]\nproduce = true\n").actors


def test_disabled_rule_that_is_not_there_is_refused_with_the_nearest() -> None:
    [mistake] = mistakes(REAL + '[alerts]\ndisabled = ["kafka_lagg"]\n')
    assert mistake.startswith("alerts.disabled[0]") and "did you mean 'kafka_lag'" in mistake


def test_fields_that_follow_from_kafka_are_refused() -> None:
    found = mistakes(REAL + "[alerts]\nkafka = {}\n[broker]\ntopics = []\n")
    assert [one.partition(" ")[0] for one in found] == ["alerts.kafka", "broker.topics"]
    assert all("set it there" in one for one in found)


def test_demo_without_the_libraries_of_its_desk_says_what_to_install(tmp_path: Path, monkeypatch) -> None:
    raw = running.demo_settings(0, 3, "demo-x", tmp_path, desk=True)
    assert running._lacking(raw) == ""
    monkeypatch.setattr(running, "DEMO_LIBRARIES", ("aiokafka", "no_such_library"))
    assert running._lacking(raw) == "no_such_library not installed: pip install 'tickring[demo]'"


def test_demo_whose_desk_does_not_fit_shared_memory_says_how_to_enlarge_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(running, "free_bytes", lambda folder: 64_000_000)
    assert "which has 64: docker run --shm-size" in running._lacking(
        running.demo_settings(0, 20, "demo-x", tmp_path, desk=True)
    )


def test_demo_without_a_desk_runs_what_it_ran_before(tmp_path: Path) -> None:
    with_desk, without = (
        {
            actor.kind
            for actor in make_plan(check(running.demo_settings(0, 3, "demo-x", tmp_path, desk=desk), "x")).actors
        }
        for desk in (True, False)
    )
    assert without == {"simulator", "clickhouse", "feed", "keeper", "writer", "front"}
    assert with_desk - without == {"broker", "topic", "portfolio", "alerts", "strategy"}
