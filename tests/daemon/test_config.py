from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path
from typing import get_args

import pytest

from tickring.actors.feed.config import Channel
from tickring.daemon.commands.running import demo_settings
from tickring.daemon.config import Instance, data_folder
from tickring.daemon.errors import ConfigError, InputMissing
from tickring.daemon.instance import memory_needed
from tickring.daemon.loading import check, load, parse
from tickring.daemon.markets import feed_shards, spread
from tickring.daemon.plan import make_plan

from .rights import give_away, needs_root, tickring_without_rights

GOOD = """
[exchanges.binance.spot]
symbols = ["BTC-USDT", "ETH-USDT"]
[exchanges.binance.usdm]
symbols = ["BTC-USDT-PERP"]
"""


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "file.toml")
    assert caught.value.exit_code == 78
    return [str(mistake) for mistake in caught.value.mistakes]


def test_config_with_many_mistakes_names_all_of_them_at_once():
    found = mistakes(
        """
        [instnce]
        [instance]
        name = "Main!"
        folder = "/no/such/folder"
        [log]
        level = "INF"
        [exchanges.binance.spot]
        symbols = ["BTC-USDT", "btcusdt", "BTC-USDT"]
        channels = ["trads", "quote"]
        shards = 0
        [exchanges.binance.usdm]
        symbls = ["BTC-USDT-PERP"]
        [front]
        port = 99999
        workrs = 2
        [feed]
        trade_capacity = 100000
        product = "spot"
        [clickhouse]
        url = "tcp://db:9000"
        [cpus]
        writer = [9999]
        frnt = [0]
        [supervisor]
        restart_delay_s = 20
        """
    )
    expected = [
        "instnce: unknown table; did you mean 'instance'?",
        'instance.name = "Main!": expected up to 32 of a-z',
        'instance.folder = "/no/such/folder": expected the absolute path of an existing folder',
        'log.level = "INF": expected one of "DEBUG", "ERROR", "INFO", "WARNING"; did you mean \'INFO\'?',
        'exchanges.binance.spot.symbols[1] = "btcusdt": expected a pair such as "BTC-USDT"',
        'exchanges.binance.spot.symbols = ["BTC-USDT","BTC-USDT"]: \'BTC-USDT\' stands there 2 times',
        'exchanges.binance.spot.channels[0] = "trads": expected one of',
        "exchanges.binance.spot.shards = 0: expected an integer from 1 to 32",
        "exchanges.binance.usdm.symbls: unknown key; did you mean 'symbols'?",
        "exchanges.binance.usdm.symbols: is missing",
        "front.port = 99999: expected an integer from 0 to 65535",
        "front.workrs: unknown key; did you mean 'workers'?",
        "feed.trade_capacity = 100000: expected a power of two, such as 65536 or 131072",
        'feed.product = "spot": follows from [exchanges]: set it there',
        'clickhouse.url = "tcp://db:9000": expected a URL such as',
        "cpus.writer = [9999]: this process may use the CPUs",
        "cpus.frnt: unknown actor or kind; did you mean 'front'?",
        "supervisor.restart_delay_s = 20.0: is above supervisor.restart_delay_max_s (10.0)",
    ]
    missing = [start for start in expected if not any(line.startswith(start) for line in found)]
    assert not missing, "\n".join(found)
    assert len(found) == len(expected), "\n".join(found)


def test_config_that_is_no_toml_says_where():
    [line] = mistakes("[front]\nport = = 1\n")
    assert line.startswith("document: is not TOML") and "line 2" in line


def test_config_file_that_begins_with_a_byte_order_mark_is_read(tmp_path):
    file = tmp_path / "tickring.toml"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").lstrip().encode())
    assert load(file).exchanges.binance is not None
    file.write_text("[front]\nport = = 1\n", "utf-8-sig")
    with pytest.raises(ConfigError, match="line 2"):
        load(file)


def test_config_without_a_market_says_what_to_add():
    [line] = mistakes("[front]\nport = 8000\n")
    assert line == "exchanges: names no market; add [exchanges.binance.spot] or [exchanges.binance.usdm] with symbols"


