"""What is read from a file and from variables, who wins, and the words that each mistake gets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from prefect_slots.errors import ConfigError
from prefect_slots.model.declaration import (
    Declarations,
    DeclaredCard,
    DeclaredLicense,
    DeclaredResource,
    DetectorRules,
    GpuRules,
    HostRules,
    Instruments,
    LicenseServer,
    ScratchSpace,
)
from prefect_slots.model.resource import Scope
from prefect_slots.settings import Settings, load_settings
from prefect_slots.settings.file import choose_file

Write = Callable[[str], Path]

EVERYTHING = """\
[settings]
worker = "gpu-1"
state_dir = "/var/lib/prefect-slots"
coordination = "both"
auto_register = true
max_overtakes = 0
refresh_seconds = 5.5

[gpus]
detect = false
exclude = ["GPU-1a2b"]
ignore = ["Xorg", 1234]
headroom = "512MiB"
[[gpus.card]]
uuid = "GPU-demo-0"
memory = "24GiB"
[[gpus.card]]
uuid = "GPU-demo-1"
memory = 8
name = "small one"

[host]
cpus = 6
mem = "64GiB"
mem_headroom = "4GB"

[license.matlab]
seats = 2
[license."Signal_Toolbox.v2"]
seats = 1
scope = "worker"

[resources.scanner]
capacity = 3
cells = 2
unit = "slides"
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a configuration file and return its path."""

    def write_text(text: str) -> Path:
        path = tmp_path / "slots.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_text


def test_where_to_look_for_a_resource_and_what_a_detector_is_told_are_read(tmp_path: Path):
    file = tmp_path / "slots.toml"
    file.write_text(
        '[resources.a]\ndisk = "/mnt/x/"\nheadroom = "1500MiB"\ncapacity = 7\n'
        '[resources.b]\ndevices = ["/dev/serial/by-id/x"]\nunit = "scale"\n'
        "[detectors.fpga]\nboards = 2\nnames = ['x']\n"
    )
    found = load_settings(file, env={}).declarations
    assert found.watched == (
        ScratchSpace(name="a", folder="/mnt/x", headroom_gib=2, capacity_gib=7),
        Instruments(name="b", patterns=("/dev/serial/by-id/x",), unit="scale"),
    )
    assert found.detectors == (DetectorRules(name="fpga", options={"boards": 2, "names": ["x"]}),)


def test_a_full_file_is_read_into_settings_and_declarations_with_integer_amounts(write: Write):
    path = write(EVERYTHING)
    settings = load_settings(path, env={})
    assert settings == Settings(
        worker="gpu-1",
        state_dir=Path("/var/lib/prefect-slots"),
        coordination="both",
        auto_register=True,
        max_overtakes=0,
        refresh_seconds=5.5,
        source=str(path),
        declarations=Declarations(
            gpus=GpuRules(
                detect=False,
                exclude=("GPU-1a2b",),
                ignore=("Xorg", 1234),
                headroom_mib=512,
                cards=(
                    DeclaredCard(uuid="GPU-demo-0", memory_mib=24576),
                    DeclaredCard(uuid="GPU-demo-1", memory_mib=8192, name="small one"),
                ),
            ),
            host=HostRules(cpus=6, mem_mib=65536, mem_headroom_mib=3815),
            licenses=(
                DeclaredLicense(feature="Signal_Toolbox.v2", seats=1, scope=Scope.WORKER),
                DeclaredLicense(feature="matlab", seats=2, scope=Scope.FLEET),
            ),
            resources=(DeclaredResource(name="scanner", capacity=3, cells=2, unit="slides"),),
            source=str(path),
        ),
    )


def test_licences_that_a_server_counts_are_read_with_the_documented_defaults(write: Write):
    text = """\
