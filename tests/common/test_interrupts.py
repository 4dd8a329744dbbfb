"""Requests to stop: what a first signal does, and what a second one."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dsmap.common import interrupts
from dsmap.common.interrupts import stop_on_signals


@contextmanager
def handler_of(number: int, handler: object) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_a_second_signal_forces_the_stop():
    with stop_on_signals() as stop:
        assert not stop
        send(signal.SIGTERM)
        assert stop
        assert not stop.force_stop
        send(signal.SIGINT)
        assert stop.force_stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_cuts_off_what_is_interruptible(number):
    with stop_on_signals() as stop:
        with stop.interruptible():
            send(number)
            assert stop
            with pytest.raises(KeyboardInterrupt):
                send(number)
        send(number)
        assert stop.force_stop


def test_a_closed_terminal_never_forces_the_stop():
    with handler_of(signal.SIGHUP, signal.SIG_DFL):
        with stop_on_signals() as stop, stop.interruptible():
            for _ in range(3):  # from the kernel, and from the shell
                send(signal.SIGHUP)
            assert stop.requested
            assert not stop.force_stop
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


@pytest.mark.parametrize("second_ctrl_c_raises", [False, True])
def test_nohup_stays_in_force(second_ctrl_c_raises):
    with handler_of(signal.SIGHUP, signal.SIG_IGN), stop_on_signals(second_ctrl_c_raises=second_ctrl_c_raises) as stop:
        send(signal.SIGHUP)
        assert not stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_comes_twice_stops_a_training_once(number, monkeypatch):
    """What goes to a whole group comes again from torchrun; only a person's second Ctrl-C is meant as one."""
    with handler_of(signal.SIGHUP, signal.SIG_DFL), stop_on_signals(second_ctrl_c_raises=True) as stop:
        for _ in range(3):
            send(number)
        assert stop.requested
        monkeypatch.setattr(interrupts, "ECHO_SECONDS", 0.0)
        if number != signal.SIGINT:
            send(number)
        else:
            with pytest.raises(KeyboardInterrupt):
                send(number)
        assert not stop.force_stop


def test_a_block_around_another_hears_of_its_stop():
    with stop_on_signals() as outer:
        with stop_on_signals():
            send(signal.SIGINT)
        assert outer
