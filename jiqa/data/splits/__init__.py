"""Who trains and who tests: published split tables and seeded content-disjoint folds. Start with `assign`."""

from jiqa.data.splits.assignment import (
  PROTOCOLS,
  TEST,
  TRAIN,
  UNUSED,
  VALIDATION,
  assign,
  checksum,
  protocols,
  published_protocols,
)

__all__ = [
  "PROTOCOLS",
  "TEST",
  "TRAIN",
  "UNUSED",
  "VALIDATION",
  "assign",
  "checksum",
  "protocols",
  "published_protocols",
]
