"""Errors of the wire formats.

    TickringError
    └── CodecError
        ├── UnknownSymbol    a text that names no instrument, in any of the accepted forms
        ├── UnknownExchange  a text that names no exchange, alias or product
        ├── BadResponse      a REST body that is not what the endpoint documents
        ├── ExchangeRefused  a REST body with the exchange's own error code
        ├── CaptureError     a capture file that cannot be read as any known format
        ├── MalformedAmount  an amount that is no decimal number, or too large
        ├── MalformedTime    a time that is no time, or not of this era
        └── Undecidable      an event of the desk that cannot be understood

A bad frame of a stream is not an error: it is counted with its reason and the stream goes on.
"""

from __future__ import annotations

from ..ringbuf.errors import TickringError


class CodecError(TickringError):
    """Input from outside cannot be understood."""


class UnknownSymbol(CodecError):
    pass


class UnknownExchange(CodecError):
    pass


class BadResponse(CodecError):
    """A REST body differs from what is documented; `reason` is one of `Reason`."""

    retriable = True

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


class ExchangeRefused(CodecError):
    """The exchange answered with an error of its own: `code` and `text` as it sent them."""

    def __init__(self, text: str, code: int, message: str, *, retriable: bool) -> None:
        super().__init__(text)
        self.code = code
        self.message = message
        self.retriable = retriable


class CaptureError(CodecError):
    pass


class MalformedAmount(CodecError):
    """An amount of money or quantity that is no decimal number, or too large."""


class MalformedTime(CodecError):
    """A time that is no time, or not of this era."""


class Undecidable(CodecError):
    """An event that cannot be understood; `reason` is a word to count it by."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason
