"""The NBD handshake: what is agreed, and what is no server to talk to."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.disks.nbd import BASE_ALLOCATION, Connection, Pool, wire
from tests.support import nbd_script as script
from watari import errors

HELLO = wire.GREETING.pack(wire.MAGIC, wire.OPTION_MAGIC, 3)
STRUCTURED = HELLO + script.option_reply(8, 1)
CONTEXT = wire.U32.pack(7) + BASE_ALLOCATION.encode()
AGREED = STRUCTURED + script.option_reply(10, 4, CONTEXT) + script.option_reply(10, 1)
EXPORT = wire.EXPORT_INFO.pack(0, 1 << 20, script.FLAGS)


def test_size_flags_and_contexts_are_what_the_server_says() -> None:
    with script.connected(b"", contexts=(BASE_ALLOCATION, "qemu:dirty-bitmap:b")) as connection:
        assert connection.size == script.SIZE
        assert connection.flags & wire.Export.SEND_WRITE_ZEROES
        assert connection.contexts == {BASE_ALLOCATION: 7, "qemu:dirty-bitmap:b": 8}


def test_contexts_that_the_server_does_not_know_are_left_out() -> None:
    said = STRUCTURED + script.option_reply(10, 1) + script.option_reply(7, 3, EXPORT)
    with script.says(said + script.option_reply(7, 1)) as ours:
        connection = Connection(ours, "vda")
        assert connection.contexts == {}
        connection.close()


def test_information_that_was_not_asked_for_is_passed_over() -> None:
    said = AGREED + script.option_reply(7, 3, wire.U16.pack(3) + bytes(12))
    said += script.option_reply(7, 3, EXPORT) + script.option_reply(7, 1)
    with script.says(said) as ours:
        connection = Connection(ours, "vda")
        assert connection.size == 1 << 20
        connection.close()


WRONG = {
    "nothing": b"",
    "other magic": bytes(18),
    "old style": wire.GREETING.pack(wire.MAGIC, 0x00420281861253, 0),
    "not fixed": wire.GREETING.pack(wire.MAGIC, wire.OPTION_MAGIC, 2),
    "no structured replies": HELLO + script.option_reply(8, wire.OPTION_ERROR | 1, b"no\n"),
    "data with structured replies": HELLO + script.option_reply(8, 3, b"x"),
    "other option": HELLO + script.option_reply(9, 1),
    "other reply magic": HELLO + wire.OPTION_REPLY.pack(1, 8, 1, 0),
    "huge reply": HELLO + wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, 8, 3, 0xFFFF_FFFF),
    "unasked context": STRUCTURED + script.option_reply(10, 4, wire.U32.pack(1) + b"other:x"),
    "context twice": STRUCTURED + script.option_reply(10, 4, CONTEXT) * 2,
    "context cut short": STRUCTURED + script.option_reply(10, 4, b"ab"),
    "no export": AGREED + script.option_reply(7, 1),
    "unknown export": AGREED + script.option_reply(7, wire.OPTION_ERROR | 6),
    "export cut short": AGREED + script.option_reply(7, 3, EXPORT[:-1]),
    "export too large": AGREED
    + script.option_reply(7, 3, wire.EXPORT_INFO.pack(0, 1 << 63, 1))
    + script.option_reply(7, 1),
    "no flags": AGREED
    + script.option_reply(7, 3, wire.EXPORT_INFO.pack(0, 1, 0))
    + script.option_reply(7, 1),
    "endless": AGREED + script.option_reply(7, 3, wire.U16.pack(1)) * 100,
}


@pytest.mark.parametrize("said", WRONG.values(), ids=WRONG.keys())
def test_what_is_no_handshake_is_refused(said: bytes) -> None:
    with script.says(said) as ours, pytest.raises(errors.DataLoss) as caught:
        Connection(ours, "vda")
    assert caught.value.reason == "DISK_IO"
    assert ("answered wrongly" if said else "broke") in caught.value.message


@given(st.integers(0, len(script.greeting()) - 1), st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_a_handshake_with_a_wrong_byte_is_agreed_or_refused(at: int, change: int) -> None:
    said = bytearray(script.greeting())
    said[at] ^= change
    reason = ""
    with script.says(bytes(said)) as ours:
        try:
            Connection(ours, "vda").close()
        except errors.DataLoss as error:
            reason = error.reason
    assert reason in {"", "DISK_IO"}


def test_a_silent_server_is_given_up_during_the_handshake() -> None:
    with script.says(HELLO, ends=False) as ours, pytest.raises(errors.DataLoss) as caught:
        Connection(ours, "vda", request_seconds_max=0.2)
    assert "no answer" in caught.value.message


def test_a_server_that_flushes_each_connection_alone_gets_one_to_write_on() -> None:
    with (
        script.connected(script.simple() + script.simple(cookie=2)) as first,
        script.connected(b"") as second,
    ):
        pool = Pool([first, second])
        pool.write(0, b"x")
        pool.flush()
        assert second.broken is None
        assert pool._idle.qsize() == 1


def test_connections_to_different_disks_are_no_pool() -> None:
    with script.says(script.greeting(size=5)) as ours, script.connected(b"") as other:
        connection = Connection(ours, "vda")
        with pytest.raises(errors.DataLoss):
            Pool([connection, other])
        connection.close()
