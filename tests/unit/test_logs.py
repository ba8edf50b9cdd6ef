import io
import json
import logging

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from watari import logs


@pytest.fixture
def lines():
    """Configures JSON logs into a buffer and reads back what was written."""
    buffer = io.StringIO()
    root, handlers = logging.getLogger(), logging.getLogger().handlers[:]
    logs.configure("manager", "info", json=True, stream=buffer)
    yield lambda: [json.loads(line) for line in buffer.getvalue().splitlines()]
    structlog.reset_defaults()
    root.handlers = handlers


def test_a_line_says_when_what_who_and_where(lines):
    logs.get("watari.test").info("served", ms=3)
    (line,) = lines()
    assert line.pop("ts").endswith("Z")
    assert line == {
        "event": "served",
        "level": "info",
        "module": "watari.test",
        "ms": 3,
        "service": "manager",
    }


def test_lines_below_the_level_are_dropped(lines):
    logs.get("t").debug("quiet")
    assert lines() == []


def test_a_context_binds_within_its_block_and_leaves_none_out(lines):
    log = logs.get("t")
    with logs.context(request_id="r1", migration_id=None):
        assert logs.bound("request_id") == "r1"
        log.info("inside")
    log.info("outside")
    inside, outside = lines()
    assert inside["request_id"] == "r1"
    assert "migration_id" not in inside
    assert "request_id" not in outside
    assert logs.bound("request_id") is None


def test_a_traceback_is_part_of_the_line(lines):
    try:
        {}["lost"]
    except KeyError:
        logs.get("t").exception("failed")
    assert "KeyError: 'lost'" in lines()[0]["exception"]


def test_lines_of_other_libraries_take_the_same_form(lines):
    logging.getLogger("grpc._server").error("oh %s", "no")
    (line,) = lines()
    assert (line["event"], line["logger"], line["service"]) == ("oh no", "grpc._server", "manager")


def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match="loud"):
        logs.configure("manager", "loud", json=True)


def test_the_console_form_names_event_and_values():
    buffer = io.StringIO()
    logs.configure("manager", "info", json=False, stream=buffer)
    logs.get("t").info("served", vm="web-1")
    structlog.reset_defaults()
    assert "served" in buffer.getvalue()
    assert "vm=web-1" in buffer.getvalue()


@pytest.mark.parametrize(
    "key", ["secret", "session_key", "KEY", "accessToken", "password_hash", "private_part"]
)
def test_values_under_secret_keys_never_reach_the_output(lines, key):
    logs.get("t").info("x", **{key: "sesame"}, inner=[{"deep": {key: b"sesame"}}])
    assert "sesame" not in json.dumps(lines())


def test_ids_are_no_secrets(lines):
    logs.get("t").info("x", key_id="k-1")
    assert lines()[0]["key_id"] == "k-1"


NESTED = st.recursive(
    st.just("sesame"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
)


@given(NESTED)
def test_no_nesting_hides_a_secret(value):
    event = logs.redact(None, "info", {"event": "x", "outer": [{"token": value}, (value,)][:1]})
    assert "sesame" not in repr(event)