[license.ansys]
type = "flexnet"
server = "27000@lic1,27000@lic2,27000@lic3"
feature = "aa_r"
headroom = 1
poll_seconds = 30
timeout = 2.5
scope = "worker"
command = "/opt/lm/lmutil"
[license.converge]
type = "rlm"
server = "5053@lic4"
[license.tools]
type = "lmx"
server = "6200@lic5"
features = ["Solver", "Mesher"]
command = ["ssh", "lic5", "lmxendutil"]
[license.named]
type = "lmx"
server = "6200@lic5"
features = { viewer = "View:3D", editor = "Edit" }
"""
    found = load_settings(write(text), env={}).declarations
    assert found.licenses == ()
    assert found.license_servers == (
        LicenseServer(
            vendor="flexnet",
            server="27000@lic1,27000@lic2,27000@lic3",
            command=("/opt/lm/lmutil",),
            features=(("ansys", "aa_r"),),
            headroom=1,
            poll_seconds=30,
            timeout=2.5,
            scope=Scope.WORKER,
        ),
        LicenseServer(vendor="rlm", server="5053@lic4", features=(("converge", "converge"),)),
        LicenseServer(vendor="lmx", server="6200@lic5", features=(("editor", "Edit"), ("viewer", "View:3D"))),
        LicenseServer(
            vendor="lmx",
            server="6200@lic5",
            command=("ssh", "lic5", "lmxendutil"),
            features=(("Mesher", "Mesher"), ("Solver", "Solver")),
        ),
    )


def test_no_file_and_no_variables_give_the_documented_defaults(tmp_path: Path):
    path = tmp_path / "empty.toml"
    path.touch()
    settings = load_settings(path, env={})
    assert settings == Settings(source=str(path), declarations=Declarations(source=str(path)))
    assert (settings.worker, settings.state_dir, settings.coordination) == (None, None, "auto")
    assert (settings.max_overtakes, settings.refresh_seconds, settings.auto_register) == (20, 30, False)


def test_settings_made_by_hand_read_no_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREFECT_SLOTS_COORDINATION", "off")
    assert Settings().coordination == "auto"
    assert load_settings(env=os.environ, cwd=Path("/nonexistent")).coordination == "off"


def test_auto_means_as_detected(write: Write):
    host = load_settings(write('[host]\ncpus = "auto"\nmem = "auto"\nmem_headroom = 0\n'), env={}).declarations.host
    assert host == HostRules()


def test_every_variable_wins_over_the_file(write: Write):
    env = {
        "PREFECT_SLOTS_WORKER": "other",
        "PREFECT_SLOTS_STATE_DIR": "/srv/slots",
        "PREFECT_SLOTS_TRUST_FILE_SYSTEM": "virtiofs",
        "PREFECT_SLOTS_PARTITION": "left",
        "PREFECT_SLOTS_EXCLUSIVE": "true",
        "PREFECT_SLOTS_MEETING_DIR": "/srv/meeting",
        "PREFECT_SLOTS_COORDINATION": "local",
        "PREFECT_SLOTS_AUTO_REGISTER": "false",
        "PREFECT_SLOTS_MAX_OVERTAKES": "7",
        "PREFECT_SLOTS_FORGET_AFTER": "0.5",
        "PREFECT_SLOTS_REFRESH_SECONDS": "60",
        "PREFECT_SLOTS_DETECT_SECONDS": "5",
        "PREFECT_SLOTS_WHEN_SERVER_IS_AWAY": "wait",
        "PREFECT_SLOTS_ON_LEASE_LOST": "fail",
        "PREFECT_SLOTS_USE_SECONDS": "0.5",
        "PREFECT_SLOTS_HOLD_SECONDS": "0",
        "PREFECT_SLOTS_STALE_AFTER": "9",
        "PREFECT_SLOTS_ENFORCE": "kill",
        "PREFECT_SLOTS_SHOW_HOLDERS": "hosts",
        "PREFECT_SLOTS_GRANT": "set by prefect-slots for child processes",
        "SOMETHING_ELSE": "1",
    }
    settings = load_settings(write(EVERYTHING), env=env)
    assert {
        key: value for key, value in vars(settings).items() if key not in {"source", "declarations", "digest", "named"}
    } == {
        "worker": "other",
        "state_dir": Path("/srv/slots"),
        "trust_file_system": "virtiofs",
        "partition": "left",
        "exclusive": True,
        "meeting_dir": Path("/srv/meeting"),
        "coordination": "local",
        "auto_register": False,
        "max_overtakes": 7,
        "forget_after": 0.5,
        "refresh_seconds": 60.0,
        "detect_seconds": 5.0,
        "when_server_is_away": "wait",
        "on_lease_lost": "fail",
        "use_seconds": 0.5,
        "hold_seconds": 0.0,
        "stale_after": 9,
        "enforce": "kill",
        "show_holders": "hosts",
    }


@pytest.mark.parametrize(
    ("file", "env", "worker"),
    [
        ("", {"WORKER_ID": "id"}, "id"),
        ('worker = "file"', {"WORKER_ID": "id"}, "file"),
        ('worker = "file"', {"WORKER_ID": "id", "PREFECT_SLOTS_WORKER": "variable"}, "variable"),
        ("", {"WORKER_ID": "id", "PREFECT_SLOTS_WORKER": "variable"}, "variable"),
        ("", {"WORKER_ID": "id", "PREFECT_SLOTS_WORKER": ""}, "id"),
        ("", {"WORKER_ID": ""}, None),
    ],
)
def test_the_machine_is_named_by_the_variable_then_the_file_then_worker_id(
    write: Write, file: str, env: dict[str, str], worker: str | None
):
    assert load_settings(write(f"[settings]\n{file}\n"), env=env).worker == worker


def test_an_empty_variable_counts_as_not_set(write: Write):
    env = {"PREFECT_SLOTS_MAX_OVERTAKES": "", "PREFECT_SLOTS_STATE_DIR": "", "PREFECT_SLOTS_CONFIG": ""}
    assert load_settings(write("[settings]\nmax_overtakes = 3\n"), env=env).max_overtakes == 3


def test_a_home_folder_is_spelled_out(write: Write, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/someone")
    settings = load_settings(write('[settings]\nstate_dir = "~/slots"\n'), env={})
    assert settings.state_dir == Path("/home/someone/slots")


class TestWhichFile:
    """The first of the command line, the variable, the current folder and the system's file."""

    @pytest.fixture
    def places(self, tmp_path: Path) -> dict[str, Path]:
        places = {name: tmp_path / name for name in ("flag.toml", "variable.toml", "prefect-slots.toml", "system.toml")}
        for path in places.values():
            path.touch()
        return places

    def test_each_place_is_used_when_those_before_it_say_nothing(self, places: dict[str, Path], tmp_path: Path):
        system = places["system.toml"]
        env = {"PREFECT_SLOTS_CONFIG": str(places["variable.toml"])}
        assert choose_file(places["flag.toml"], env, tmp_path, system) == places["flag.toml"]
        assert choose_file(None, env, tmp_path, system) == places["variable.toml"]
        assert choose_file(None, {}, tmp_path, system) == places["prefect-slots.toml"]
        places["prefect-slots.toml"].unlink()
        assert choose_file(None, {}, tmp_path, system) == system
        system.unlink()
        assert choose_file(None, {}, tmp_path, system) is None

    def test_a_relative_name_starts_from_the_given_folder(self, places: dict[str, Path], tmp_path: Path):
        assert choose_file(Path("flag.toml"), {}, tmp_path) == places["flag.toml"]
        assert choose_file(None, {"PREFECT_SLOTS_CONFIG": "variable.toml"}, tmp_path) == places["variable.toml"]

    @pytest.mark.parametrize(
        ("flag", "env", "source"),
        [
            (Path("gone.toml"), {}, "--config"),
            (None, {"PREFECT_SLOTS_CONFIG": "gone.toml"}, "PREFECT_SLOTS_CONFIG"),
        ],
    )
    @pytest.mark.usefixtures("places")
    def test_a_file_asked_for_by_name_must_exist(
        self, flag: Path | None, env: dict[str, str], source: str, tmp_path: Path
    ):
        with pytest.raises(ConfigError) as caught:
            load_settings(flag, env=env, cwd=tmp_path)
        assert str(caught.value) == f"{source}: there is no file {tmp_path / 'gone.toml'}"

    def test_a_folder_in_place_of_the_file_is_refused(self, tmp_path: Path):
        with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
            load_settings(tmp_path, env={})


