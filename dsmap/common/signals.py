"""Which signals ask a command to stop. A leaf."""

import signal


def stop_signal_numbers() -> tuple[int, ...]:
    """Ctrl-C, SIGTERM and, unless it is ignored (`nohup`), SIGHUP: the terminal was closed, or the line to it broke."""
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN:
        return (signal.SIGINT, signal.SIGTERM)
    return (signal.SIGINT, signal.SIGTERM, hangup)
