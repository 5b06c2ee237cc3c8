"""Slopes: a leak is found, noise and outliers are not taken for one."""

from __future__ import annotations

import random

import numpy as np

from flows.load.slopes import slope_of, theil_sen

MIB = 1024 * 1024
SECOND = 1_000_000


def rows(per_s: float, noise: float, seconds: int = 600, seed: int = 1) -> list[tuple[int, float]]:
    chance = random.Random(seed)
    return [(at * SECOND, 80 * MIB + per_s * at + chance.gauss(0, noise)) for at in range(seconds)]


def test_a_leak_is_found_with_its_size() -> None:
    found = slope_of("rss_bytes", rows(per_s=MIB / 60, noise=MIB / 2))
    assert found is not None
    assert found.grows
    assert found.low < 60 < found.high
    assert abs(found.per_hour - 60) < 3


def test_noise_alone_does_not_grow() -> None:
    found = [slope_of("rss_bytes", rows(0.0, MIB, seed=seed)) for seed in range(20)]
    assert sum(one.grows for one in found if one is not None) <= 2


def test_a_few_outliers_do_not_move_it() -> None:
    calm = rows(per_s=0.0, noise=100.0)
    wild = [(at, value * 5 if at // SECOND % 50 == 49 else value) for at, value in calm]
    found = slope_of("rss_bytes", wild)
    assert found is not None
    assert abs(found.per_hour) < 0.1


def test_the_warm_up_is_left_out() -> None:
    settled = [(at, value - (30 * MIB if at < 30 * SECOND else 0)) for at, value in rows(0.0, 100.0)]
    found = slope_of("rss_bytes", settled)
    assert found is not None
    assert abs(found.per_hour) < 0.1


def test_of_two_hours_the_first_one_is_left_out() -> None:
    filling = [(at, value + MIB * min(at // SECOND, 2400) / 12) for at, value in rows(0.0, 100.0, seconds=7200)]
    found = slope_of("rss_bytes", filling)
    assert found is not None
    assert abs(found.per_hour) < 0.1


def test_too_few_points_say_nothing() -> None:
    assert slope_of("fds", [(at * SECOND, 60.0) for at in range(5)]) is None
    assert slope_of("fds", []) is None


def test_the_slope_is_the_median_of_all_pairs() -> None:
    x, y = np.array([0.0, 1.0, 2.0, 4.0]), np.array([0.0, 1.0, 5.0, 4.0])
    pairs = [(y[j] - y[i]) / (x[j] - x[i]) for i in range(4) for j in range(i + 1, 4)]
    assert theil_sen(x, y)[0] == np.median(pairs)
