"""Votes are kept by user, and their ranking is Bradley and Terry's."""

import math

import pytest

from studio.database import Database
from studio.votes import Votes, bradley_terry


def likelihood(points, votes):
    chance = lambda one, other: 1 / (1 + 10 ** ((points[other] - points[one]) / 400))  # noqa: E731
    return sum(share * math.log(chance(one, other)) + (1 - share) * math.log(chance(other, one))
               for one, other, share in votes)  # fmt: skip


def test_two_models_have_the_closed_form():
    # one tie is added to three wins and one loss: 3.5 to 1.5
    points = bradley_terry([("a", "b", 1)] * 3 + [("a", "b", 0)])
    assert points["a"] - points["b"] == pytest.approx(400 * math.log10(3.5 / 1.5), abs=1e-3)
    assert (points["a"] + points["b"]) / 2 == pytest.approx(1000)


def test_no_other_points_are_likelier():
    votes = [("a", "b", 1), ("b", "c", 1), ("c", "a", 1), ("a", "c", 1), ("a", "b", 0.5), ("a", "b", 1)]
    ties = [("a", "b", 0.5), ("b", "c", 0.5), ("a", "c", 0.5)]
    points = bradley_terry(votes)
    best = likelihood(points, votes + ties)
    for model in points:
        for by in (-1, 1):
            assert likelihood(points | {model: points[model] + by}, votes + ties) < best


def test_a_model_that_never_lost_is_first_within_bounds():
    points = bradley_terry([("a", "b", 1)] * 20)
    assert 1000 < points["a"] < 1500


def test_a_vote_of_a_model_against_itself_says_nothing():
    assert bradley_terry([("a", "a", 1)]) == {"a": 1000}
    assert bradley_terry([]) == {}


def test_users_have_rankings_of_their_own(tmp_path):
    votes = Votes(Database(tmp_path / "atelier.db"))
    votes.add("a", "b", 1, user="ann")
    votes.add("a", "b", 0.5, user="ann")
    votes.add("a", "b", 0, user="ben")
    assert [(rank.model, rank.votes) for rank in votes.ranking("ann")] == [("a", 2), ("b", 2)]
    assert [rank.model for rank in votes.ranking("ben")] == ["b", "a"]
    assert votes.ranking() == []
    assert [rank.model for rank in Votes(Database(tmp_path / "atelier.db")).ranking("ben")] == ["b", "a"]
