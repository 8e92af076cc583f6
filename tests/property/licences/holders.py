"""People who hold seats, with names as odd as vendors print them; and lines that no vendor prints."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

SECRET = "Zaphod"
"""Part of every user's name, so that a name that leaks is found."""

ODD = "abzAZ059 .-_'\"$`\\@#;,()/:[]éß"
HOSTS = st.sampled_from(["ws-1", "ws-10", "gpu-1.lab.example", "PC_7", "10.0.0.7"])
FEATURES = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,8}", fullmatch=True)
GARBAGE = st.sampled_from(["<html>", "Segmentation fault", "!! 7 of 9", "\x00\x01\x02", "x" * 5000, "Zaphod has it"])


@dataclass(frozen=True)
class Holder:
    user: str
    host: str
    count: int
    lingering: int = 0
    display: str = ""


def users(alphabet: str = ODD) -> st.SearchStrategy[str]:
    """Names without spaces at their ends."""
    return st.text(alphabet, max_size=8).map(lambda text: f"{SECRET}{text}".strip())


def holders(alphabet: str = ODD, most: int = 50) -> st.SearchStrategy[Holder]:
    """Holders of at least one seat each."""
    return st.builds(Holder, user=users(alphabet), host=HOSTS, count=st.integers(1, most))
