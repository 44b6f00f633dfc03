"""LIQE (Zhang, Zhai, Wei, Yang, Ma, CVPR 2023, arXiv 2303.14968): quality as agreement between image and words.

An image is compared with 495 sentences on quality, scene and distortion; both towers of CLIP are trained, with a
fidelity loss for every task. docs/liqe.md tells more.

Where the published code errs we do what it means: a database with one image in a step weighs nothing instead of giving
NaN, and the ablation without scenes is trained with the loss of distortions.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jiqa import losses
from jiqa.errors import UserError
from jiqa.methods.base import NetworkMethod, check
from jiqa.methods.liqe import _crops, _prompts
from jiqa.methods.liqe._labels import has_labels, task_labels
from jiqa.methods.liqe._tokenizer import open_tokenizer
from jiqa.models.clip import CLIP, normalise, share_prefixes, similarity, unit
from jiqa.runtime.optimizer import round_params
from jiqa.runtime.sharding import batch_sharding
from jiqa.runtime.state import new_state

# The parts of CLIP that belong to the text tower.
TEXT_TOWER = ("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection")


class LIQE(NetworkMethod):
  """CLIP with prompts behind the contract of `methods/base.py`."""

  score_range = (1.0, 5.0)
  input = "RGB; {test_crops} crops of {crop} pixels, their answers averaged"
  classes = {task: _prompts.TASKS[task] for task in ("scene", "distortion")}
  prediction_keys = ("test_crops",)
  published = ({"card": {"model": "liqe"}, "config": "liqe", "keys": ("prompt",)},)
  how_to_get = "jiqa convert liqe LIQE.pt weights/liqe"

  def __init__(self, config, mesh):
    self.tasks, self.shape = _prompts.tasks(config.prompt), _prompts.shape(config.prompt)
    self.databases = list(dict.fromkeys(entry["name"] for entry in config.data))
    self.tokens = _prompts.encode(config.prompt, open_tokenizer(config.vocabulary) if config.vocabulary else None)
    _check(config, self.tokens)
    self.prompts = share_prefixes(self.tokens, mesh.size)
    super().__init__(config, mesh)

  def build(self, rngs):
    c = self.config
    vision = {"image": c.crop, "patch": c.patch, "width": c.width, "depth": c.depth, "heads": c.heads}
    return CLIP(
      vision, c.embedding, c.text.vocabulary, c.text.context, c.text.width, c.text.depth, c.text.heads,
      logit_scale=c.logit_scale, dtype=jnp.dtype(c.dtype), rngs=rngs,
    )  # fmt: skip

  def first_state(self, key, params, stats):
    if self.config.optimizer.param_rounding:
      params = round_params(params)
    frozen = {"logit_scale", *(TEXT_TOWER if self.config.freeze_text else ())}
    extra = {
      "frozen": {name: params.pop(name) for name in sorted(frozen)},
      "task_weights": jnp.ones(len(self.tasks)),
      "epoch_sum": jnp.zeros(len(self.tasks)),
      "last_epoch": jnp.zeros(len(self.tasks)),
    }
    if self.config.freeze_text:
      extra["table"] = self._text_table(self.network({**params, **extra["frozen"]}))
    return new_state(params, stats, extra)

  def weights(self, state):
    return {**state.params, **state.extra["frozen"]}, {}

  def preprocess_train(self, image, record, rng):
    config = self.config
    if not np.isfinite(record["mos"]):
      raise UserError(f"{record['database']}: {record['image_name']} has no score to train on; leave it out of the set")
    example = {
      "crops": _crops.train_crops(image, config.crop, config.train_crops, config.crops, rng, config.resize),
      "mos": np.float32(record["mos"]),
      "group": np.int32(self.databases.index(record["database"])),
    }
    if config.soft_targets:
      example["std"] = np.float32(record["mos_std"])
    if len(self.tasks) > 1:
      scenes, distortion = task_labels(record, config.labels)
      example |= {"scene": scenes, "distortion": np.int32(distortion)}
    return example

  def loss(self, params, state, batch, key):
    model = self.network({**params, **state.extra["frozen"]})
    table = state.extra["table"] if self.config.freeze_text else self._text_table(model)
    answers = self._answers(model, batch["crops"], table)
    databases, weights = len(self.databases), state.extra["task_weights"]
    mos, group, std = batch["mos"], batch["group"], batch.get("std")
    by_task = {"quality": losses.quality_fidelity(answers["score"], mos, group, databases, std=std)}
    if "scene" in self.tasks:
      by_task["scene"] = losses.scene_fidelity(answers["scene"], batch["scene"])
    if "distortion" in self.tasks:
      by_task["distortion"] = losses.distortion_fidelity(answers["distortion"], batch["distortion"])
    metrics = {f"loss/{task}": value for task, value in by_task.items()}
    metrics |= {f"weight/{task}": weights[i] for i, task in enumerate(self.tasks)}
    values = jnp.stack(list(by_task.values()))
    return (weights * values).sum(), (state.stats, {"losses": values}, metrics)

  def post_update(self, state, aux):
    """Dynamic weight averaging: at the end of an epoch, from its mean losses and those of the epoch before."""
    extra, steps = dict(state.extra), self.config.epoch_steps
    mean = extra["epoch_sum"] + aux["losses"] / steps
    ends = state.step % steps == 0
    if self.config.weighting == "dwa":
      weights = losses.dynamic_weights(mean, extra["last_epoch"])
      extra["task_weights"] = jnp.where(ends & (state.step >= 2 * steps), weights, extra["task_weights"])
    extra["last_epoch"] = jnp.where(ends, mean, extra["last_epoch"])
    extra["epoch_sum"] = jnp.where(ends, 0, mean)
    return state.replace(extra=extra)

  def preprocess_eval(self, image):
    c = self.config
    return {"crops": _crops.eval_crops(image, c.crop, c.test_crops, c.crops, c.resize)}

  def preprocess_float(self, images):
    c = self.config
    return {"crops": _crops.float_crops(images, c.crop, c.test_crops, c.crops, c.resize)}

  def precompute(self, params, stats, extra=None):
    return {"table": self._text_table(self.network(params))}

  def predict(self, params, stats, extra, batch):
    """Score [b], 1 to 5; joint [b, 5, 9, 11] (or of fewer tasks) and its marginals; features [b, d]."""
    answers = self._answers(self.network(params), batch["crops"], extra["table"])
    return {name: value for name, value in answers.items() if name != "quality"}

  def compute_metrics(self, outputs, records):
    """How often scene and distortion are found, and how often without looking."""
    measured = {}
    labelled = [i for i, name in enumerate(records.database) if has_labels(name)]
    if len(self.tasks) == 1 or not labelled:
      return measured
    rows = records.iloc[labelled].to_dict("records")
    labels = [task_labels(row, self.config.labels) for row in rows]
    present = {
      "scene": np.array([scenes for scenes, _ in labels]),
      "distortion": np.eye(len(_prompts.DISTORTIONS), dtype=bool)[[label for _, label in labels]],
    }
    for task in self.tasks[1:]:
      truth = present[task]
      measured[f"{task} accuracy"] = accuracy(outputs[task][labelled], truth)
      measured[f"{task} accuracy of guessing"] = float(np.square(truth.sum(1)).sum() / truth.sum() / truth.shape[1])
      frequency = np.broadcast_to(truth.mean(0), truth.shape)
      measured[f"{task} accuracy of the most frequent"] = accuracy(frequency, truth)
    return measured

  def _text_table(self, model):
    """[p, d] float32 of unit length: every prompt, encoded on all devices together."""
    split = lambda x: jax.lax.with_sharding_constraint(x, batch_sharding(self.mesh))
    return unit(model.encode_prompts(self.prompts, split if self.mesh.size > 1 else lambda x: x))

  def _answers(self, model, crops, table):
    """`answers` about the crops of images [b, n, h, w, 3] uint8; logits are averaged over the crops of an image.

    Also 'features' [b, d] float32: the mean over the crops of their unit vectors in CLIP's common space.
    """
    b, n = crops.shape[:2]
    features = model.encode_image(normalise(crops.reshape(b * n, *crops.shape[2:])))
    logits = similarity(features, table, model.logit_scale[...]).reshape(b, n, -1).mean(1)
    answers = self.answers(jax.nn.softmax(logits).reshape(b, *self.shape))
    return {**answers, "features": unit(features).reshape(b, n, -1).mean(1)}

  def answers(self, joint):
    """What a joint distribution [b, 5, 9, 11] float32 (without the tasks that the prompts leave out) says.

    A dict: 'joint'; its marginals by task, 'quality' [b, 5] and so on; 'score' [b], the mean quality, from 1 to 5.
    """
    axes = range(1, joint.ndim)
    marginals = {task: joint.sum([axis for axis in axes if axis != i]) for i, task in enumerate(self.tasks, 1)}
    levels = jnp.arange(1.0, len(_prompts.QUALITIES) + 1)
    return {**marginals, "joint": joint, "score": (marginals["quality"] * levels).sum(-1)}


def accuracy(probabilities, present):
  """The share of labels that are found: of an image with k labels, those among its k likeliest answers.

  The labels of an image, present [n, a] bool, are at least one; probabilities [n, a] float.
  """
  rank = np.argsort(np.argsort(-np.asarray(probabilities), axis=1, kind="stable"), axis=1)
  hits = present & (rank < present.sum(1, keepdims=True))
  return float(hits.sum() / present.sum())


def _check(c, tokens):
  longest, largest = tokens.shape[1], int(tokens.max())
  check(
    (c.crops in _crops.POLICIES, f"config.crops is {c.crops!r}; expected one of {', '.join(_crops.POLICIES)}"),
    (c.weighting in ("dwa", "equal"), f"config.weighting is {c.weighting!r}; expected dwa or equal"),
    (c.labels in ("published", "fixed"), f"config.labels is {c.labels!r}; expected published or fixed"),
    (min(c.train_crops, c.test_crops) >= 1, "config.train_crops and config.test_crops must be at least 1"),
    (c.epoch_steps >= 1, f"config.epoch_steps is {c.epoch_steps}; expected at least 1"),
    (longest <= c.text.context, f"the longest prompt has {longest} tokens, config.text.context {c.text.context}"),
    (largest < c.text.vocabulary, f"prompts have token {largest}, config.text.vocabulary {c.text.vocabulary}"),
  )
