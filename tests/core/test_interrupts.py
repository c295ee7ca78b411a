"""Ctrl-C and SIGTERM: raised at once, or kept until the state is whole; a second one is raised in any case."""

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
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may be run under nohup
    interrupts.install()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_both_are_raised_at_once_outside() -> None:
    with pytest.raises(Terminated):
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as caught:
        os.kill(os.getpid(), signal.SIGINT)
    assert not isinstance(caught.value, Terminated)
    assert not interrupts.pending()


def test_a_terminal_that_goes_ends_a_sweep_unless_it_is_to_outlive_it() -> None:
    with pytest.raises(Terminated) as caught:
        os.kill(os.getpid(), signal.SIGHUP)
    assert (interrupts.name(caught.value), interrupts.status(caught.value)) == ("SIGHUP", 129)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does
    interrupts.install()
    os.kill(os.getpid(), signal.SIGHUP)


def test_each_is_told_by_its_name_and_exit_status() -> None:
    told = [(interrupts.name(one), interrupts.status(one)) for one in (KeyboardInterrupt(), Terminated("SIGTERM"))]
    assert told == [("Ctrl-C", 130), ("SIGTERM", 143)]


def test_the_first_waits_inside_until_it_is_obeyed() -> None:
    after = False
    with pytest.raises(Terminated), interrupts.deferred():
        assert not interrupts.pending()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.pending()
        after = True
        interrupts.raise_deferred()
        raise AssertionError("obey came back")
    assert after
    assert not interrupts.pending()


def test_the_end_of_the_block_obeys() -> None:
    with pytest.raises(Terminated), interrupts.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Terminated), interrupts.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("what else went wrong matters less")
    assert not interrupts.pending()


def test_the_second_is_raised_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), interrupts.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("nothing was raised")
    assert not interrupts.pending()


def test_inside_it_is_welcome_where_no_state_is_torn() -> None:
    with pytest.raises(Terminated), interrupts.deferred(), interrupts.immediate():
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("nothing was raised")
    with pytest.raises(Terminated), interrupts.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        with interrupts.immediate():
            raise AssertionError("what had arrived before was not raised")
    with interrupts.deferred():
        with interrupts.immediate():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.pending()
        with pytest.raises(Terminated):
            interrupts.raise_deferred()