def test_config_file_that_is_not_there_is_another_error_than_a_wrong_one(tmp_path):
    with pytest.raises(InputMissing) as caught:
        load(tmp_path / "none.toml")
    assert caught.value.exit_code == 66


@pytest.mark.parametrize(
    ("extra", "path"),
    [
        ("[front]\nport = 8123\n", "clickhouse.port = 8123: is the port of front.port too"),
        ("[simulator]\nrest_port = 0\n", "simulator.rest_port = 0"),
        ('[clickhouse]\npassword_file = "/nope"\n', "clickhouse.password_file"),
        (
            '[clickhouse]\nurl = "http://db:8123"\npassword_file = "/nope"\n',
            'clickhouse.password_file = "/nope": is no file',
        ),
        ('[instance]\ngroup = "no-such-group"\n', "instance.group: unknown group 'no-such-group'"),
        ('[instance]\ndata = "/proc/1/data"\n', "instance.data"),
        ("[supervisor]\nheartbeat_timeout_s = 0.5\n", "supervisor.heartbeat_timeout_s = 0.5"),
        ("[writer]\nstore = { trde = 'all' }\n", "writer"),
        ("[cpus]\nwriter = []\n", "cpus.writer = []: is empty"),
        ("front = 3\n", "front = 3: expected a table"),
    ],
)
def test_config_with_one_mistake_names_its_key(extra, path):
    found = mistakes((extra + GOOD) if extra.startswith("front") else (GOOD + extra))
    assert any(line.startswith(path) for line in found), found


def test_password_file_that_others_may_read_is_refused(tmp_path):
    file = tmp_path / "password"
    file.write_text("secret")
    file.chmod(0o644)
    [line] = mistakes(GOOD + f'[clickhouse]\nurl = "http://db:8123"\npassword_file = "{file}"\n')
    assert f"chmod 600 {file}" in line


@needs_root
@pytest.mark.parametrize(
    ("closed", "problem"),
    [("file", "cannot be read by this user: it belongs to user {}"), ("folder", "is no file that this user can see")],
)
def test_files_that_this_user_cannot_read_are_refused(tmp_path, closed, problem):
    folder, config = tmp_path / "folder", tmp_path / "tickring.toml"
    folder.mkdir()
    file = folder / "file"
    file.touch(0o600)
    owner = give_away(file if closed == "file" else folder)
    config.write_text(
        f'{GOOD}[clickhouse]\nurl = "http://db:8123"\npassword_file = "{file}"\n'
        f'[kafka]\nbootstrap_servers = "a:9092"\nsasl_password_file = "{file}"\nssl_ca_file = "{file}"\n'
        f'[instance]\ndata = "{tmp_path}/data"\n'
    )
    result = tickring_without_rights("check", "--json", str(config))
    assert result.returncode == 78, result.stderr
    found = {mistake["path"]: mistake["problem"] for mistake in json.loads(result.stdout)["mistakes"]}
    assert set(found) == {"clickhouse.password_file", "kafka.sasl_password_file", "kafka.ssl_ca_file"}
    assert all(text.startswith(problem.format(owner)) for text in found.values()), found


@pytest.mark.parametrize("url", ["", "http://db:8123"])
def test_library_of_the_embedded_engine_is_needed_where_that_runs(monkeypatch, url):
    def find_spec(name: str) -> object:
        return None if name == "chdb" else real(name)

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    text = f'{GOOD}[clickhouse]\nurl = "{url}"\n'
    if url:
        parse(text, "file.toml")
        return
    [line] = mistakes(text)
    assert line.startswith("clickhouse.url = \"\": the embedded engine needs the library 'chdb': pip install 'tickring")


