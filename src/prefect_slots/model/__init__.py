"""Records of resources, requests and findings: frozen, standard library only.

amount       MiB, seats and cores, parsed and printed without ever under-counting
resource     what a machine has: resources, their cells, the inventory
gpu          the vendor of a GPU: pin variables, framework name
gpu_filter   conditions on the product name and compute capability of a GPU
declaration  a person's statements about it: rules for detection, declared licenses and resources
finding      problems of a machine and their remedies
registered   the registered machine: resources with numbered cells, units and specs of limits
requirement  canonical demands of one call, with alternatives
terms        priority, estimate and time limit of a request, checked in one place
request      all that a caller asks for, from `requires`, `run` and pools to the ledger
book         the book: cells, grants and waiting tickets, its events and changes
"""

# pyright: reportUnusedImport=false
# isort: off
from prefect_slots.model.amount import CORES, MAX_AMOUNT, MIB, SEATS, Exclusive
from prefect_slots.model.amount import bytes_available, bytes_used, duration_asked, format_amount
from prefect_slots.model.book import Asked, Book, CellId, CellState, Change, Changed, Ended, Event, Grant, Holding
from prefect_slots.model.book import TOKEN, Line, Nesting, Shape, Slot, Ticket
from prefect_slots.model.declaration import Declarations, LicenseServer, ScratchSpace
from prefect_slots.model.declaration import DetectorRules, EncoderSessions, GpuRules, HostRules, Instruments
from prefect_slots.model.finding import UNPRINTABLE, Finding, Severity, Stale
from prefect_slots.model.gpu_filter import GpuFilter
from prefect_slots.model.gpu import APPLE_KEY, amd_key, intel_key
from prefect_slots.model.registered import LimitSpec, LimitUnit, Registered, RegisteredCell, RegisteredResource, Stock
from prefect_slots.model.request import Parent, Request
from prefect_slots.model.requirement import WHOLE, Demand, Requirement, Share, declare, spelled
from prefect_slots.model.resource import CPUS, GPU_MEM, LICENSE_PREFIX, MEM, Cell, Inventory, Resource, Scope
from prefect_slots.model.resource import check_resource_name, license_resource, sanitise_machine_name
from prefect_slots.model.terms import Terms, invalid
