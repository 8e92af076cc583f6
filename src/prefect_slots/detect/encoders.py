"""NVIDIA's video encoder: sessions in use as NVML tells, and the most that there may be, which only a person knows.

NVML does not tell the maximum: consumer drivers allow a number per machine that has changed over the years, and
professional GPUs as many as they can bear.
"""

from collections.abc import Callable
from dataclasses import dataclass

from prefect_slots.detect.detector import Answer, Scene, Sight, single, unreadable
from prefect_slots.detect.gpu.nvml import NO_NVIDIA_HERE, Nvml, ask, error_code, failure_of, opened
from prefect_slots.model import EncoderSessions, Finding


@dataclass(frozen=True)
class EncoderDetector:
    """Detector of encoder sessions: a declared number, checked against the GPUs."""

    declared: EncoderSessions

    @property
    def resources(self) -> frozenset[str]:
        """The one resource that stands for the sessions."""
        return frozenset({self.declared.name})

    def detect(self, scene: Scene) -> Answer:
        """Ask every GPU for its open sessions."""
        try:
            sessions = query_encoders(scene.load)
        except Exception as error:
            failure = failure_of(error)
            problem = f"encoders cannot be read: {failure.words}"
            return unreadable(self.declared.name, problem, failure.remedy, self.resources)
        return interpret_encoders(self.declared, sessions)


def query_encoders(load: Callable[[], Nvml]) -> tuple[int, ...]:
    """Return the sessions in use on each GPU that has an encoder; none where there is no driver.

    Raises:
        Exception: any error of the binding, if a GPU cannot be asked.
    """
    started = False
    try:
        with opened(load) as nvml:
            started = True
            handles = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
            stats = [ask(nvml.nvmlDeviceGetEncoderStats, handle, otherwise=None) for handle in handles]
            return tuple(told[0] for told in stats if told is not None)
    except Exception as error:
        # The same codes of a later call mean a GPU that cannot be asked, not that there is none.
        if started or error_code(error) not in NO_NVIDIA_HERE:
            raise
        return ()


def interpret_encoders(declared: EncoderSessions, sessions: tuple[int, ...]) -> Answer:
    """Return one cell of the declared sessions, because the limit is the machine's."""
    if not sessions:
        problem = "no card here has a video encoder"
        remedy = f"remove [resources.{declared.name}]; compute cards such as the A100 have none"
        return Answer(findings=(Finding(subject=declared.name, problem=problem, remedy=remedy),))
    findings: tuple[Finding, ...] = ()
    if sum(sessions) > declared.most:
        problem = f"declared {declared.most} sessions, but {sum(sessions)} are open now"
        remedy = f"raise encoder_sessions under [resources.{declared.name}] if that many work"
        findings = (Finding(subject=declared.name, problem=problem, remedy=remedy),)
    sight = Sight(
        resource=declared.name,
        unit="sessions",
        declared=declared.most,
        offered=declared.most,
        why=f"{sum(sessions)} open now on {len(sessions)} with an encoder",
    )
    return single(sight, declared.source, findings)
