"""Scores in pipelines of Apache Beam (extra 'beam'): of images that a pipeline has, or of whole shards."""

import functools

from jiqa.errors import UserError
from jiqa.inference import inputs, results, shards, startup
from jiqa.inference.command import UNREADABLE, as_row

try:
  import apache_beam as beam
  from apache_beam.metrics import Metrics, MetricsFilter
  from apache_beam.options.pipeline_options import PipelineOptions
except ImportError as error:
  raise UserError(f"pipelines need {error.name}: pip install 'apache-beam>=2.77'") from error

BUNDLE = 256  # images that are decoded and batched by size together, at most


class ScoreImages(beam.PTransform):
  """Elements (key, bytes of an image file) to (key, row), a dict: 'score', 'error', 'width', 'height', ...

  A bundle is batched by size; every worker process loads the metric once. What cannot be read has an error and the
  score None.

  Args:
    model, weights, head: see `metric.load`; on workers, weights are a folder that they can reach.
    batch_pixels: of a batch on an accelerator, at most; None: what suits it.

  Example:
    >>> rows = pipeline | beam.Create([("a", png)]) | ScoreImages(weights="runs/mine")    # doctest: +SKIP
  """

  def __init__(self, model=None, weights=None, head=None, batch_pixels=None):
    super().__init__()
    weights = tuple(weights) if isinstance(weights, list) else weights
    self._score = functools.partial(_score, model=model, weights=weights, head=head, batch_pixels=batch_pixels)

  def expand(self, pcoll):
    return pcoll | beam.BatchElements(BUNDLE, BUNDLE) | beam.FlatMap(self._score)


def _score(images, *, model, weights, head, batch_pixels):
  startup.prepare()
  metric = shards.loaded(model, weights, head)
  metric.check_scores()
  items = (inputs.Item(str(key), data) for key, data in images)
  for prediction in metric.stream(items, pixels_per_batch=batch_pixels):
    row = {"score": ""} | as_row(prediction, metric.columns)
    del row["path"]
    yield images[prediction.index][0], {name: results.typed(name, [text])[0] for name, text in row.items()}


def score_shards(names, out, pipeline_options=(), **options):
  """Scores shards on a runner of Beam, a Parquet file of `out` for each; see `inference.shards.score_shard`.

  A shard is one element: what a worker has not finished when it dies is scored by another, and replaces nothing.

  Args:
    names: paths, addresses or patterns of shards.
    out: folder or address that all workers can reach.
    pipeline_options: list of str, such as ["--runner=DirectRunner"].
    options: see `shards.score_in_worker`.

  Returns:
    exit code: 0, or UNREADABLE where a row has an error.
  """
  pairs = shards.targets(names, out)
  pipeline = beam.Pipeline(options=PipelineOptions(list(pipeline_options)))
  _ = (
    pipeline
    | beam.Create(pairs, reshuffle=False)
    | beam.Reshuffle()  # else one worker gets all
    | beam.Map(functools.partial(_score_shard, **options))
  )
  result = pipeline.run()
  result.wait_until_finish()
  counters = result.metrics().query(MetricsFilter().with_name("errors"))["counters"]
  return UNREADABLE if any(counter.result for counter in counters) else 0


def _score_shard(pair, **options):
  startup.prepare()
  _, errors = shards.score_in_worker(pair, **options)
  Metrics.counter("jiqa", "errors").inc(errors)
