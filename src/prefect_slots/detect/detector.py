"""What looks at one kind of resource: the protocol, those shipped here, and those that other packages bring.

A package brings one by an entry point of the group `prefect_slots.detectors`, called as the resource it looks for. That
it is installed is enough; `[detectors.<name>]` in the configuration hands it options, or switches it off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, Protocol, cast, get_args, get_origin, get_type_hints

from prefect_slots.detect.gpu.nvml import Nvml, load_nvml
from prefect_slots.model.declaration import GpuRules
from prefect_slots.model.finding import UNPRINTABLE, Finding
from prefect_slots.model.resource import CPUS, GPU_MEM, LICENSE_PREFIX, MEM, Resource, check_resource_name


@dataclass(frozen=True, kw_only=True)
class Sight:
    """One place of a resource beside what became of it, for people.

    Attributes:
        key: The cell's key, also of one that is not offered.
        found: What was seen there, before anything is taken off; `None` where nothing looked or could look.
        declared: What a person wrote down; `None` where nobody did.
        offered: What tasks may take; `None` if nothing.
        why: What lies between.
    """

    resource: str
    key: str
    unit: str
    label: str = ""
    found: int | None = None
    declared: int | None = None
    offered: int | None = None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer of one probe.

    Attributes:
        unknown: Resources whose cells could not all be read. One may be in `resources` too: its listed cells are true,
            and cells that are not listed may still exist.
        unknown_cells: Keys of cells that exist but could not be read now.
        lost: Resources of which every cell that is not listed is broken or gone; they are in `unknown` too.
        lost_cells: Keys of cells that are broken; they are in `unknown_cells` too.
        sights: What was looked at, where it is not simply what `resources` lists.
    """

    resources: tuple[Resource, ...] = ()
    findings: tuple[Finding, ...] = ()
    unknown: frozenset[str] = field(default_factory=frozenset[str])
    unknown_cells: frozenset[str] = field(default_factory=frozenset[str])
    lost: frozenset[str] = field(default_factory=frozenset[str])
    lost_cells: frozenset[str] = field(default_factory=frozenset[str])
    sights: tuple[Sight, ...] = ()


def check_answer(value: object) -> Answer:
    """Return what another package answered, if it is an `Answer` down to its last field.

    Raises:
        TypeError: for anything else: it would fail later, where nobody could tell whose mistake it is.
    """
    if not isinstance(value, Answer):
        raise TypeError(f"it answered {type(value).__name__} instead of Answer")
    for mistake in _mistakes(value, Answer, "its answer"):
        raise TypeError(mistake)
    return value


def _mistakes(value: Any, kind: Any, at: str) -> Iterator[str]:
    """Yield what is not as `kind` says: a dataclass, a tuple or set of one kind, a choice of several, or a class."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is UnionType:
        if all(any(_mistakes(value, each, at)) for each in args):
            yield f"{at} is {value!r}"
    elif origin is Literal:
        if value not in args:
            yield f"{at} is {value!r}, not one of {', '.join(args)}"
    elif not isinstance(value, origin or kind) or (kind is int and isinstance(value, bool)):
        yield f"{at} is {type(value).__name__} instead of {(origin or kind).__name__}"
    elif kind is str and UNPRINTABLE.search(value):
        yield f"{at} cannot be printed: {value!a}"
    elif origin is not None:
        for place, each in enumerate(value):
            yield from _mistakes(each, args[0], f"{at}[{place}]")
    elif is_dataclass(kind):
        for name, hint in _hints(kind).items():
            yield from _mistakes(getattr(value, name), hint, f"{at}.{name}")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


GROUP: Final = "prefect_slots.detectors"

_NAMED_HERE: Final = frozenset({GPU_MEM, MEM, CPUS})


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a detector may look at.

    Attributes:
        root: The folder that stands for `/`.
        env: The environment that tasks will run in.
        options: What `[detectors.<name>]` says, but for `enabled`.
        gpus: Which cards to leave out, and what to keep free on each.
        load: Gives NVIDIA's binding of NVML.
    """

    root: Path = Path("/")
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    gpus: GpuRules = field(default_factory=GpuRules)
    load: Callable[[], Nvml] = load_nvml


