"""Whatever state a FlexNet server is in, and however oddly `lmstat` prints it, its counts are read as they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st
from tests.property.effort import effort
from tests.property.licenses.holders import GARBAGE, HOSTS, MONTHS, ODD, SECRET, Holder, holders, users

from prefect_slots.detect.licenses.flexnet import parse_flexnet
from prefect_slots.detect.licenses.report import Counted, Reading, Unknown, Unlimited, Usage

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,8}", fullmatch=True)
DAYS = st.dates(date(2020, 1, 1), date(2099, 12, 31))
NEVER = ["1-jan-0", "01-jan-0000", "permanent(no expiration date)", "permanent"]


@dataclass(frozen=True)
class Licence:
    """One licence of a feature and the list below it."""

    expires: date | str | None
    floats: bool
    held: tuple[Holder, ...]
    queued: tuple[Holder, ...]
    reserved: tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """What one daemon says of one feature."""

    name: str
    kind: str
    total: int
    used: int
    licences: tuple[Licence, ...]


@st.composite
def lasting_holders(draw: st.DrawFn) -> Holder:
    holder = draw(holders())
    display = draw(st.just("") | st.just(":0") | st.text(ODD, min_size=1, max_size=9).map(str.strip))
    return replace(holder, display=display, lingering=draw(st.just(0) | st.integers(1, 10**6)))


LICENCES = st.builds(
    Licence,
    expires=st.none() | DAYS | st.sampled_from(NEVER),
    floats=st.booleans(),
    held=st.lists(lasting_holders(), max_size=3).map(tuple),
    queued=st.lists(holders(), max_size=2).map(tuple),
    reserved=st.lists(st.integers(1, 9), max_size=2).map(tuple),
)
BLOCKS = st.builds(
    Block,
    name=NAMES,
    kind=st.sampled_from(["counted"] * 5 + ["uncounted", "unsupported", "unheard", "unheard below"]),
    total=st.integers(0, 10**6),
    used=st.integers(0, 10**6),
    licences=st.lists(LICENCES, max_size=2).map(tuple),
)


@dataclass(frozen=True)
class State:
    blocks: tuple[Block, ...]
    servers: tuple[str, ...]
    dead: frozenset[str]


@st.composite
def states(draw: st.DrawFn) -> State:
    servers = draw(st.sampled_from([("lic-a",), ("lic-a", "lic-b", "lic-c")]))
    dead = draw(st.sets(st.sampled_from(servers), max_size=len(servers) - 1))
    return State(tuple(draw(st.lists(BLOCKS, max_size=5))), servers, frozenset(dead))


@dataclass
class Printer:
    """Prints a state as `lmstat` does, with the oddities that Hypothesis draws."""

    data: st.DataObject

    def one_of(self, *choices: str) -> str:
        return self.data.draw(st.sampled_from(choices))

    def noun(self) -> str:
        return self.one_of("license", "licenses")

    def lines(self, state: State) -> list[str]:
        text = ["lmutil - Copyright (c) 1989-2021 Flexera. All Rights Reserved."]
        text += ["Flexible License Manager status on Mon 11/2/2026 09:15", "[Detecting lmgrd processes...]"]
        text += [f"License server status: {','.join(f'27000@{name}' for name in state.servers)}"]
        text += [f"    License file(s) on {state.servers[0]}: /opt/a b.lic:/opt/c.lic:"]
        for name in state.servers:
            margin = self.one_of("", "    ")
            if name in state.dead:
                text.append(f'{margin}{name}: Cannot connect to license server system. (-15,570:115 "In progress")')
            else:
                text.append(f"{margin}{name}: license server UP{self.one_of('', ' (MASTER)')} v11.18.0")
        text += [f"Vendor daemon status (on {state.servers[0]}):", "   toolsd: UP v11.18.0", "Feature usage info:"]
        return text + [line for block in state.blocks for line in self.block(block)]

    def block(self, block: Block) -> list[str]:
        gap, name = self.one_of(" ", "  "), block.name
        if block.kind == "unheard":
            return [f"Cannot get users of {name}: No such feature exists. (-5,222)"]
        text = [self.head(block, f"Users of {name}:{gap}")]
        if "\n" in text[0]:
            text = text[0].split("\n")
        return text + [line for licence in block.licences for line in self.licence(name, licence)]

    def head(self, block: Block, begun: str) -> str:
        if block.kind == "uncounted":
            return f"{begun}(Uncounted, node-locked)"
        if block.kind == "unsupported":
            return f"{begun}(Error: {block.total} licenses, unsupported by licensed server)"
        if block.kind == "unheard below":
            return f"{begun}Cannot get users of {block.name}: No such feature exists. (-5,222)"
        between = self.one_of("  ", " ", "\n      ")
        return (
            f"{begun}(Total of {block.total} {self.noun()} issued;{between}Total of {block.used} {self.noun()} in use)"
        )

    def licence(self, name: str, licence: Licence) -> list[str]:
        day = licence.expires
        if isinstance(day, date):
            day = f"{self.one_of(str(day.day), f'{day.day:02}')}-{MONTHS[day.month - 1]}-{day.year}"
        expiry = "" if day is None else f", expiry: {day}"
        text = [f'{self.one_of("", "  ")}"{name}" v2026.06, vendor: toolsd{expiry}']
        text += self.data.draw(st.sampled_from([[], ["  vendor_string: a (v1) b"]]))
        locked = f'  {self.one_of("", "uncounted ")}nodelocked license, locked to "ID=1A2B"'
        text.append("  floating license" if licence.floats else locked)
        rows = [self.held(holder) for holder in licence.held]
        rows += [f"{self.who(queue)} queued for {queue.count} {self.noun()}" for queue in licence.queued]
        rows += [self.reserved(count) for count in licence.reserved]
        return text + self.data.draw(st.permutations(rows))

    def who(self, holder: Holder) -> str:
        display = f" {holder.display}" if holder.display else ""
        sub = self.one_of("", " feature=sub")
        handle = self.data.draw(st.integers(1, 10**5))
        return f"    {holder.user} {holder.host}{display}{sub} (v2026.06) (lic-a/27000 {handle})"

    def held(self, holder: Holder) -> str:
        count = f", {holder.count} {self.noun()}" if holder.count > 1 or self.data.draw(st.booleans()) else ""
        linger = f" (linger: {self.one_of('', '12 / ')}{holder.lingering})" if holder.lingering else ""
        pid = self.one_of("", ", PID: 4711", ", PID: 4711 ")
        start = f", start {self.one_of('Mon', 'Thu')} 11/2 {self.one_of('8:01', '23:59', '7:30:12')}"
        return f"{self.who(holder)}{start}{count}{linger}{pid}"

    def reserved(self, count: int) -> str:
        kind, name = self.one_of("HOST", "GROUP", "USER", "HOST_GROUP"), self.data.draw(users())
        indent, plural, handle = self.one_of("\t", "    "), self.one_of("", "s"), self.one_of("", " 901")
        return f"{indent}{count} RESERVATION{plural} for {kind} {name} (lic-a/27000{handle})"


def expected(blocks: list[Block]) -> Usage:
    """What blocks of one name say together."""
    for block in blocks:
        if block.kind == "unsupported":
            return Unknown(reason=f"{block.total} licenses, unsupported by licensed server")
        if block.kind.startswith("unheard"):
            return Unknown(reason="No such feature exists. (-5,222)")
    counted = [block for block in blocks if block.kind == "counted"]
    licences = [licence for block in counted or blocks for licence in block.licences]
    days = [licence.expires for licence in licences if isinstance(licence.expires, date)]
    expires = min(days, default=None)
    if not counted:
        return Unlimited(expires=expires)
    return Counted(
        total=sum(block.total for block in counted),
        used=sum(block.used for block in counted),
        reserved=sum(sum(licence.reserved) for licence in licences),
        queued=sum(holder.count for licence in licences for holder in licence.queued),
        expires=expires,
    )


def compare(state: State, reading: Reading) -> None:
    names = list(dict.fromkeys(block.name for block in state.blocks))
    assert [feature.name for feature in reading.features] == names
    for feature in reading.features:
        blocks = [block for block in state.blocks if block.name == feature.name]
        assert feature.usage == expected(blocks)
        held = [h for block in blocks if block.kind != "unheard" for lic in block.licences for h in lic.held]
        assert feature.checkouts is not None
        assert sorted((c.count, c.lingering) for c in feature.checkouts) == sorted((h.count, h.lingering) for h in held)
        for holder in held:
            assert any(
                c.belongs_to(holder.user, holder.host) and (c.count, c.lingering) == (holder.count, holder.lingering)
                for c in feature.checkouts
            )
    assert SECRET not in repr(reading)


@effort(30)
@given(data=st.data(), state=states())
def test_what_a_server_holds_is_what_is_read(data: st.DataObject, state: State) -> None:
    lines = Printer(data).lines(state)
    blank = data.draw(st.lists(st.integers(0, len(lines)), max_size=4))
    end = data.draw(st.sampled_from(["\n", "\r\n", "\n\n"]))
    for place in sorted(blank, reverse=True):
        # A wrapped count is one line to the eye: no blank line stands inside it.
        if place == len(lines) or not lines[place].startswith("      Total"):
            lines.insert(place, "")
    reading = parse_flexnet(end.join(lines), server="27000@lic-a", checkouts=True)
    compare(state, reading)
    told = [finding.problem for finding in reading.findings if "master" not in finding.problem]
    assert sorted(problem.split(":")[0] for problem in told) == sorted(state.dead)


@effort(30)
@given(data=st.data(), state=states(), garbage=st.lists(GARBAGE, min_size=1, max_size=6))
def test_garbage_between_the_lines_is_told_and_changes_no_count(
    data: st.DataObject, state: State, garbage: list[str]
) -> None:
    lines = Printer(data).lines(state)
    lines = "\n".join(lines).replace(";\n      ", "; ").split("\n")
    for line in garbage:
        lines.insert(data.draw(st.integers(0, len(lines))), line)
    reading = parse_flexnet("\n".join(lines), server="27000@lic-a", checkouts=True)
    compare(state, reading)
    count = "a line of its output was" if len(garbage) == 1 else f"{len(garbage)} lines of its output were"
    assert [f.problem.startswith(f"{count} not understood") for f in reading.findings][-1] is True
    assert (reading.failure is None) is bool(state.blocks)


@effort(200)
@given(text=st.text(ODD + "\n\t", max_size=300), host=HOSTS)
def test_no_text_breaks_the_reader_or_is_read_as_seats(text: str, host: str) -> None:
    reading = parse_flexnet(text, server=host)
    assert reading.features == ()
    assert bool(reading.findings) is (reading.failure is not None) is bool(text.strip())


def test_a_day_printed_is_the_day_read() -> None:
    day = date(2026, 1, 1)
    printed = [day + timedelta(days=step) for step in range(366)]
    texts = [f'Users of a: (Total of 1 license issued; Total of 0 licenses in use)\n"a" v1, vendor: d, expiry: '
             f"{d.day}-{MONTHS[d.month - 1]}-{d.year}" for d in printed]  # fmt: skip
    read = [parse_flexnet(text, server="s").features[0].usage for text in texts]
    assert read == [Counted(total=1, used=0, expires=d) for d in printed]
