"""The outbox of a slow connection, and the reading of channel names, without any socket."""

from __future__ import annotations

import json
from collections import deque
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickring.actors.front.ws.channels import ALIASES, CHANNELS
from tickring.actors.front.ws.errors import FrameError
from tickring.actors.front.ws.names import ChannelItem, read_channel
from tickring.actors.front.ws.outbox import Delivery, Outbox
from tickring.actors.front.ws.wire import Encoding, Frame, Update

FRAMES_MAX = 8


class Sub:
    """As much of a subscription as the outbox sees."""

    def __init__(self, name: str, delivery: Delivery) -> None:
        self.topic = SimpleNamespace(name=name)
        self.delivery = delivery
        self.waiting: deque = deque()
        self.gap = None


def outbox(**limits):
    dropped: dict[str, int] = {}
    box = Outbox(
        limits.get("frames", FRAMES_MAX), limits.get("size", 1 << 20), Encoding.JSON,
        lambda delivery, n: dropped.__setitem__(delivery, dropped.get(delivery, 0) + n), lambda reason: None,
    )  # fmt: skip
    return box, dropped


def put(box, sub, seq, pad="", urgent=False):
    frame = Frame(Update(sub.topic.name if sub else "", seq, 0, pad))
    frame.urgent = urgent
    box.put(sub, frame, seq, seq, 0.0)


def drain(box):
    out = []
    while (wire := box.pop()) is not None:
        out.append(json.loads(wire[4 if wire[1] == 126 else 10 if wire[1] == 127 else 2 :]))
    box.relax()
    return out


def test_outbox_below_its_limit_keeps_every_frame_in_order():
    box, dropped = outbox()
    a, b = Sub("a", Delivery.ORDERED), Sub("b", Delivery.CONFLATING)
    for seq in range(1, 5):
        put(box, a, seq)
        put(box, b, seq)
    assert [(f["channel"], f["seq"]) for f in drain(box)] == [(n, s) for s in range(1, 5) for n in "ab"]
    assert not dropped and not box


def test_outbox_full_of_replies_overflows():
    box, _ = outbox()
    for seq in range(1, FRAMES_MAX + 1):
        put(box, None, seq)
    assert not box.overflowed
    put(box, None, 99)
    assert box.overflowed


def test_outbox_is_full_by_bytes_too():
    box, dropped = outbox(frames=1000, size=10_000)
    sub = Sub("a", Delivery.ORDERED)
    for seq in range(1, 31):
        put(box, sub, seq, "x" * 1000)
    assert box.size <= 10_000 and dropped["ordered"] >= 20
    first = drain(box)[0]
    assert first["type"] == "gap" and first["from_seq"] == 1


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.sampled_from("ooccbbr"), st.integers(1, 12)), max_size=120))
def test_outbox_gives_each_number_once_or_names_it(steps):
    """Letters put a frame of a class, numbers read so many: what comes out is complete, for each class in its way."""
    box, _ = outbox()
    subs = {
        "o": Sub("o", Delivery.ORDERED), "c": Sub("c", Delivery.CONFLATING), "b": Sub("b", Delivery.REBUILDABLE),
    }  # fmt: skip
    last = dict.fromkeys(subs, 0)
    came: dict[str, int] = dict.fromkeys(subs, 0)
    replies = sent = 0

    def take(frames):
        nonlocal replies
        for frame in frames:
            name = frame["channel"]
            if not name:
                replies += 1
            elif frame["type"] == "gap":
                assert name == "o" and frame["from_seq"] == came["o"] + 1
                came["o"] = frame["to_seq"]
            elif name == "c":
                assert frame["seq"] == came["c"] + 1 or (frame["conflated"] and frame["seq"] > came["c"])
                came["c"] = frame["seq"]
            else:
                assert frame["seq"] == came[name] + 1
                came[name] = frame["seq"]

    def rebuild():
        for sub, first in list(box.rebuild.items()):
            assert first == came["b"] + 1
            came["b"] = last["b"]
            del box.rebuild[sub]

    def read(n):
        frames = []
        for _ in range(n):
            wire = box.pop()
            if wire is None:
                break
            frames.append(json.loads(wire[2:]))
        take(frames)
        box.relax()
        if not box:
            rebuild()

    for step in steps:
        if isinstance(step, int):
            read(step)
        elif step == "r":
            if sent - replies < FRAMES_MAX // 2:
                sent += 1
                put(box, None, 1)
        else:
            last[step] += 1
            put(box, subs[step], last[step])
        assert box.frames <= FRAMES_MAX + len(subs)
    read(1000)
    assert not box.overflowed
    assert came == last and replies == sent
    assert box.frames == box.size == 0 and not any(sub.waiting for sub in subs.values())


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.text(max_size=40),
            st.sampled_from([*CHANNELS, *ALIASES, "kline.*.*.*.1m", "1m", "*"]),
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(
                st.sampled_from([*ChannelItem.__struct_fields__]),
                inner,
                max_size=6,
            ),
        ),
        max_leaves=12,
    )
)
def test_channel_of_any_form_is_read_or_refused(item):
    try:
        request = read_channel(item)
    except FrameError as error:
        assert error.code and error.message
    else:
        assert request.kind in CHANNELS and request.name.count(".") >= 3


