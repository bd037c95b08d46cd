"""The front's small parts: times, ids, parameters, rows, heads."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickring.actors.front.endpoints import Endpoint, Router
from tickring.actors.front.envelope import joined_rows
from tickring.actors.front.errors import InvalidParameter, NotFound
from tickring.actors.front.exposition import _lines, add
from tickring.actors.front.limiter import RateLimiter
from tickring.actors.front.page import policy
from tickring.actors.front.params import choice, flag, integer, moment, parse_query, parse_time, text
from tickring.actors.front.reply import accepts_gzip
from tickring.actors.front.rows import Alias, Options, RowRenderer
from tickring.actors.front.stamps import RequestIds, http_date, rfc3339
from tickring.actors.front.trades import ALIASES
from tickring.codecs.record import Flag
from tickring.codecs.records import QUOTE, TRADE
from tickring.ringbuf.page import Sample

KEY = {"price_precision": 2, "quantity_precision": 5}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@given(st.integers(0, 4_000_000_000_000_000_000))
def test_rfc3339_is_the_time_cut_to_milliseconds(ns: int) -> None:
    expected = EPOCH + timedelta(microseconds=ns // 1_000_000 * 1000)
    assert rfc3339(ns) == expected.strftime("%Y-%m-%dT%H:%M:%S.") + f"{ns // 1_000_000 % 1000:03}Z"


def test_http_date_is_the_form_of_the_standard() -> None:
    assert http_date(784_111_777) == "Sun, 06 Nov 1994 08:49:37 GMT"


def test_request_ids_are_random_uuids_of_version_4() -> None:
    ids = RequestIds()
    made = [uuid.UUID(ids()) for _ in range(1000)]
    assert len(set(made)) == 1000
    assert all(one.version == 4 and one.variant == uuid.RFC_4122 for one in made)


@given(st.integers(0, 9_000_000_000_000 - 1))
def test_time_survives_every_form_of_writing(ms: int) -> None:
    moment_utc = EPOCH + timedelta(milliseconds=ms)
    offset = moment_utc.astimezone(tz=None)
    text = moment_utc.isoformat()
    forms = [text, text.replace("+00:00", "Z"), text[:-6], offset.isoformat()]
    forms.append(text.replace("+", " "))  # a plus that was not escaped
    forms += [form.lower() for form in forms[:3]]
    forms.append(f"{ms // 1000}.{ms % 1000:03}")
    if ms >= 100_000_000_000:
        forms.append(str(ms))
    for form in forms:
        assert parse_time(form) == ms * 1_000_000, form


@given(st.text(max_size=30))
def test_any_text_as_a_time_is_a_time_or_a_value_error(text: str) -> None:
    try:
        assert 0 <= parse_time(text) <= 9_000_000_000_000_000_000
    except ValueError:
        pass


@pytest.mark.parametrize("text", ["", "now", "2026-11", "2026-W47-6", "1e9", "-1", "99999999999999", "10:00"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="RFC 3339"):
        parse_time(text)


def test_decimals_of_epoch_seconds_are_kept_to_the_nanosecond() -> None:
    assert parse_time("1795387511.2") == 1_795_387_511_200_000_000
    assert parse_time("1795387511.2345678") == 1_795_387_511_234_567_800
    assert parse_time("0.00000000199") == 1
    assert parse_time(repr(1795387511.2)) == parse_time("1795387511200")
    for bad in ("1795387511.", ".5", "-1.5", "1.5e9", "9000000000.1", "1795387511200.5", "1.5z"):
        with pytest.raises(ValueError, match="RFC 3339"):
            parse_time(bad)


def test_parameters_are_checked_and_named() -> None:
    limit = integer("limit", 100, 1, 1000, "")
    assert limit.read({}) == 100
    assert limit.read({"limit": ""}) == 100
    assert limit.read({"limit": "7"}) == 7
    for bad in ("0", "1001", "x", "1.5", "٣", " 5"):
        with pytest.raises(InvalidParameter) as caught:
            limit.read({"limit": bad})
        assert caught.value.details["field"] == "limit"
    assert choice("side", ("BUY", "SELL"), "").read({"side": "buy"}) == "BUY"
    assert flag("x", False, "").read({"x": "TRUE"}) is True
    start = moment("start_time", "", ("startTime",))
    assert start.read({"startTime": "1000"}) == 1000 * 10**9
    with pytest.raises(InvalidParameter, match="startTime"):
        start.read({"startTime": "x"})


def test_text_in_a_body_may_be_longer_than_one_in_a_query() -> None:
    for param, most in ((text("x", ""), 200), (text("x", "", where="body"), 4000)):
        assert param.read({"x": "x" * most}) == "x" * most
        assert param.openapi()[0]["schema"]["maxLength"] == most
        with pytest.raises(InvalidParameter, match=f"at most {most} characters"):
            param.read({"x": "x" * (most + 1)})


def test_query_of_a_repeated_name_counts_the_last() -> None:
    assert parse_query("a=1&b=%20x+y&a=2&&c") == {"a": "2", "b": " x y", "c": ""}


def test_literal_path_goes_before_a_parameter() -> None:
    def endpoint(path: str) -> Endpoint:
        return Endpoint(path, lambda _: lambda: b"", "")

    router = Router(map(endpoint, ("/t/{symbol}", "/t/latest", "/o/{exchange}/{symbol}", "/t")))
    assert router.find("/t/latest")[0].path == "/t/latest"
    assert router.find("/t/latest/")[0].path == "/t/latest"
    assert router.find("/t/")[0].path == "/t"
    assert router.find("/t/BTC/USDT") == (router.find("/t/x")[0], {"symbol": "BTC/USDT"})
    assert router.find("/t/BTC%2FUSDT")[1] == {"symbol": "BTC/USDT"}
    assert router.find("/o/binance/BTC-USDT")[1] == {"exchange": "binance", "symbol": "BTC-USDT"}
    for path in ("/", "/x", "/o/binance", "/T"):
        with pytest.raises(NotFound):
            router.find(path)
    with pytest.raises(InvalidParameter):
        router.find("/t/%FF")


prices = st.integers(1, 10**9).map(lambda n: n / 100)


@given(
    st.lists(st.tuples(prices, prices, st.sampled_from((0, int(Flag.SELL), int(Flag.AGGREGATED)))), max_size=8),
    st.sampled_from((Options(), Options("number"), Options("string", "ms"))),
)
def test_rendered_row_equals_the_records_own_members(values: list[tuple[float, float, int]], options: Options) -> None:
    rows = np.zeros(len(values), TRADE.dtype)
    for i, (price, quantity, flags) in enumerate(values):
        rows[i]["nth"], rows[i]["flags"], rows[i]["trade_id"] = i, flags, i + 5
        rows[i]["price"], rows[i]["quantity"] = price, quantity
        rows[i]["ts_recv_ns"] = 1_700_000_000_000_000_000 + i
        rows[i]["ts_event_ns"] = 0 if i % 2 else 1_600_000_000_000_000_000
    texts = RowRenderer(TRADE, KEY, options, ALIASES).rows(rows)
    decoded = json.loads(joined_rows(b'"symbol":"X",', texts), parse_float=str)
    assert len(decoded) == len(rows)
    for row, members in zip(rows, decoded, strict=True):
        own = TRADE.to_dict(row, KEY)
        shown = {name: str(value) if name in ("price", "quantity") else value for name, value in members.items()}
        assert own.items() <= shown.items()
        assert members["amount"] == members["quantity"]
        assert ("agg_trade_id" in members) == bool(row["flags"] & Flag.AGGREGATED)
        assert members["seq"] == row["nth"] + 1
        event, recv = int(row["ts_event_ns"]), int(row["ts_recv_ns"])
        assert members["exchange_ts"] == (event // 10**6 or None)
        assert members["recv_ts"] == recv // 10**6
        assert members["timestamp"] == ((event or recv) // 10**6 if options.time == "ms" else rfc3339(event or recv))


def test_row_of_a_quote_is_whole() -> None:
    row = np.zeros(1, QUOTE.dtype)[0]
    row["bid"], row["ask"], row["ts_recv_ns"] = 1.5, 2.0, 10**18
    members = json.loads(b"{" + RowRenderer(QUOTE, KEY, Options(), {"best": Alias("bid")}).row(row) + b"}")
    assert (members["bid"], members["best"], members["ask"], members["bid_qty"]) == ("1.50", "1.50", "2.00", "0.00000")


def test_no_rows_are_an_empty_array() -> None:
    assert joined_rows(b'"a":1,', []) == b"[]"


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("", False),
        ("gzip", True),
        ("br, gzip;q=0.5", True),
        ("GZIP", True),
        ("*", True),
        ("gzip;q=0", False),
        ("br", False),
    ],
)
def test_gzip_is_used_only_where_allowed(header: str, allowed: bool) -> None:
    assert accepts_gzip(header) is allowed


def test_limiter_counts_each_client_and_forgets_at_the_end_of_the_window() -> None:
    limiter = RateLimiter(2, 10.0, 100)
    assert [limiter.take("a", 0.5, 1000.5)[0] for _ in range(3)] == [1, 0, -1]
    assert limiter.retry_after_s(0.5) == 11
    assert limiter.take("b", 5.0, 1005.0) == (1, 1011)
    assert limiter.take("a", 10.6, 1010.6) == (1, 1021)


def test_limiter_lets_calls_in_again_when_the_wall_clock_was_set_back() -> None:
    limiter = RateLimiter(1, 10.0, 100)
    assert [limiter.take("a", 5.0, 9005.0)[0] for _ in range(2)] == [0, -1]
    assert limiter.take("a", 7.0, 5407.0) == (-1, 5416)
    assert limiter.retry_after_s(7.0) == 9
    assert limiter.take("a", 15.0, 5415.0)[0] == 0


def test_limiter_with_too_many_clients_stays_bounded() -> None:
    limiter = RateLimiter(5, 1000.0, 10)
    for i in range(1000):
        limiter.take(str(i), 1.0, 1.0)
    assert len(limiter._counts) <= 11


def test_histogram_is_cumulative_in_the_exposition() -> None:
    families: dict = {}
    values, bounds = (1.0, 2.0, 3.0, 4.5), (0.1, 1.0)
    sample = Sample("histogram", "tickring_x_seconds", "Help\nwith a line", {"a": 'q"\\'}, values, bounds)
    add(families, sample, "front-0")
    text = "".join(_lines(families))
    assert "# HELP tickring_x_seconds Help\\nwith a line\n# TYPE tickring_x_seconds histogram\n" in text
    assert 'tickring_x_seconds_bucket{a="q\\"\\\\",actor="front-0",le="0.1"} 1\n' in text
    assert 'le="1"} 3\n' in text
    assert 'le="+Inf"} 6\n' in text
    assert 'tickring_x_seconds_sum{a="q\\"\\\\",actor="front-0"} 4.5\n' in text
    assert 'tickring_x_seconds_count{a="q\\"\\\\",actor="front-0"} 6\n' in text


def test_page_policy_names_the_hash_of_each_inline_part() -> None:
    text = policy("<style>a{}</style><script>b()</script>")
    assert text.count("'sha256-") == 2
    assert "unsafe-inline" not in text
    assert "script-src 'none'" in policy("<p>")
