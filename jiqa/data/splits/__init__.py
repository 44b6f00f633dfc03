"""Who trains and who tests: published split tables and seeded content-disjoint folds. Start with `assign`."""

from jiqa.data.schema import tables
from jiqa.data.schema.tables import published_protocols
from jiqa.data.splits.assignment import (
  PROTOCOLS,
  TEST,
  TRAIN,
  UNUSED,
  VALIDATION,
  assign,
  check_protocol,
  checksum,
  protocols,
)

__all__ = [
  "PROTOCOLS", "TEST", "TRAIN", "UNUSED", "VALIDATION", "assign", "check_protocol", "checksum", "protocols",
  "published_protocols", "tables",
]  # fmt: skip
