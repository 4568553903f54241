"""How many piles a hand promises: the arithmetic behind the bot's choices.

What the player has not seen is in the other hands. A set holds its turn unless somebody has a better one of its type
and spends it. Both chances are rough on purpose: pieces are counted as if they were independent of each other, and
every opponent is as willing to spend a better single as any other. Exact answers would need a search, and no player is
that predictable.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import cached_property

from game_tasks.pieces import DECK, Hand, Piece, without
from game_tasks.sets import VALID_SETS, beats, valid_sets
from game_tasks.views import PlayerView

__all__ = ["Estimate"]

_SPENDS_SINGLE = 0.35
"""The chance that the holder of a better single plays it: singles are saved for later. Longer sets never are."""

_BETTER = {
    pieces: tuple(Counter(other) for other in VALID_SETS if len(other) == len(pieces) and beats(other, pieces))
    for pieces in VALID_SETS
}


class Estimate:
    """What one view lets its player expect.

    chance: that a set holds its turn, 0 to 1. plan: the hand split into the sets that promise the most piles.
    """

    def __init__(self, view: PlayerView) -> None:
        self._hand = view.hand
        seen = (*view.hand, *view.played, *(piece for play in view.table for piece in play.pieces))
        self._unseen = Counter(without(DECK, seen))
        self._hidden = sum(self._unseen.values())
        played = {play.player_id for play in view.table}
        self._still_to_play = tuple(seat.pieces_left for seat in view.others if seat.player_id not in played)
        self._leads = view.leader == view.player_id
        self._chances: dict[Hand, float] = {}
        self._plans: dict[Hand, tuple[float, tuple[Hand, ...]]] = {(): (0.0, ())}

    def chance(self, pieces: Hand) -> float:
        """Estimate that nobody who has still to play takes the turn from this valid set: 0 to 1."""
        if pieces not in self._chances:
            spends = _SPENDS_SINGLE if len(pieces) == 1 else 1.0
            self._chances[pieces] = math.prod(
                1.0 - spends * self._holds(better, hand_size)
                for hand_size in self._still_to_play
                for better in _BETTER[pieces]
            )
        return self._chances[pieces]

    @property
    def piles(self) -> float:
        """The piles that the whole hand promises."""
        return self._plan(self._hand)[0]

    @property
    def plan(self) -> tuple[Hand, ...]:
        """The hand split into the valid sets that together promise the most piles."""
        return self._plan(self._hand)[1]

    @cached_property
    def _lead(self) -> float:
        """The chance to lead a turn at all: only who leads can play more than one piece on purpose."""
        if self._leads:
            return 1.0
        singles = valid_sets(self._hand, 1)
        return 1.0 - math.prod(1.0 - self.chance(single) for single in singles)

    def _plan(self, hand: Hand) -> tuple[float, tuple[Hand, ...]]:
        """Try every set that uses the hand's first piece, with the best plan for what is left."""
        if hand not in self._plans:
            options = []
            for pieces in valid_sets(hand):
                if hand[0] not in pieces:
                    continue
                piles, plan = self._plan(without(hand, pieces))
                gain = self.chance(pieces) * len(pieces)
                if len(pieces) > 1:
                    gain *= self._lead
                options.append((piles + gain, (pieces, *plan)))
            self._plans[hand] = max(options, key=lambda option: option[0])
        return self._plans[hand]

    def _holds(self, pieces: Counter[Piece], hand_size: int) -> float:
        """Estimate that a hidden hand of this size has all these pieces."""
        return math.prod(self._holds_copies(piece, copies, hand_size) for piece, copies in pieces.items())

    def _holds_copies(self, piece: Piece, copies: int, hand_size: int) -> float:
        hidden, left = self._hidden, self._unseen[piece]
        ways = sum(
            math.comb(left, held) * math.comb(hidden - left, hand_size - held)
            for held in range(copies, min(left, hand_size) + 1)
        )
        return ways / math.comb(hidden, hand_size)
