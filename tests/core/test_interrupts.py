"""Ctrl-C and SIGTERM are raised at once or deferred; a second one is always raised."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from frostline.core import interrupts
from frostline.core.interrupts import Terminated


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    interrupts.install()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_interrupts_are_raised_at_once() -> None:
    with pytest.raises(Terminated):
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as caught:
        os.kill(os.getpid(), signal.SIGINT)
    assert not isinstance(caught.value, Terminated)
    assert not interrupts.pending()


def test_sighup_is_raised_except_under_nohup() -> None:
    with pytest.raises(Terminated) as caught:
        os.kill(os.getpid(), signal.SIGHUP)
    assert (interrupts.name(caught.value), interrupts.status(caught.value)) == ("SIGHUP", 129)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    interrupts.install()
    os.kill(os.getpid(), signal.SIGHUP)


def test_interrupts_have_names_and_exit_statuses() -> None:
    found = [(interrupts.name(one), interrupts.status(one)) for one in (KeyboardInterrupt(), Terminated("SIGTERM"))]
    assert found == [("Ctrl-C", 130), ("SIGTERM", 143)]


def test_first_interrupt_is_deferred() -> None:
    after = False
    with pytest.raises(Terminated), interrupts.deferred():
        assert not interrupts.pending()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.pending()
        after = True
        interrupts.raise_deferred()
        raise AssertionError("the deferred interrupt was not raised")
    assert after
    assert not interrupts.pending()


def test_end_of_the_block_raises() -> None:
    with pytest.raises(Terminated), interrupts.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Terminated), interrupts.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("replaced by the interrupt")
    assert not interrupts.pending()


def test_second_interrupt_is_raised_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), interrupts.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("nothing was raised")
    assert not interrupts.pending()


def test_sigterm_of_timeout_counts_once() -> None:
    interrupts.install(apart=60.0)
    with pytest.raises(Terminated):
        os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)  # timeout(1) sends it to the process, then to the process group
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_immediate_raises_within_deferred() -> None:
    with pytest.raises(Terminated), interrupts.deferred(), interrupts.immediate():
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("nothing was raised")
    with pytest.raises(Terminated), interrupts.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        with interrupts.immediate():
            raise AssertionError("the earlier interrupt was not raised")
    with interrupts.deferred():
        with interrupts.immediate():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.pending()
        with pytest.raises(Terminated):
            interrupts.raise_deferred()
