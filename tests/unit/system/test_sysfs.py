"""Devices on the PCI bus, read from made-up trees."""

from pathlib import Path

from tests.unit.system.test_container import plug

from prefect_slots.system.sysfs import PciDevice, query_pci, text_of


def test_the_bus_is_read_in_order_and_a_device_that_goes_away_is_left_out(tmp_path: Path):
    plug(tmp_path, "0000:02:00.0", "0x1002", "0x038000", "amdgpu", device="0x740c")
    plug(tmp_path, "0000:01:00.0", "0x10de", "0x030000")
    (tmp_path / "sys/bus/pci/devices/0000:01:80.0").mkdir()
    assert list(query_pci(tmp_path)) == [
        PciDevice(vendor="0x10de", device="0x2204", kind="0x030000", driver=""),
        PciDevice(vendor="0x1002", device="0x740c", kind="0x038000", driver="amdgpu"),
    ]


def test_a_machine_without_a_bus_has_no_devices(tmp_path: Path):
    assert list(query_pci(tmp_path)) == []


def test_a_file_that_cannot_be_read_has_no_text(tmp_path: Path):
    (tmp_path / "vendor").write_text(" 0x10de \n")
    assert [text_of(path) for path in (tmp_path / "vendor", tmp_path / "gone", tmp_path)] == ["0x10de", "", ""]
