"""A bucket in memory that stands in for a real one behind gs://."""

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
  """What gcsfs would be."""

  protocol = ("gcs", "gs")
  store, pseudo_dirs = {}, [""]

  @classmethod
  def _strip_protocol(cls, path):
    return "/" + path.removeprefix("gs://").strip("/")


def install():
  """Makes gs:// paths lead to an empty bucket in memory."""
  for protocol in Bucket.protocol:
    fsspec.register_implementation(protocol, Bucket, clobber=True)
  Bucket.store.clear()
