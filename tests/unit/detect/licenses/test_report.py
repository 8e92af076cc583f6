"""What is counted, unlimited and unknown together, and what never shows in print."""

from __future__ import annotations

from datetime import date

import pytest

from prefect_slots.detect.licenses.output import parse_expiry, shape
from prefect_slots.detect.licenses.report import (
    Checkout,
    Counted,
    Feature,
    Reading,
    Unknown,
    Unlimited,
    Usage,
    combined,
)

FIVE = Counted(total=5, used=2, reserved=1, queued=3, expires=date(2027, 1, 2))
TWO = Counted(total=2, used=1, expires=date(2027, 1, 1))
LOST = Unknown(reason="lost")


@pytest.mark.parametrize(
    ("usages", "together"),
    [
        ((FIVE,), FIVE),
        ((FIVE, TWO), Counted(total=7, used=3, reserved=1, queued=3, expires=date(2027, 1, 1))),
        ((FIVE, LOST), LOST),
        ((Unlimited(), LOST), LOST),
        ((Unlimited(), TWO), TWO),
        ((Unlimited(), Unlimited(expires=date(2027, 3, 1))), Unlimited(expires=date(2027, 3, 1))),
        ((), Unknown(reason="the server tells nothing of it")),
    ],
)
def test_what_is_missing_makes_a_sum_unknown_and_what_is_counted_limits_most(
    usages: tuple[Usage, ...], together: Usage
):
    assert combined(usages) == together


def test_no_name_of_a_person_or_their_computer_is_in_a_repr():
    checkout = Checkout(user="ann", host="annspc", display="annspc:0", count=3)
    feature = Feature(name="aa_r", usage=FIVE, checkouts=(checkout,))
    assert repr(checkout) == "Checkout(count=3, lingering=0)"
    assert "ann" not in repr(Reading(features=(feature,)))


@pytest.mark.parametrize(
    ("user", "host", "ours"),
    [
        ("ann", "gpu-1", True),
        ("Ann", "GPU-1.lab.example", True),
        ("ann", "gpu-10", False),
        ("ann", "gpu", False),
        ("an", "gpu-1", False),
        ("bob", "gpu-1", False),
    ],
)
def test_a_checkout_belongs_to_a_user_on_a_host_whatever_the_domain_and_the_case(user: str, host: str, ours: bool):
    assert Checkout(user="ann", host="gpu-1.lab").belongs_to(user, host) is ours
    assert Checkout(user="ann", host="gpu-1", display="/dev/tty").belongs_to(user, host) is ours


def test_a_user_with_spaces_is_told_though_the_words_are_cut_wrongly():
    assert Checkout(user="Ann", host="Lee", display="pc7 :0").belongs_to("ann lee", "pc7")


def test_a_feature_is_found_in_any_case_where_that_leaves_one():
    upper, lower = Feature(name="AA", usage=FIVE), Feature(name="aa", usage=TWO)
    both = Reading(features=(upper, lower))
    assert (both.find("aa"), both.find("AA"), both.find("Aa")) == (lower, upper, None)
    assert Reading(features=(upper,)).find("aa") == upper


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("31-dec-2026", date(2026, 12, 31)),
        ("1-JAN-27", date(2027, 1, 1)),
        ("01-jan-99", date(1999, 1, 1)),
        ("1-jan-0", None),
        ("01-jan-0000", None),
        ("1-jan-00", None),
        ("permanent", None),
        ("permanent(no expiration date)", None),
        ("License has no expiration date.", None),
        ("NONE", None),
        ("2026-12-31", date(2026, 12, 31)),
        ("2026-12-31 23:59:59", date(2026, 12, 31)),
        ("12/30/2026", date(2026, 12, 30)),
        ("3/4/27 11:59:00 PM", date(2027, 3, 4)),
        ("Fri Dec  4 23:59:59 2026", date(2026, 12, 4)),
    ],
)
def test_every_vendors_day_of_expiry_is_read(text: str, day: date | None):
    assert parse_expiry(text) == day


@pytest.mark.parametrize("text", ["", "soon", "31-feb-2026", "1-foo-2026", "2026-13-01", "13/13/2026", "1-jan-20266"])
def test_what_is_no_day_is_refused(text: str):
    with pytest.raises(ValueError):
        parse_expiry(text)


def test_the_shape_of_a_line_says_nothing_of_it():
    assert shape("  José-7 pc_1 /dev/tty") == "xxxx-0 xx_0 /xxx/xxx"
    assert shape("a" * 100) == "x" * 60 + "..."