@pytest.mark.parametrize(
    ("item", "name"),
    [
        ("trades.binance.spot.BTC-USDT", "trades.binance.spot.BTC-USDT"),
        ("TRADES.Binance.SPOT.btc_usdt", "trades.binance.spot.BTC-USDT"),
        ("trades", "trades.*.*.*"),
        ({"channel": "quote", "symbol": "BTCUSDT"}, "quote.*.spot.BTC-USDT"),
        ({"channel": "quote", "symbol": "BTC-USDT-PERP"}, "quote.*.perpetual.BTC-USDT"),
        ({"channel": "quote", "market_type": "*", "symbol": "BTC-USDT"}, "quote.*.*.BTC-USDT"),
        ({"channel": "book", "exchange": "okx_swap", "symbol": "ETH/USDT"}, "book.okx.perpetual.ETH-USDT"),
        ({"channel": "book", "exchange": "okx", "symbol": "BTC-USDT-20261225"}, "book.okx.future.BTC-USDT-20261225"),
        ("kline.binance.spot.BTC-USDT.1m", "kline.binance.spot.BTC-USDT.1m"),
        ("kline.binance.spot.BTC/USDT.1M", "kline.binance.spot.BTC-USDT.1M"),
        ({"channel": "kline", "symbol": "BTC-USDT-PERP", "interval": "1h"}, "kline.*.perpetual.BTC-USDT.1h"),
        ({"channel": "kline.binance.spot.BTC-USDT.1m", "interval": "5m"}, "kline.binance.spot.BTC-USDT.5m"),
        ({"channel": "kline", "interval": "*"}, "kline.*.*.*.*"),
        ("funding_rate.binance.perpetual.*", "funding.binance.perpetual.*"),
        ({"channel": "liquidation", "interval": "1m"}, "liquidation.*.*.*"),
    ],
)
def test_channel_forms_mean_one_canonical_name(item, name):
    assert read_channel(item).name == name


@pytest.mark.parametrize("item", ["kline", "kline.binance.spot.BTC-USDT", "kline.binance.spot.BTC-USDT.7m"])
def test_bars_without_a_known_interval_are_refused(item):
    with pytest.raises(FrameError, match="interval is"):
        read_channel(item)


def test_cadence_is_the_channels_own_unless_the_client_names_one():
    assert read_channel("ticker").conflate_ms == 1000
    assert read_channel({"channel": "ticker", "conflate": 50}).conflate_ms == 50
    assert read_channel({"channel": "ticker", "conflate": False}).conflate_ms == 0
    assert read_channel({"channel": "quote", "conflate": True}).conflate_ms == 100
    with pytest.raises(FrameError):
        read_channel({"channel": "liquidation", "conflate": True})


def test_full_outbox_keeps_urgent_frames_of_a_conflating_channel_in_order():
    box, dropped = outbox()
    sub = Sub("kline", Delivery.CONFLATING)
    for seq in range(1, 61):
        put(box, sub, seq, urgent=seq % 10 == 0)
    came = drain(box)
    assert [frame["seq"] for frame in came if frame["type"] == "update"] == [10, 20, 30, 40, 50, 59, 60]
    assert not any(frame["type"] == "gap" for frame in came)
    assert all(frame.get("conflated") for frame in came[:-1]) and dropped == {"conflating": 53}
    assert not box._ordered and not sub.waiting


def test_outbox_full_of_urgent_frames_drops_the_oldest_and_names_them():
    box, _ = outbox()
    sub = Sub("kline", Delivery.CONFLATING)
    for seq in range(1, 41):
        put(box, sub, seq, urgent=seq % 2 == 0)
    last = 0
    for frame in drain(box):
        first = frame["from_seq"] if frame["type"] == "gap" else frame["seq"]
        assert first == last + 1 or frame.get("conflated")
        assert first > last
        last = frame["to_seq"] if frame["type"] == "gap" else frame["seq"]
    assert last == 40 and not box.size and not box.frames
