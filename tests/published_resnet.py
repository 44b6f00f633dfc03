"""What the ResNet fixture and its test both make from a seed, with NumPy alone: weights and photographs."""

import numpy as np
from PIL import Image

SEED = 7
PHOTO_SIZES = ((97, 131), (64, 83))
# Name, width of the stem.
NETWORKS = {"narrow": 8, "full": 64}
EXPERTS = {"quality": ((0, 0, 0), (1, 1, 1)), "content": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}


def random_tensors(shapes):
  """Weights in the published layout, away from their defaults: {name: shape} to {name: array}."""
  rng = np.random.default_rng(SEED)
  tensors = {}
  for name, shape in shapes.items():
    if name.endswith("num_batches_tracked"):
      tensors[name] = np.array(SEED, np.int64)
    elif len(shape) == 4:
      tensors[name] = rng.normal(0, np.sqrt(2 / (shape[1] * shape[2] * shape[3])), shape).astype(np.float32)
    elif len(shape) == 2:
      tensors[name] = rng.normal(0, np.sqrt(1 / shape[1]), shape).astype(np.float32)
    else:
      centre = 0.0 if name.endswith(("bias", "running_mean")) else 1.0
      tensors[name] = (centre + rng.uniform(-0.3, 0.3, shape)).astype(np.float32)
  return tensors


def photographs():
  """Smooth images with some noise, [h, w, 3] uint8, of odd and even sides."""
  rng = np.random.default_rng(SEED)
  images = []
  for height, width in PHOTO_SIZES:
    coarse = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).resize((width, height), 3)
    noisy = np.asarray(coarse) + rng.normal(0, 6, (height, width, 3))
    images.append(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
  return images