class Detector(Protocol):
    """Looks at one kind of resource.

    Attributes:
        resources: Names of all that it may ever find. They are unknown when it fails, so that what was registered
            before stays.
    """

    @property
    def resources(self) -> frozenset[str]: ...  # noqa: D102

    def detect(self, scene: Scene) -> Answer:
        """Look, and say what there is, what there is to know about it, and what could not be read."""
        ...


@dataclass(frozen=True)
class Installed:
    """The detectors that other packages bring, by name, and what is wrong with those that cannot be used."""

    detectors: Mapping[str, Detector] = field(default_factory=dict[str, Detector])
    failed: Mapping[str, Answer] = field(default_factory=dict[str, Answer])


def query_installed() -> Installed:
    """Load what installed packages bring. Never raises: one that cannot be loaded is an answer."""
    detectors: dict[str, Detector] = {}
    failed: dict[str, Answer] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            detectors[entry.name] = _load(entry)
        except BaseException as error:
            # One that calls `sys.exit` must end nothing; no signal is raised in the thread in which this is called.
            failed[entry.name] = failure_of(entry.name, error, frozenset({entry.name}))
    return Installed(detectors, failed)


def names_installed() -> tuple[str, ...]:
    """Return what the detectors that packages bring are called, without loading any."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


def _load(entry: EntryPoint) -> Detector:
    found = entry.load()
    detector = found() if isinstance(found, type) else found
    if not callable(getattr(detector, "detect", None)) or not hasattr(detector, "resources"):
        raise TypeError(f"{entry.value} has no `resources` and `detect`")
    return cast("Detector", detector)


def failure_of(name: str, error: BaseException, resources: frozenset[str]) -> Answer:
    """Return the answer that stands for a detector that failed."""
    finding = Finding(
        subject=name,
        problem=f"its detector failed: {type(error).__name__}: {error}",
        remedy=f"tell whoever made it; until then set enabled = false under [detectors.{name}]",
        severity="error",
    )
    return Answer(unknown=resources, findings=(finding,))


def hanging_of(name: str, detector: Detector, words: str) -> Answer:
    """Return the answer that stands for a detector that does not answer."""
    try:
        resources = _looked_for(detector) or frozenset({name})
    except Exception:
        resources = frozenset({name})
    finding = Finding(
        subject=name,
        problem=f"its detector {words}",
        remedy="what was registered before stays; see the kernel log, or whether what it looks at lies on a network",
        severity="error",
    )
    return Answer(unknown=resources, findings=(finding,))


def run(name: str, detector: Detector, scene: Scene) -> Answer:
    """Let a detector look; whatever it does wrong becomes a finding, and leaves unknown what it looks for."""
    resources = frozenset[str]()
    try:
        resources = _looked_for(detector)
        answer = check_answer(detector.detect(scene))
        listed = [resource.name for resource in answer.resources]
        named = {*listed, *answer.unknown}
        if len(set(listed)) < len(listed):
            raise ValueError("it answered for a resource twice")
        if not named <= resources:
            raise ValueError(f"it answered for {', '.join(sorted(named - resources))}, which it does not look for")
        for resource in named - _NAMED_HERE:
            if not resource.startswith(LICENSE_PREFIX):
                check_resource_name(resource)
    except BaseException as error:
        return failure_of(name, error, resources or frozenset({name}))
    return answer


def _looked_for(detector: Detector) -> frozenset[str]:
    told = cast("Any", detector.resources)
    # The letters of a text are no names of resources.
    if isinstance(told, str) or not all(isinstance(name, str) for name in told):
        raise TypeError("its `resources` are no set of names")
    return frozenset(detector.resources)
