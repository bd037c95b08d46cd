"""The order book against a plain dict."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tickring.codecs.book import BookState, OrderBook

PRICES = st.integers(1, 60).map(lambda n: n / 4)
LEVELS = st.lists(st.tuples(PRICES, st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.5])), max_size=12)


def plain_top(side: dict[float, float], n: int, *, best_high: bool) -> tuple[list[float], list[float]]:
    prices = sorted(side, reverse=best_high)[:n]
    return prices, [side[price] for price in prices]


@given(st.lists(st.tuples(st.booleans(), LEVELS, LEVELS), max_size=12), st.integers(0, 25))
def test_book_equals_plain_dicts_after_any_events(
    events: list[tuple[bool, list[tuple[float, float]], list[tuple[float, float]]]], n: int
) -> None:
    book = OrderBook()
    bids: dict[float, float] = {}
    asks: dict[float, float] = {}
    for replace, new_bids, new_asks in events:
        if replace:
            bids, asks = {}, {}
            book.replace(new_bids, new_asks)
        else:
            book.apply(new_bids, new_asks)
        for side, levels in ((bids, new_bids), (asks, new_asks)):
            side.update(levels)
            for price in [price for price, quantity in side.items() if not quantity]:
                del side[price]
        bid_prices, bid_quantities, ask_prices, ask_quantities = book.top(n)
        assert (list(bid_prices), list(bid_quantities)) == plain_top(bids, n, best_high=True)
        assert (list(ask_prices), list(ask_quantities)) == plain_top(asks, n, best_high=False)
        assert len(book) == len(bids) + len(asks)
        best_bid, best_ask = max(bids, default=0.0), min(asks, default=0.0)
        assert book.best() == (best_bid, bids.get(best_bid, 0.0), best_ask, asks.get(best_ask, 0.0))
        assert book.crossed == bool(bids and asks and best_bid >= best_ask)


def test_book_without_levels_is_empty_and_not_crossed() -> None:
    book = OrderBook()
    assert book.state is BookState.EMPTY
    assert book.best() == (0.0, 0.0, 0.0, 0.0)
    assert [list(part) for part in book.top(20)] == [[], [], [], []]
    assert not book.crossed


def test_removing_an_unknown_level_changes_nothing() -> None:
    book = OrderBook()
    book.replace([(1.0, 2.0)], [(3.0, 4.0)])
    book.apply([(0.5, 0.0)], [(9.0, 0.0)])
    assert len(book) == 2


def test_top_is_a_copy() -> None:
    book = OrderBook()
    book.replace([(1.0, 2.0), (0.5, 1.0)], [(3.0, 4.0)])
    bids = book.top(2)[0]
    book.apply([(1.0, 0.0)], [])
    assert list(bids) == [1.0, 0.5]


def test_touching_book_is_crossed() -> None:
    book = OrderBook()
    book.replace([(3.0, 1.0)], [(3.0, 1.0)])
    assert book.crossed


def test_state_numbers_are_those_in_records() -> None:
    assert {state.name: state.value for state in BookState} == {
        "EMPTY": 0, "RESYNCING": 1, "SYNCED": 2, "STALE": 3, "CROSSED": 4,
    }  # fmt: skip