MISTAKES = [
    # text, line, key, parts of the reason
    ("[settings]\n\nmax_overtake = 3\n", 3, "settings.max_overtake", ["unknown key", "did you mean max_overtakes?"]),
    ("[setings]\n", 1, "setings", ["unknown key", "did you mean settings?"]),
    ("[licence.matlab]\nseats = 1\n", 1, "licence", ["did you mean license?"]),
    ("[gpus]\n[[gpus.cards]]\n", 2, "gpus.cards", ["did you mean card?"]),
    ('[[gpus.card]]\nuid = "a"\nmemory = 1\n', 2, "gpus.card[1].uid", ["did you mean uuid?"]),
    ("[license.m]\nseat = 1\n", 2, "license.m.seat", ["did you mean seats"]),
    ("[resources.s]\ncapcity = 1\n", 2, "resources.s.capcity", ["did you mean capacity?"]),
    ("[host]\nzzz = 1\n", 2, "host.zzz", ["known: cpus, mem, mem_headroom"]),
    ("[gpus\n", 1, "", ["not valid TOML", "Expected ']'"]),
    ("[a]\nb = 1\nb = 2\n", 3, "", ["not valid TOML", "overwrite"]),
    ("a = [\n1,\n", 2, "", ["not valid TOML"]),
    ('[settings]\ncoordination = "bth"\n', 2, "settings.coordination",
     ["'auto', 'both', 'local' or 'off'", "it is 'bth'"]),
    ('[settings]\ncoordination = "Both"\n', 2, "settings.coordination", ["'both'"]),
    ("[settings]\nmax_overtakes = -1\n", 2, "settings.max_overtakes", ["greater than or equal to 0", "it is -1"]),
    ('[settings]\nmax_overtakes = "20"\n', 2, "settings.max_overtakes", ["whole number", "it is '20'"]),
    ("[settings]\nmax_overtakes = true\n", 2, "settings.max_overtakes", ["whole number", "it is True"]),
    ("[settings]\nmax_overtakes = 2.5\n", 2, "settings.max_overtakes", ["whole number"]),
    ("[settings]\nrefresh_seconds = 0\n", 2, "settings.refresh_seconds", ["greater than or equal to 1"]),
    ("[settings]\nrefresh_seconds = nan\n", 2, "settings.refresh_seconds", ["finite number"]),
    ("[settings]\nrefresh_seconds = inf\n", 2, "settings.refresh_seconds", ["number"]),
    ('[settings]\nauto_register = "yes"\n', 2, "settings.auto_register", ["true or false", "it is 'yes'"]),
    ("[settings]\nworker = 3\n", 2, "settings.worker", ["text in quotes"]),
    ('[settings]\nworker = "//"\n', 2, "settings.worker", ["'//' holds no letter"]),
    ('[settings]\nstate_dir = "state"\n', 2, "settings.state_dir", ["absolute path"]),
    ('[settings]\nstate_dir = "~no-such-user/x"\n', 2, "settings.state_dir", ["home directory"]),
    ('[settings]\nstate_dir = "/a\\u0000b"\n', 2, "settings.state_dir", ["NUL"]),
    ("[settings]\nstate_dir = 3\n", 2, "settings.state_dir", ["a folder is needed, not int"]),
    ("gpus = 3\n", 1, "gpus", ["a table is needed"]),
    ('license = "matlab"\n', 1, "license", ["a table is needed"]),
    ("[license]\nmatlab = 2\n", 2, "license.matlab", ["a table is needed", "it is 2"]),
    ('[gpus]\nexclude = "GPU-1"\n', 2, "gpus.exclude", ["a list is needed"]),
    ('[gpus]\nexclude = ["GPU-1", ""]\n', 2, "gpus.exclude[2]", ["exclude every card", "detect = false"]),
    ('[gpus]\nheadroom = "-1GiB"\n', 2, "gpus.headroom", ["not an amount of memory"]),
    ("[gpus]\nheadroom = -0.0001\n", 2, "gpus.headroom", ["cannot be negative"]),
    ('[[gpus.card]]\nuuid = "A"\n', 1, "gpus.card[1].memory", ["is missing"]),
    ('[[gpus.card]]\nuuid = "A,B"\nmemory = 1\n', 2, "gpus.card[1].uuid", ["no device identity"]),
    ('[[gpus.card]]\nuuid = "A"\nmemory = 1\n[[gpus.card]]\nuuid = "A"\nmemory = 2\n', 5, "gpus.card[2].uuid",
     ["declared twice"]),
    ('[gpus]\nexclude = ["gpu-d"]\n[[gpus.card]]\nuuid = "GPU-demo"\nmemory = 1\n', 4, "gpus.card[1].uuid",
     ["declared here and excluded"]),
    ('[[gpus.card]]\nuuid = "A"\nmemory = 2000000\n[[gpus.card]]\nuuid = "B"\nmemory = 2000000\n', 1, "gpus.card",
     ["all cards together"]),
    ('[host]\nmem = "8 GB of ram"\n', 2, "host.mem", ["not an amount of memory", "'8GiB'", "it is '8 GB of ram'"]),
    (f"[host]\nmem = {'9' * 400}\n", 2, "host.mem", ["more than a limit can count", "...9"]),
    ('[host]\nmem = "1KiB"\n', 2, "host.mem", ["less than one MiB"]),
    ("[host]\ncpus = 0\n", 2, "host.cpus", ["must be above zero"]),
    ("[host]\ncpus = 1.5\n", 2, "host.cpus", ["whole number of cores"]),
    ('[host]\nmem = "4GiB"\nmem_headroom = "4GiB"\n', 3, "host.mem_headroom", ["leaves nothing of mem = 4GiB"]),
    ("[license.matlab]\nseats = 0\n", 2, "license.matlab.seats", ["number of seats must be above zero", "it is 0"]),
    ("[license.matlab]\n", 1, "license.matlab.seats", ["is missing"]),
    ('[license.matlab]\nseats = 1\nscope = "site"\n', 3, "license.matlab.scope", ["'fleet' or 'worker'"]),
    ('[license.a]\nserver = "1@h"\n', 1, "license.a.type", ["is missing", "type and server"]),
    ('[license.a]\nseats = 1\nserver = "1@h"\n', 3, "license.a.server", ["goes with the type"]),
    ("[license.a]\nseats = 1\nheadroom = 0\n", 3, "license.a.headroom", ["goes with the type"]),
    ('[license.a]\ntype = "flexnet"\n', 1, "license.a.server", ["is missing", "port@host"]),
    ('[license.a]\ntype = "flexnet"\nserver = "1@h"\nseats = 2\n', 4, "license.a.seats", ["the server tells"]),
    ('[license.a]\ntype = "flexlm"\nserver = "1@h"\n', 2, "license.a.type", ["'flexnet', 'rlm'", "it is 'flexlm'"]),
    ('[license.a]\ntype = "rlm"\nserver = "1@h,2@i"\n', 3, "license.a.server", ["only flexnet"]),
    ('[license.a]\ntype = "rlm"\nserver = "h:1"\n', 3, "license.a.server", ["port@host", "it is 'h:1'"]),
    ('[license.a]\ntype = "rlm"\nserver = "1@-x"\n', 3, "license.a.server", ["port@host"]),
    ('[license.a]\ntype = "rlm"\nserver = "70000@h"\n', 3, "license.a.server", ["port@host"]),
    ('[license.a]\ntype = "rlm"\nserver = "1@h"\ncommand = []\n', 4, "license.a.command", ["path of a program"]),
    ('[license.a]\ntype = "rlm"\nserver = "1@h"\ncommand = ["a", 1]\n', 4, "license.a.command", ["arguments"]),
    ('[license.a]\ntype = "rlm"\nserver = "1@h"\nfeature = ""\n', 4, "license.a.feature", ["not be empty"]),
    ('[license.a]\ntype = "rlm"\nserver = "1@h"\nfeatures = []\n', 4, "license.a.features", ["list of features"]),
    ('[license.a]\ntype = "rlm"\nserver = "1@h"\nfeatures = [1]\n', 4, "license.a.features", ["text in quotes"]),
    ('[license.a]\ntype = "rlm"\nserver = "1@h"\nfeatures = ["b:c"]\n', 4, "license.a.features",
     ["licence name 'b:c'", "name it"]),
    ('[license.a]\ntype = "rlm"\nserver = "1@h"\nfeature = "b"\nfeatures = ["c"]\n', 5, "license.a.features",
     ["feature for one"]),
    ('[license.a]\nseats = 1\n[license.b]\ntype = "rlm"\nserver = "1@h"\nfeatures = ["a"]\n', 6,
     "license.b.features", ["also what [license.a] offers"]),
    ('[license.a]\ntype = "rlm"\nserver = "1@h"\nheadroom = -1\n', 4, "license.a.headroom", ["or equal to 0"]),
    ('[license.a]\ntype = "rlm"\nserver = "1@h"\npoll_seconds = 5\n', 4, "license.a.poll_seconds", ["to 30"]),
    ('[license.a]\ntype = "rlm"\nserver = "1@h"\ntimeout = 0\n', 4, "license.a.timeout", ["or equal to 1"]),
    ('[license."a/b"]\nseats = 1\n', 1, "license.a/b", ["licence name 'a/b'"]),
    ("[resources.tag]\ncapacity = 1\n", 1, "resources.tag", ["meaning of its own"]),
    ("[resources.Scan-1]\ncapacity = 1\n", 1, "resources.Scan-1", ["lower-case"]),
    ("[resources.gpu_mem]\ncapacity = 1\n", 1, "resources.gpu_mem", ["is detected", "[gpus]"]),
    ("[resources.cpus]\ncapacity = 1\n", 1, "resources.cpus", ["is detected", "[host]"]),
    ('[resources.s]\ncapacity = 1\nscope = "fleet"\ncells = 2\n', 4, "resources.s.cells", ["one cell"]),
    ("[resources.s]\ncapacity = 1\ncells = 1001\n", 3, "resources.s.cells", ["at most 1000 cells"]),
    ("[resources.s]\n", 1, "resources.s.capacity", ["is missing", "disk, devices or encoder_sessions"]),
    ('[resources.s]\ncapacity = 1\nheadroom = "1GiB"\n', 3, "resources.s.headroom", ["only a disk"]),
    ('[resources.s]\ndisk = "/a"\ndevices = ["/dev/serial/by-id/a"]\n', 3, "resources.s.devices", ["has disk"]),
    ('[resources.s]\ndisk = "/a"\nscope = "fleet"\n', 3, "resources.s.scope", ["on this machine"]),
    ('[resources.s]\ndisk = "/a"\nunit = "MiB"\n', 3, "resources.s.unit", ["disk decides that"]),
    ('[resources.s]\ndisk = "/a"\ncells = 2\n', 3, "resources.s.cells", ["disk decides that"]),
    ('[resources.s]\ndisk = "scratch"\n', 2, "resources.s.disk", ["absolute path"]),
    ("[resources.s]\nencoder_sessions = 8\ncapacity = 8\n", 3, "resources.s.capacity", ["remove capacity"]),
    ("[resources.s]\nencoder_sessions = 0\n", 2, "resources.s.encoder_sessions", ["above zero"]),
    ("[resources.s]\ndevices = []\n", 2, "resources.s.devices", ["must not be empty"]),
    ('[resources.s]\ndevices = ["/dev/ttyUSB0"]\n', 2, "resources.s.devices[1]", ["plugged in first", "by-id"]),
    ('[resources.s]\ndevices = ["/dev/video*"]\n', 2, "resources.s.devices[1]", ["plugged in first"]),
    ('[resources.s]\ndevices = ["/dev/*/by-id/a"]\n', 2, "resources.s.devices[1]", ["no name under /dev"]),
    ('[resources.s]\ndevices = ["/dev/../etc/*"]\n', 2, "resources.s.devices[1]", ["no name under /dev"]),
    ('[resources.s]\ndevices = ["/dev/"]\n', 2, "resources.s.devices[1]", ["no name under /dev"]),
    ('[resources.s]\ndisk = "/tmp/\\u0000"\n', 2, "resources.s.disk", ["NUL character"]),
    ('[resources.s]\ndevices = ["COM3"]\n', 2, "resources.s.devices[1]", ["no name under /dev"]),
    ('[detectors.amd]\nenabled = "no"\n', 2, "detectors.amd.enabled", ["true or false"]),
    ("[resources.s]\ncapacity = 2147483647\ncells = 2\n", 2, "resources.s.capacity", ["more than a limit can count"]),
    ('[resources.s]\ncapacity = 1\nunit = ""\n', 3, "resources.s.unit", ["must not be empty"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "key", "parts"), MISTAKES)
def test_a_mistake_in_the_file_is_reported_with_file_line_key_and_what_would_be_right(
    write: Write, text: str, line: int, key: str, parts: list[str]
):
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(path, env={})
    error = caught.value
    assert (error.source, error.line, error.key) == (str(path), line, key)
    assert [part for part in parts if part not in error.reason] == []
    assert str(error).startswith(f"{path}:{line}: ")


def test_the_first_mistake_of_several_is_the_one_reported(write: Write):
    with pytest.raises(ConfigError) as caught:
        load_settings(write("[host]\ncpu = 1\n[settings]\nworkr = 1\n"), env={})
    assert (caught.value.line, caught.value.key) == (2, "host.cpu")


def test_text_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path):
    path = tmp_path / "latin.toml"
    path.write_bytes(b"# ok\n# l\xe9a\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(path, env={})
    assert str(caught.value) == f"{path}:2: is not UTF-8 text"


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path):
    path = tmp_path / "bom.toml"
    path.write_bytes(b"\xef\xbb\xbf[settings]\nmax_overtakes = 4\n")
    assert load_settings(path, env={}).max_overtakes == 4


