"""Declarations as resources."""

from __future__ import annotations

import pytest

from prefect_slots.detect.declared import declared_resources
from prefect_slots.model.declaration import Declarations, DeclaredCard, DeclaredLicense, DeclaredResource, GpuRules
from prefect_slots.model.resource import Cell, Resource, Scope


def test_nothing_declared_is_nothing():
    assert list(declared_resources(Declarations())) == []


def test_cards_are_cells_of_one_resource_and_keep_their_identity():
    cards = (DeclaredCard(uuid="GPU-demo-0", memory_mib=24576), DeclaredCard(uuid="X", memory_mib=10, name="old one"))
    (gpu_mem,) = declared_resources(Declarations(gpus=GpuRules(cards=cards, headroom_mib=1024), source="slots.toml"))
    assert gpu_mem == Resource(
        name="gpu_mem",
        unit="MiB",
        origin="slots.toml",
        cells=(
            Cell(key="GPU-demo-0", capacity=24576, label="declared card"),
            Cell(key="X", capacity=10, label="old one"),
        ),
    )


@pytest.mark.parametrize("scope", list(Scope))
def test_a_licence_is_one_cell_of_seats_in_its_scope(scope: Scope):
    declarations = Declarations(licenses=(DeclaredLicense(feature="matlab", seats=2, scope=scope),), source="s")
    assert list(declared_resources(declarations)) == [
        Resource(name="license.matlab", unit="seats", cells=(Cell(key="0", capacity=2),), scope=scope, origin="s")
    ]


def test_a_resource_has_its_capacity_on_each_of_its_cells():
    declared = DeclaredResource(name="scanner", capacity=3, cells=2, unit="slides")
    assert list(declared_resources(Declarations(resources=(declared,)))) == [
        Resource(
            name="scanner",
            unit="slides",
            cells=(Cell(key="0", capacity=3), Cell(key="1", capacity=3)),
            scope=Scope.WORKER,
            origin="defaults",
        )
    ]
