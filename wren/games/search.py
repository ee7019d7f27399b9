"""Minimax with alpha-beta pruning over any game of two players without chance, and exact outcomes of small ones.

Worths are whole numbers from the mover's side: a win is WIN and more, the more the sooner it comes.
"""

from collections.abc import Callable

from wren.games.state import OVER, S, State, result

WIN = 1_000_000  # above every evaluation
_INFINITY = 2 * WIN


def best_moves(state: S, depth: int, evaluate: Callable[[S], int]) -> tuple[int, tuple[int, ...]]:
    """The worth of a position searched `depth` >= 1 plies, and every move that reaches it.

    evaluate: a position's worth to the player to move, between -WIN and WIN.
    """
    best, moves = -_INFINITY, []
    for move in state.legal():
        # a window that still holds `best`: a move as good as it gets its exact worth, a worse one only a bound
        worth = _worth(state.play(move), state.player, depth - 1, best - 1, _INFINITY, evaluate)
        if worth > best:
            best, moves = worth, [move]
        elif worth == best:
            moves.append(move)
    return best, tuple(moves)


def _worth(state: S, player: int, depth: int, alpha: int, beta: int, evaluate: Callable[[S], int]) -> int:
    """To `player`; exact between alpha and beta, else a bound on that side."""
    mover = state.player
    if mover == OVER:
        won = result(state)[player]
        return 0 if won == 0 else WIN + depth if won > 0 else -WIN - depth
    if mover != player:
        return -_worth(state, mover, depth, -beta, -alpha, evaluate)
    if depth == 0:
        return evaluate(state)
    best = -_INFINITY
    for move in state.legal():
        best = max(best, _worth(state.play(move), player, depth - 1, max(alpha, best), beta, evaluate))
        if best >= beta:
            break
    return best


def outcome(state: State, memory: dict[State, int]) -> int:
    """1, 0 or -1: what the first player reaches when both play perfectly. memory: keeps every position's answer."""
    known = memory.get(state)
    if known is not None:
        return known
    if state.player == OVER:
        won = result(state)[0]
        answer = (won > 0) - (won < 0)
    else:
        better = max if state.player == 0 else min
        answer = better(outcome(state.play(move), memory) for move in state.legal())
    memory[state] = answer
    return answer


def perfect_moves(state: State, memory: dict[State, int]) -> tuple[int, ...]:
    """The moves that keep what the position is worth, win, draw or loss, however long it takes."""
    worth = outcome(state, memory)
    return tuple(move for move in state.legal() if outcome(state.play(move), memory) == worth)
