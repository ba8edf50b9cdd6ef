import signal
import subprocess
import sys

import pytest

from watari import errors, failpoint

POINT = failpoint.declare("test.point")


def outcomes(count: int) -> str:
    """One letter a hit: e(rror) or . for nothing."""
    letters = ""
    for _ in range(count):
        try:
            failpoint.hit(POINT)
            letters += "."
        except errors.Unavailable:
            letters += "e"
    return letters


def test_an_unarmed_point_does_nothing():
    assert outcomes(3) == "..."


def test_a_point_that_nobody_declared_is_a_bug_of_the_caller():
    with pytest.raises(AssertionError, match="never declared"):
        failpoint.hit("test.unheard_of")
    with pytest.raises(AssertionError, match="never declared"):
        failpoint.arm("test.unheard_of", "off")


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ("error(FAILPOINT)", "eeeee"),
        ("1*error(FAILPOINT)", "e...."),
        ("2*off->1*error(FAILPOINT)", "..e.."),
        ("1*error(FAILPOINT)->1*off->error(FAILPOINT)", "e.eee"),
        ("0*error(FAILPOINT)", "....."),
        ("1*sleep(1)->error(FAILPOINT)", ".eeee"),
    ],
)
def test_terms_are_used_up_in_order(terms, expected):
    with failpoint.armed(POINT, terms):
        assert outcomes(5) == expected
    assert outcomes(1) == "."


def test_the_error_carries_the_reason_that_was_armed_and_is_retryable():
    with failpoint.armed(POINT, "error(DISK_FULL)"), pytest.raises(errors.Unavailable) as caught:
        failpoint.hit(POINT)
    assert (caught.value.reason, caught.value.retryable) == ("DISK_FULL", True)


@pytest.mark.parametrize(
    "text",
    ["p", "p=", "p=explode", "p=1*", "p=error()", "p=sleep(x)", "p=sleep(600001)", "x" * 5000],
)
def test_settings_outside_the_grammar_are_refused(text):
    with pytest.raises(errors.InvalidArgument) as caught:
        failpoint.arm_from_environment({failpoint.ENVIRONMENT_VARIABLE: text})
    assert caught.value.reason == "CONFIG_INVALID"


def test_the_environment_arms_points_that_are_declared_before_and_after():
    setting = f"{POINT}=1*error(FAILPOINT); test.later=1*error(FAILPOINT)"
    failpoint.arm_from_environment({failpoint.ENVIRONMENT_VARIABLE: setting})
    assert outcomes(2) == "e."
    assert failpoint.undeclared() == ["test.later"]
    failpoint.declare("test.later")
    assert failpoint.undeclared() == []
    with pytest.raises(errors.Unavailable):
        failpoint.hit("test.later")


def test_declared_names_can_be_listed():
    assert POINT in failpoint.names()


def test_kill_ends_the_process_as_kill_9_does():
    program = (
        "from watari import failpoint; p = failpoint.declare('p'); failpoint.arm(p, '1*kill');"
        "failpoint.hit(p); print('survived')"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, b"")
