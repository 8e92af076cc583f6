"""The protocol of detectors, their answers, and the detectors of other packages.

Another package offers a detector by an entry point of the group `prefect_slots.detectors`, named after its resource. An
installed detector is used; `[detectors.<name>]` in the configuration passes options to it, or switches it off.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Protocol, cast, get_args, get_origin, get_type_hints

from prefect_slots.detect.gpu.nvml import Nvml, load_nvml
from prefect_slots.model import LICENSE_PREFIX, UNPRINTABLE, Cell, Finding, GpuRules, Resource, check_resource_name

GROUP = "prefect_slots.detectors"

# GPUs that no process keeps awake take seconds each to answer.
DETECT_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Sight:
    """An explanation of one cell, for people: the amounts on the way from detection to offer.

    Attributes:
        key: The cell's key, also of a cell that is not offered; `"0"` for the only cell of a resource.
        found: Detected amount before deductions; `None` if nothing was detected.
        declared: Declared amount; `None` without a declaration.
        offered: Amount for tasks; `None` if the cell is not offered.
        why: Reason of the difference.
    """

    resource: str
    key: str = "0"
    unit: str
    label: str = ""
    found: int | None = None
    declared: int | None = None
    offered: int | None = None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer of one detector.

    Attributes:
        unknown: Resources of which some cells could not be read. A resource may be in `resources` too: its listed cells
            are true, and others may exist.
        unknown_cells: Keys of cells that exist but could not be read now.
        lost: Resources of which every unlisted cell is broken or gone; they are in `unknown` too.
        lost_cells: Keys of broken cells; they are in `unknown_cells` too.
        sights: Explanations of cells, where `resources` alone does not explain them.
    """

    resources: tuple[Resource, ...] = ()
    findings: tuple[Finding, ...] = ()
    unknown: frozenset[str] = field(default_factory=frozenset[str])
    unknown_cells: frozenset[str] = field(default_factory=frozenset[str])
    lost: frozenset[str] = field(default_factory=frozenset[str])
    lost_cells: frozenset[str] = field(default_factory=frozenset[str])
    sights: tuple[Sight, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The surroundings that a detector may read.

    Attributes:
        root: The folder that stands for `/`.
        env: The environment in which tasks will run.
        options: The table `[detectors.<name>]` without `enabled`.
        gpus: The table `[gpus]`: excluded GPUs and the headroom of each.
        load: Imports NVIDIA's binding of NVML.
    """

    root: Path = Path("/")
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    gpus: GpuRules = field(default_factory=GpuRules)
    load: Callable[[], Nvml] = load_nvml


class Detector(Protocol):
    """A detector of one kind of resource.

    Attributes:
        resources: Names of all resources that it may ever find. If it fails they are unknown, so that their
            registration stays as it is.
    """

    @property
    def resources(self) -> frozenset[str]: ...  # noqa: D102

    def detect(self, scene: Scene) -> Answer:
        """Return the resources, the findings for people, and the names of everything that could not be read."""
        ...


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One run of a detector, with the findings for its failures.

    Attributes:
        name: Subject of the findings: the detector's name in the configuration, or a resource for an own detector.
        label: Name of the run, for people; while a run of one label hangs, no other is started.
        seconds: Time limit.
        own: The detector cannot be switched off or replaced, so its failure is a mistake of this package.
    """

    name: str
    detector: Detector
    scene: Scene = field(default_factory=Scene)
    label: str = ""
    seconds: float = DETECT_SECONDS
    own: bool = False

    def run(self) -> Answer:
        """Return the detector's answer; any mistake of the detector becomes a finding and makes its resources unknown.

        The answer is checked down to its last field: otherwise it would fail later, without a hint of its maker.
        """
        try:
            resources = _resources_of(self.detector)
            answer = self.detector.detect(self.scene)
            _check(answer, resources)
        except BaseException as error:
            # A detector that calls `sys.exit` must end nothing; no signal is raised in the thread of a probe.
            return self.failed(error)
        return answer

    def failed(self, error: BaseException) -> Answer:
        """Return the answer of a detector that raised."""
        if not self.own:
            return failure_of(self.name, error, self._known())
        problem = f"looking at {self.label} failed: {type(error).__name__}: {error}"
        remedy = "please report this; until then declare the resource in prefect-slots.toml"
        return unreadable(self.name, problem, remedy, self._known())

    def hanging(self, words: str) -> Answer:
        """Return the answer of a detector that did not answer in time."""
        problem, hint = f"its detector {words}", "or whether what it looks at lies on a network"
        if self.own:
            problem, hint = f"looking at {self.label} {words}", "a driver that hangs may need a reboot"
        remedy = f"what was registered before stays; see the kernel log, {hint}"
        return unreadable(self.name, problem, remedy, self._known())

    def _known(self) -> frozenset[str]:
        with suppress(Exception):
            return _resources_of(self.detector) or frozenset({self.name})
        return frozenset({self.name})


def failure_of(name: str, error: BaseException, resources: frozenset[str]) -> Answer:
    """Return the answer in place of a detector of that name that raised, or could not be loaded."""
    problem = f"its detector failed: {type(error).__name__}: {error}"
    remedy = f"tell whoever made it; until then set enabled = false under [detectors.{name}]"
    return unreadable(name, problem, remedy, resources)


def unreadable(subject: str, problem: str, remedy: str, resources: frozenset[str]) -> Answer:
    """Return the answer that makes these resources unknown, with an error as its only finding."""
    finding = Finding(subject=subject, problem=problem, remedy=remedy, severity="error")
    return Answer(unknown=resources, findings=(finding,))


def single(sight: Sight, origin: str, findings: Iterable[Finding] = ()) -> Answer:
    """Return the answer of one resource with one cell, as `sight` explains it; no resource if it offers nothing."""
    if sight.offered is None:
        return Answer(findings=tuple(findings), sights=(sight,))
    cell = Cell(key=sight.key, capacity=sight.offered, label=sight.label)
    resource = Resource(name=sight.resource, unit=sight.unit, cells=(cell,), origin=origin)
    return Answer(resources=(resource,), findings=tuple(findings), sights=(sight,))


def _resources_of(detector: Detector) -> frozenset[str]:
    resources = cast("Any", detector.resources)
    # A string is iterable too, but its letters are no names of resources.
    if isinstance(resources, str) or not all(isinstance(name, str) for name in resources):
        raise TypeError("its `resources` are no set of names")
    return frozenset(resources)


def _check(answer: object, resources: frozenset[str]) -> None:
    if not isinstance(answer, Answer):
        raise TypeError(f"it answered {type(answer).__name__} instead of Answer")
    for mistake in _mistakes(answer, Answer, "its answer"):
        raise TypeError(mistake)
    listed = [resource.name for resource in answer.resources]
    named = {*listed, *answer.unknown}
    if len(set(listed)) < len(listed):
        raise ValueError("it answered for a resource twice")
    if not named <= resources:
        raise ValueError(f"it answered for {', '.join(sorted(named - resources))}, which it does not look for")
    for resource in named:
        if not resource.startswith(LICENSE_PREFIX):
            check_resource_name(resource)


def _mistakes(value: Any, kind: Any, at: str) -> Iterator[str]:
    """Yield the deviations from the type `kind`: a dataclass, a tuple or set of one type, a union, or a class."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is UnionType:
        if all(any(_mistakes(value, each, at)) for each in args):
            yield f"{at} is {value!r}"
    elif origin is Literal:
        if value not in args:
            yield f"{at} is {value!r}, not one of {', '.join(args)}"
    # `True` is an `int` to Python, but no capacity.
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


@dataclass(frozen=True)
class Installed:
    """The detectors of other packages by name, and answers in place of those that cannot be loaded."""

    detectors: Mapping[str, Detector] = field(default_factory=dict[str, Detector])
    failed: Mapping[str, Answer] = field(default_factory=dict[str, Answer])


def query_installed() -> Installed:
    """Load the detectors of installed packages. Never raises: a failure to load is an answer."""
    detectors: dict[str, Detector] = {}
    failed: dict[str, Answer] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            detectors[entry.name] = _load(entry)
        except BaseException as error:
            failed[entry.name] = failure_of(entry.name, error, frozenset({entry.name}))
    return Installed(detectors, failed)


def names_installed() -> tuple[str, ...]:
    """Return the names of the detectors of installed packages, without an import of any."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


def _load(entry: EntryPoint) -> Detector:
    found = entry.load()
    detector = found() if isinstance(found, type) else found
    if not callable(getattr(detector, "detect", None)) or not hasattr(detector, "resources"):
        raise TypeError(f"{entry.value} has no `resources` and `detect`")
    return cast("Detector", detector)