def test_plan_has_one_feed_for_each_routed_tier_that_carries_a_channel():
    plan = make_plan(parse(GOOD, "good"))
    assert [actor.name for actor in plan.actors] == [
        "clickhouse",
        "feed-binance-spot-0",
        "feed-binance-usdm-public-0",
        "feed-binance-usdm-market-0",
        "keeper",
        "writer",
        "front-0",
        "front-1",
    ]
    feeds = {actor.name: actor.config for actor in plan.actors if actor.kind == "feed"}
    assert feeds["feed-binance-spot-0"].channels == ["trade", "quote", "book"]
    assert feeds["feed-binance-usdm-public-0"].channels == ["quote", "book"]
    assert feeds["feed-binance-usdm-market-0"].channels == ["agg_trade"]
    assert feeds["feed-binance-usdm-public-0"].ws_url == "wss://fstream.binance.com/public"
    assert [actor.doorbell for actor in plan.actors] == list(range(8))


def test_plan_with_raw_futures_trades_needs_no_market_tier():
    text = '[exchanges.binance.usdm]\nsymbols = ["BTC-USDT-PERP"]\nchannels = ["trade", "book"]\n'
    names = [name for name, _ in feed_shards(parse(text, "text"))]
    assert names == ["feed-binance-usdm-public-0"]


USDM = '[exchanges.binance.usdm]\nsymbols = ["BTC-USDT-PERP"]\n'
SPOT = '[exchanges.binance.spot]\nsymbols = ["BTC-USDT"]\n'


def test_plan_puts_every_channel_on_the_tier_that_carries_it():
    channels = ["agg_trade", "quote", "book", "kline", "ticker", "mark_price", "open_interest", "liquidation"]
    plan = make_plan(parse(f"{USDM}channels = {channels}", "text"))
    feeds = {actor.name: actor for actor in plan.actors if actor.kind == "feed"}
    assert {name: actor.config.channels for name, actor in feeds.items()} == {
        "feed-binance-usdm-public-0": ["quote", "book"],
        "feed-binance-usdm-market-0": ["agg_trade", "kline", "ticker", "mark_price", "open_interest", "liquidation"],
    }
    market = feeds["feed-binance-usdm-market-0"]
    assert {spec.record for spec in market.streams} == {
        "trade", "kline", "kline_open", "ticker", "mark_price", "funding", "open_interest", "liquidation",
    }  # fmt: skip
    assert market.keys == 1 + 6, "the symbol, and its bars of 1m and of five longer intervals"


def test_open_interest_goes_with_another_tier_where_nothing_else_needs_the_market_tier():
    text = f'{USDM}channels = ["quote", "open_interest"]'
    assert [(name, fields["channels"]) for name, fields in feed_shards(parse(text, "text"))] == [
        ("feed-binance-usdm-public-0", ["quote", "open_interest"])
    ]
    [line] = mistakes(f'{USDM}channels = ["open_interest"]')
    assert line.startswith("exchanges.binance.usdm.channels") and "expected one that the exchange streams" in line


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("trads", "trade"), ("aggTrade", "agg_trade"), ("bookTicker", "quote"), ("depth", "book"),
        ("klines", "kline"), ("kline_1m", "kline"), ("candles", "kline"), ("markPrice", "mark_price"),
        ("funding", "mark_price"), ("funding_rate", "mark_price"), ("openInterest", "open_interest"),
        ("forceOrder", "liquidation"), ("liquidations", "liquidation"), ("orderbook", "book"),
    ],
)  # fmt: skip
def test_wrong_channel_name_gives_the_one_that_was_meant(written, meant):
    [line] = mistakes(f'{USDM}channels = ["{written}", "quote"]')
    assert line.startswith(f'exchanges.binance.usdm.channels[0] = "{written}": expected one of "agg_trade"')
    assert line.endswith(f"did you mean '{meant}'?")


def test_channels_that_only_futures_have_are_refused_on_spot():
    [line] = mistakes(f'{SPOT}channels = ["trade", "mark_price", "liquidation"]')
    assert line == (
        'exchanges.binance.spot.channels = ["mark_price","liquidation"]: only futures have these: '
        "move them to [exchanges.binance.usdm]"
    )


