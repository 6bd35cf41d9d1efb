"""Votes of blind comparisons, and the ranking of models that follows from them."""

import itertools
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

MIDDLE, SPAN = 1000, 400  # points of the average model, and points that make one ten times as likely to win
ROUNDS = 1000  # of the fit at most
CLOSE = 1e-9


@dataclass(frozen=True)
class Rank:
    """A model's standing. 400 `points` more are ten times the chance to win."""

    model: str
    points: float
    votes: int


class Votes:
    """The votes of each user, kept in the studio's database."""

    def __init__(self, database):
        self._database = database

    def add(self, one, other, share, job="", user=""):
        """Keep a vote between two models: `share` is 1 if `one` was better, 0 if `other`, 0.5 for neither."""
        with self._database() as connection:
            connection.execute(
                "INSERT INTO votes (user, created, job, one, other, share) VALUES (?, ?, ?, ?, ?, ?)",
                (user, time.time(), job, one, other, share),
            )

    def ranking(self, user=""):
        """The `Rank` of every model that was voted on, the best first."""
        with self._database() as connection:
            rows = connection.execute("SELECT one, other, share FROM votes WHERE user = ?", (user,)).fetchall()
        votes = [tuple(row) for row in rows]
        points = bradley_terry(votes)
        counts = Counter(model for one, other, _ in votes for model in (one, other))
        return sorted((Rank(model, points[model], counts[model]) for model in points), key=lambda rank: -rank.points)


def bradley_terry(votes):
    """Points of each model from votes `(one, other, share)` (Bradley & Terry, 1952).

    They are the likeliest, found by Hunter's iteration (2004, eq. 3). Every two models that met are given one
    more vote, a tie: without it a model that never lost would have no bound.
    """
    models = sorted({model for one, other, _ in votes for model in (one, other)})
    index = {model: i for i, model in enumerate(models)}
    met = {frozenset((one, other)) for one, other, _ in votes if one != other}
    won, games = np.zeros(len(models)), np.zeros((len(models), len(models)))
    ties = [(*pair, 0.5) for pair in met]
    for one, other, share in itertools.chain((vote for vote in votes if vote[0] != vote[1]), ties):
        i, j = index[one], index[other]
        won[i] += share
        won[j] += 1 - share
        games[i, j] += 1
        games[j, i] += 1
    strength = np.ones(len(models))
    if not met:
        return dict.fromkeys(models, float(MIDDLE))
    for _ in range(ROUNDS):
        played = (games / (strength[:, None] + strength)).sum(1)
        fitted = np.divide(won, played, out=strength.copy(), where=played > 0)
        fitted /= np.exp(np.log(fitted).mean())
        if np.abs(fitted - strength).max() < CLOSE:
            break
        strength = fitted
    return {model: MIDDLE + SPAN * float(np.log10(strength[i])) for model, i in index.items()}