@pytest.mark.parametrize("text", [f"x = {'9' * 5000}", "x = " + "[" * 5000])
def test_what_breaks_the_toml_reader_itself_is_still_a_mistake_of_the_file(write: Write, text: str):
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_settings(write(text), env={})


@pytest.mark.parametrize(
    ("variable", "value", "parts"),
    [
        ("PREFECT_SLOTS_MAX_OVERTAKES", "many", ["whole number", "it is 'many'"]),
        ("PREFECT_SLOTS_MAX_OVERTAKES", "-1", ["greater than or equal to 0"]),
        ("PREFECT_SLOTS_AUTO_REGISTER", "perhaps", ["true or false"]),
        ("PREFECT_SLOTS_COORDINATION", "bth", ["'auto', 'both', 'local' or 'off'"]),
        ("PREFECT_SLOTS_REFRESH_SECONDS", "nan", ["finite number"]),
        ("PREFECT_SLOTS_STATE_DIR", "state", ["absolute path"]),
        ("PREFECT_SLOTS_WORKER", "//", ["holds no letter"]),
        ("WORKER_ID", "//", ["holds no letter"]),
        ("PREFECT_SLOTS_MAX_OVERTAKE", "1", ["no such setting", "did you mean PREFECT_SLOTS_MAX_OVERTAKES?"]),
        ("PREFECT_SLOTS_CONFIGG", "x", ["no such setting", "did you mean PREFECT_SLOTS_CONFIG?"]),
        ("PREFECT_SLOTS_DECLARATIONS", "{}", ["no such setting"]),
        ("PREFECT_SLOTS_SOURCE", "x", ["no such setting"]),
        ("PREFECT_SLOTS_ZZZ", "1", ["no such setting", "known: PREFECT_SLOTS_AUTO_REGISTER, "]),
    ],
)
def test_a_mistake_in_a_variable_is_reported_under_the_variables_name(
    write: Write, variable: str, value: str, parts: list[str]
):
    with pytest.raises(ConfigError) as caught:
        load_settings(write(""), env={variable: value})
    error = caught.value
    assert (error.source, error.line, error.key) == (variable, None, "")
    assert [part for part in parts if part not in error.reason] == []
    assert str(error) == f"{variable}: {error.reason}"


def test_reading_settings_does_not_import_prefect():
    code = "import sys, prefect_slots.settings; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