def test_more_streams_than_a_connection_carries_are_refused_with_the_shards_that_do():
    symbols = [f"C{number}-USDT-PERP" for number in range(100)]
    text = f"[exchanges.binance.usdm]\nsymbols = {symbols}\nchannels = ['agg_trade', 'kline', 'ticker']\n"
    [line] = mistakes(text)
    assert "feed-binance-usdm-market-0 would carry 300 streams (100 symbols), one connection carries 200" in line
    shards = int(line.split(": ")[-1].split()[0])
    settings = parse(f"{text}shards = {shards}\n", "text")
    assert max(len(fields["symbols"]) for _, fields in feed_shards(settings)) * 3 <= 200
    [line] = mistakes(text.replace("'ticker'", "'ticker'" + ", 'liquidation', 'mark_price'") + "shards = 2\n")
    assert "would carry" in line


def test_intervals_of_bars_are_checked_and_their_keys_are_counted():
    kline = f'{SPOT}channels = ["kline"]\n'
    [line] = mistakes(kline + '[feed]\nkline_intervals = ["1m", "1m"]\n')
    assert line == "feed: kline_intervals is ['1m', '1m']: each interval once"
    [line] = mistakes(kline + '[feed]\nkline_intervals = ["2m"]\n')
    assert line.startswith('feed.kline_intervals[0] = "2m": expected one of')
    [line] = mistakes(kline + "[feed]\nkeys_max = 6\n")
    assert line.startswith("feed.keys_max = 6: feed-binance-spot-0 has 7 keys")


def test_demo_carries_every_channel_and_fits_into_a_container(tmp_path):
    plan = make_plan(check(demo_settings(0, 20, "demo-test", tmp_path), "demo"), "demo")
    carried = {channel for actor in plan.actors if actor.kind == "feed" for channel in actor.config.channels}
    assert carried == set(get_args(Channel))
    needed, _ = memory_needed(plan)
    assert needed < 62 << 20, "a container's /dev/shm has 64 MB"


def test_demo_with_more_symbols_than_a_connection_carries_has_more_connections(tmp_path):
    plan = make_plan(check(demo_settings(0, 100, "demo-test", tmp_path), "demo"), "demo")
    assert sum(actor.kind == "feed" for actor in plan.actors) > 3


def test_plan_with_a_simulator_points_the_feeds_at_it_and_starts_them_after_it():
    plan = make_plan(parse(GOOD + "[simulator]\nspot_ws_port = 1111\nusdm_ws_port = 2222\nrest_port = 3333\n", "good"))
    feeds = {actor.name: actor for actor in plan.actors if actor.kind == "feed"}
    assert feeds["feed-binance-spot-0"].config.ws_url == "ws://127.0.0.1:1111"
    assert feeds["feed-binance-usdm-market-0"].config.ws_url == "ws://127.0.0.1:2222/market"
    assert feeds["feed-binance-usdm-public-0"].config.rest_url == "http://127.0.0.1:3333"
    assert feeds["feed-binance-spot-0"].after == ("simulator",)


def test_plan_with_a_server_runs_no_engine_and_tells_the_others_where_it_is():
    plan = make_plan(parse(GOOD + '[clickhouse]\nurl = "http://db:8123"\nuser = "desk"\n', "good"))
    kinds = {actor.kind: actor.config for actor in plan.actors}
    assert "clickhouse" not in kinds
    for kind in ("front", "keeper", "writer"):
        assert (kinds[kind].clickhouse.url, kinds[kind].clickhouse.user) == ("http://db:8123", "desk")


def test_shards_keep_their_symbols_when_others_come_and_go():
    symbols = [f"C{number}-USDT" for number in range(100)]
    before, after = spread(symbols, 4), spread([*symbols[10:], "NEW-USDT"], 4)
    for old, new in zip(before, after, strict=True):
        assert set(old) - set(symbols[:10]) == set(new) - {"NEW-USDT"}
    assert sum(map(len, before)) == 100 and all(before)


