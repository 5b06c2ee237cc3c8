"""What reduced prices are."""

from __future__ import annotations

import unittest

from till.price import reduced


class Reduced(unittest.TestCase):
    def test_nothing_off_is_the_price(self) -> None:
        assert reduced(1999, 0) == 1999

    def test_everything_off_is_nothing(self) -> None:
        assert reduced(1999, 100) == 0

    def test_half_a_cent_is_rounded_up(self) -> None:
        assert reduced(50, 25) == 38

    def test_less_than_half_a_cent_is_rounded_down(self) -> None:
        assert reduced(999, 15) == 849
