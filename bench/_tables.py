"""What the scripts print: measured rows, then ratios with the bound that each is to hold.

table = Table("cat of 200 files")
table.row("pictofs, cold", seconds=1.2, requests=3)
table.ratio("cold: share of rclone's time", 1.2, 11.3, at_most=1 / 5)
table.print()
"""

from __future__ import annotations

from dataclasses import dataclass, field

_LABEL_WIDTH = 62


def _cell(value: float | None, digits: int) -> str:
    return f"{'' if value is None else f'{value:.{digits}f}':>10}"


@dataclass
class Table:
    """Rows in the order they were measured, and the ratios below them."""

    title: str
    _rows: list[str] = field(default_factory=list)
    _bounds: list[str] = field(default_factory=list)

    def row(self, what: str, seconds: float | None = None, requests: int | None = None) -> None:
        """Something that was measured."""
        digits = 4 if seconds is not None and seconds < 0.1 else 2
        self._rows.append(f"{what:<{_LABEL_WIDTH}}{_cell(seconds, digits)}{_cell(requests, 0)}")

    def left_out(self, what: str, why: str) -> None:
        """Something that could not be measured here."""
        self._rows.append(f"{what:<{_LABEL_WIDTH}}{why:>20}")

    def bound(
        self, what: str, value: float, *, at_most: float | None = None, at_least: float | None = None
    ) -> None:
        """A number and the bound that it is to hold."""
        digits = 0 if isinstance(value, int) else 2 if value >= 0.1 else 3
        word, limit = ("at most", at_most) if at_most is not None else ("at least", at_least)
        assert limit is not None, "a bound has one end"
        held = value <= limit if at_most is not None else value >= limit
        self._bounds.append(
            f"{what:<{_LABEL_WIDTH}}{_cell(value, digits)}  {word} {limit:.3g}{'' if held else '  NOT HELD'}"
        )

    def ratio(
        self,
        what: str,
        ours: float,
        theirs: float | None,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> None:
        """`ours / theirs` and its bound; without theirs (a peer that is not here) there is nothing to say."""
        if theirs is not None:
            self.bound(what, ours / theirs, at_most=at_most, at_least=at_least)

    def print(self) -> None:
        """All of it, on standard output."""
        print(f"\n{self.title}\n{'':<{_LABEL_WIDTH}}{'seconds':>10}{'requests':>10}")
        print("\n".join(self._rows))
        if self._bounds:
            print(f"{'':<{_LABEL_WIDTH}}{'measured':>10}  to hold")
            print("\n".join(self._bounds), flush=True)
