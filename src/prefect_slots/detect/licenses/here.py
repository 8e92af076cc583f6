"""This machine and its user, as the locks and reservations of licenses name them. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

# The address of a network interface without its separators, as most locks spell it.
_ADDRESS = re.compile(r"[0-9a-f]{12}")
_WORDS = re.compile(r"[0-9a-z._:-]+")
_USER = re.compile(r'.*\buser(?:name)?="?(?P<name>[^"]*)"?', re.IGNORECASE)


def names_user(lock: str) -> bool:
    """Return true if a lock names a user: personal data."""
    return _USER.fullmatch(lock) is not None


@dataclass(frozen=True, kw_only=True)
class Here:
    """The identities of this machine and its user in locks and reservations, in lower case.

    Attributes:
        identities: Host names and network addresses.
        users: The user of this process.
    """

    identities: frozenset[str] = field(default_factory=frozenset[str])
    users: frozenset[str] = field(default_factory=frozenset[str], repr=False)

    def is_meant_by(self, lock: str) -> bool:
        """Return true if a lock in a vendor's spelling (`HOSTNAME=gpu-1`, `0019d2ab34cd`) names this machine."""
        words = _WORDS.findall(lock.lower())
        addresses = {bare for bare in map(_plain, words) if _ADDRESS.fullmatch(bare)}
        return not self.identities.isdisjoint({*words, *addresses, *(word.partition(".")[0] for word in words)})

    def is_user_of(self, lock: str) -> bool:
        """Return true if a lock to a user (`USER=mia`) names this process's."""
        found = _USER.fullmatch(lock)
        return found is not None and found["name"].casefold() in self.users

    def is_named(self, kind: str, pattern: str) -> bool:
        """Return true if a name of a user or of a host, which may hold `*`, is one of ours."""
        wanted = pattern.casefold()
        if kind == "user":
            return any(fnmatchcase(user, wanted) for user in self.users)
        hosts = {wanted, wanted.partition(".")[0]} if not wanted.replace(".", "").isdigit() else {wanted}
        return any(fnmatchcase(own, host) for own in self.identities for host in hosts)


def identities(names: Iterable[str], addresses: Iterable[str], users: Iterable[str] = ()) -> Here:
    """Return the identities of the machine with these host names and network addresses, and of its users."""
    hosts = {name.lower() for name in names if name}
    # Every machine has the loopback's addresses, so that they tell none apart.
    own = {_plain(address.lower()) for address in addresses} - {"000000000000", "127.0.0.1", ""}
    return Here(
        identities=frozenset(hosts | {name.partition(".")[0] for name in hosts} | own),
        users=frozenset(user.casefold() for user in users if user),
    )


def _plain(address: str) -> str:
    return address.replace(":", "").replace("-", "")
