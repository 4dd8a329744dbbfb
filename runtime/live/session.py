"""The state of a live session that keys change, without window, camera or network."""

from collections.abc import Callable
from enum import Enum
from time import monotonic

from dsmap.runtime.live.styles import StyleSelector

NOTICE_SECONDS = 4.0
"""How long a notice stays on the screen."""


class View(Enum):
    """What the window shows."""

    RESULT = "result"
    SIDE_BY_SIDE = "side by side"
    SPLIT = "split"


class Action(Enum):
    """A key's request that others carry out."""

    QUIT = "quit"
    DIRECTION = "direction"
    SNAPSHOT = "snapshot"
    RECORD = "record"
    CAMERA = "camera"
    LARGER = "larger"
    SMALLER = "smaller"


KEYS = (
    ("q, Esc", "quit"),
    ("d", "other direction"),
    ("s", "next style"),
    ("r", "random style"),
    ("i", "interpolate styles"),
    ("b", "before/after: off, beside, split"),
    ("p", "pause"),
    ("c", "snapshot"),
    ("v", "record"),
    ("Tab", "next camera"),
    ("+, -", "larger, smaller (slower, faster)"),
    ("n", "numbers"),
    ("h", "help"),
)
"""For the help on the screen."""


class SessionState:
    """The state that keys change. Only the thread that presses keys changes it; any may read.

    `notices` are lines for the screen that disappear by themselves.
    """

    def __init__(self, selector: StyleSelector, *, clock: Callable[[], float] = monotonic) -> None:
        self.view = View.RESULT
        self.paused = False
        self.hud = True
        self.help = False
        self._selector = selector
        self._clock = clock
        self._notices: list[tuple[float, str]] = []
        self.style = selector.at(clock())
        """The active style; `tick` advances it."""
        self._keys: dict[str, Callable[[], None]] = {
            "s": lambda: self._change_style(selector.next),
            "r": lambda: self._change_style(selector.random),
            "i": lambda: self._change_style(selector.interpolate),
            "b": self._change_view,
            "p": self._pause,
            "n": self._change_hud,
            "h": self._change_help,
        }
        self._actions = {
            "q": Action.QUIT,
            "esc": Action.QUIT,
            "d": Action.DIRECTION,
            "c": Action.SNAPSHOT,
            "v": Action.RECORD,
            "tab": Action.CAMERA,
            "+": Action.LARGER,
            "=": Action.LARGER,  # without Shift
            "-": Action.SMALLER,
        }

    def press(self, key: str) -> Action | None:
        """Handle a key (a lower-case character, "esc" or "tab"); returns an action for others to carry out."""
        if key in self._keys:
            self._keys[key]()
        return self._actions.get(key)

    def tick(self) -> None:
        """Advance moving styles to the present time."""
        if self._selector.moving and not self.paused:
            self.style = self._selector.at(self._clock())

    def turn_round(self, domain: str) -> None:
        """Switch to translating to `domain`, and to its styles."""
        before = self.style.first
        self._turn(lambda now: self._selector.switch_domain(domain, now))
        if self.style.first.name != before.name:
            self.note(f"{domain} has no style {before.name}")

    def note(self, text: str) -> None:
        """Show a line for a few seconds. From any thread."""
        self._notices = [*self._notices[-2:], (self._clock() + NOTICE_SECONDS, text)]

    @property
    def notices(self) -> list[str]:
        """The lines to show now, oldest first."""
        now = self._clock()
        return [text for end, text in self._notices if end > now]

    def _turn(self, change: Callable[[float], None]) -> None:
        now = self._clock()
        change(now)
        self.style = self._selector.at(now)

    def _change_style(self, change: Callable[[float], None]) -> None:
        if self._selector.only_one:
            self.note("this model has no styles")
            return
        self._turn(change)
        if change == self._selector.interpolate:
            self.note("interpolating" if self._selector.moving else f"style stays at {self.style.label}")

    def _change_view(self) -> None:
        views = list(View)
        self.view = views[(views.index(self.view) + 1) % len(views)]

    def _pause(self) -> None:
        self.paused = not self.paused

    def _change_hud(self) -> None:
        self.hud = not self.hud

    def _change_help(self) -> None:
        self.help = not self.help