def test_data_folder_follows_systemd_then_the_home_folder(monkeypatch):
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/tickring:/var/lib/other")
    assert data_folder(Instance(name="a")) == Path("/var/lib/tickring/a")
    monkeypatch.delenv("STATE_DIRECTORY")
    assert data_folder(Instance(name="a")) == Path("~/.local/share/tickring/a").expanduser()
    assert data_folder(Instance(name="a", data="/srv/ticks")) == Path("/srv/ticks")


def test_plan_without_automatic_pinning_lets_every_actor_run_everywhere():
    plan = make_plan(parse(GOOD + "[cpus]\nauto = false\n", "good"))
    assert all(set(actor.cpus) == os.sched_getaffinity(0) for actor in plan.actors)
    assert re.fullmatch(r"/dev/shm/tickring-default", str(plan.folder))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ('[clickhouse]\nurl = "http://db:99999"\n', 'clickhouse.url = "http://db:99999": expected a port from 1 to'),
        ('[kafka]\nbootstrap_servers = "a:9092,b:99999"\n', 'kafka.bootstrap_servers[1] = "b:99999": expected a port'),
        ("[clickhouse]\nport = 99999\n", "clickhouse.port = 99999: expected an integer from 0 to 65535"),
        ('[clickhouse]\nhost = "10.0.0.300"\n', 'clickhouse.host = "10.0.0.300": expected an address of this machine'),
        ('[clickhouse]\nhost = "two words"\n', 'clickhouse.host = "two words": expected an address of this machine'),
        ("[feed]\nwatchdog_s = inf\n", "feed.watchdog_s = inf: expected a number above 0"),
        ("[supervisor]\ndrain_timeout_s = nan\n", "supervisor.drain_timeout_s = nan: expected a number from above 0"),
        ('[instance]\ndata = "/etc/passwd/data"\n', 'instance.data = "/etc/passwd/data": expected a folder, but'),
        ('[instance]\nfolder = "/proc"\n', 'instance.folder = "/proc": cannot be written by this user (No such file'),
        ('[instance]\ndata = "/proc/tickring"\n', 'instance.data = "/proc/tickring": cannot be written by this user'),
    ],
)  # fmt: skip
def test_address_or_folder_that_cannot_be_used_is_refused_with_what_can(extra, message):
    [line] = mistakes(GOOD + extra)
    assert line.startswith(message)


def test_two_listeners_on_one_port_are_named_both():
    found = mistakes(GOOD + "[front]\nport = 9000\n[clickhouse]\nport = 9000\n")
    assert found == ["clickhouse.port = 9000: is the port of front.port too: set one of them to another"]


def test_check_of_a_folder_leaves_nothing_in_it(tmp_path):
    parse(GOOD + f'[instance]\nfolder = "{tmp_path}"\ndata = "{tmp_path}/data/of/mine"\n', "file.toml")
    assert list(tmp_path.iterdir()) == []


def test_each_mistake_names_its_line():
    text = (
        '[exchanges.binance.spot]\nsymbols = [\n  "BTC-USDT",\n  "btc",\n]\n\n'
        '["front"]\n# port = 1\n"port" = 99999\n[ writer ]\nspooled.x = 1\n[clickhouse]\n'
        '[log]\nlevel = \'LOUD\'\nformat = """\nport = 3"""\n'
    )
    with pytest.raises(ConfigError) as caught:
        parse(text, "file.toml")
    lines = {mistake.path: mistake.line for mistake in caught.value.mistakes}
    assert lines == {
        "exchanges.binance.spot.symbols[1]": 2, "front.port": 9, "writer.spooled": 10, "log.level": 14,
        "log.format": 15,
    }  # fmt: skip
    assert "\n  line 9: front.port = 99999: expected" in str(caught.value)


def test_memory_of_bars_follows_their_tail():
    text = GOOD.replace('"ETH-USDT"]', '"ETH-USDT"]\nchannels = ["kline"]') + "[feed]\nkline_tail = {}\n"
    long, short = (make_plan(parse(text.format(tail), "file.toml")).memory_bytes for tail in (2048, 256))
    keys = 2 * 6  # both symbols of spot, in six intervals
    assert long - short == keys * (2048 - 256) * 128
