"""Writes small databases in the official layouts, quirks included, for the builders to read.

Every image of a kind is a hard link to one file, so that a tree of all official names costs little.
"""

import csv
import io
import os
import pathlib

import numpy as np
import openpyxl
import scipy.io
from PIL import Image

FORMATS = {"bmp": "BMP", "png": "PNG", "jpg": "JPEG", "jpeg": "JPEG"}


def image_bytes(extension, size=(8, 8), **options):
  """The bytes of a small image of random pixels."""
  file = io.BytesIO()
  pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
  Image.fromarray(pixels).save(file, format=FORMATS[extension.lower()], **options)
  return file.getvalue()


def write_images(root, names):
  """Makes the images `names` below `root`, by hard links to one file of each extension."""
  seeds = {}
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    extension = path.suffix[1:].lower()
    if extension not in seeds:
      path.write_bytes(image_bytes(extension))
      seeds[extension] = path
    else:
      os.link(seeds[extension], path)


def write_csv(path, header, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("w", newline="") as file:
    csv.writer(file).writerows([header, *rows])


def write_sheet(path, sheet, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  book = openpyxl.Workbook(write_only=True)
  page = book.create_sheet(sheet)
  for row in rows:
    page.append(row)
  book.save(path)


def cells(texts, column=True):
  """A MATLAB cell array of strings."""
  array = np.empty(len(texts), dtype=object)
  array[:] = list(texts)
  return array.reshape(-1, 1) if column else array.reshape(1, -1)


def live(root):
  """Two files a folder, of which the first is an undistorted copy; a negative score."""
  top = root / "databaserelease2"
  folders = ("jp2k", "jpeg", "wn", "gblur", "fastfading")
  write_images(top, [f"{folder}/img{i}.bmp" for folder in folders for i in (1, 2)])
  orgs = np.tile([1, 0], 5)
  dmos = np.where(orgs == 1, 0.0, [0, -2.64, 0, 20, 0, 50, 0, 80, 0, 111])
  write_live_labels(top, dmos, np.where(orgs == 1, 0.0, 2.0), orgs, ["a.bmp", "b.bmp"] * 5)
  return ["fastfading/img2.bmp", "gblur/img2.bmp", "jp2k/img2.bmp", "jpeg/img2.bmp", "wn/img2.bmp"], "live"


def write_live_labels(top, dmos, deviation, orgs, references):
  scipy.io.savemat(
    top / "dmos_realigned.mat", {"dmos_new": dmos[None], "dmos_std": deviation[None], "orgs": orgs[None]}
  )
  scipy.io.savemat(top / "refnames_all.mat", {"refnames_all": cells(references, column=False)})


def csiq(root):
  """Upper-case folder, image 1600 as a number, 'jpeg 2000', blank rows and columns, deviation before score."""
  top = root / "CSIQ"
  write_images(
    top,
    ["dst_imgs/AWGN/1600.AWGN.1.png", "dst_imgs/jpeg2000/snow.jpeg2000.5.png", "dst_imgs/contrast/snow.contrast.4.png"],
  )
  rows = [
    (1600, 1, "noise", 1, 0.06, 0.1),
    ("snow", 3, "jpeg 2000", 5, 0.1, 0.9),
    ("snow", 6, "contrast", 4, 0.05, 0.4),
  ]
  write_csiq_labels(top, rows)
  return [
    "dst_imgs/AWGN/1600.AWGN.1.png", "dst_imgs/contrast/snow.contrast.4.png", "dst_imgs/jpeg2000/snow.jpeg2000.5.png",
  ], "csiq"  # fmt: skip


def write_csiq_labels(top, rows):
  header = ("image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos")
  blank = [(None,) * 9] * 3
  write_sheet(top / "csiq.DMOS.xlsx", "all_by_image", [*blank, *((None, None, None, *row) for row in (header, *rows))])


def tid2013(root):
  """The label file's case is not the disk's, for the prefix and for the extension."""
  top = root / "tid2013"
  disk = ["I01_01_1.bmp", "i01_01_2.bmp", "I01_11_1.bmp", "I01_13_1.bmp", "i25_24_5.bmp"]
  listed = ["I01_01_1.bmp", "i01_01_2.bmp", "I01_11_1.BMP", "I01_13_1.BMP", "i25_24_5.bmp"]
  write_images(top, [f"distorted_images/{name}" for name in disk])
  write_tid_labels(top, listed, [5.5, 5.2, 5.9, 6.0, 0.3], [0.1, 0.2, 0.1, 0.1, 0.15])
  return [f"distorted_images/{name}" for name in sorted(disk)], "tid2013"


def write_tid_labels(top, names, scores, deviations):
  (top / "mos_with_names.txt").write_text("".join(f"{s:.5f} {n}\r\n" for s, n in zip(scores, names, strict=True)))
  (top / "mos_std.txt").write_text("".join(f"{d:.5f}\r\n" for d in deviations))


def kadid10k(root):
  """The fourth column is a variance, `dmos` a mean opinion score; the references lie among the images."""
  top = root / "kadid10k"
  names = ["I01_01_01.png", "I01_25_05.png", "I02_05_03.png"]
  write_images(top, [f"images/{name}" for name in ["I01.png", "I02.png", *names]])
  rows = [(name, f"{name[:3]}.png", mos, 0.25) for name, mos in zip(names, (4.5, 1.2, 3.0), strict=True)]
  write_csv(top / "dmos.csv", ("dist_img", "ref_img", "dmos", "var"), rows)
  return [f"images/{name}" for name in names], "kadid10k"


def clive(root):
  """Seven training images come first in the label files; both extensions."""
  top = root / "ChallengeDB_release"
  names = ["3.bmp", "4.bmp", "1000.JPG"]
  training = [f"t{i}.bmp" for i in range(1, 8)]
  write_images(top / "Images", [*(f"trainingImages/{name}" for name in training), *names])
  write_clive_labels(top, [*training, *names], [*range(40, 47), 60.0, 70.0, 80.0], [20.0] * 10)
  return ["Images/1000.JPG", "Images/3.bmp", "Images/4.bmp"], "clive"


def write_clive_labels(top, names, scores, deviations):
  (top / "Data").mkdir(parents=True, exist_ok=True)
  scipy.io.savemat(top / "Data/AllImages_release.mat", {"AllImages_release": cells(names)})
  scipy.io.savemat(top / "Data/AllMOS_release.mat", {"AllMOS_release": np.array([scores])})
  scipy.io.savemat(top / "Data/AllStdDev_release.mat", {"AllStdDev_release": np.array([deviations])})


KONIQ_HEADER = ("image_name", "c1", "c2", "c3", "c4", "c5", "c_total", "MOS", "SD", "set")
KONIQ_ROWS = (
  ("10.jpg", 0, 0, 0.25, 0.75, 0, 100, 75.1, 0.44, "training"),
  ("11.jpg", 0, 0.5, 0.5, 0, 0, 100, 41.0, 0.5, "validation"),
  ("12.jpg", 1, 0, 0, 0, 0, 100, 3.9, 0.3, "test"),
)


def koniq10k(root, variant="1024x768"):
  """MOS on 0..100, SD on 1..5."""
  top = root / "koniq-10k"
  write_images(top, [f"{variant}/{row[0]}" for row in KONIQ_ROWS])
  write_csv(top / "koniq10k_distributions_sets.csv", KONIQ_HEADER, KONIQ_ROWS)
  return [f"{variant}/{row[0]}" for row in KONIQ_ROWS], f"koniq10k/{variant}"


def koniq10k_half(root):
  return koniq10k(root, "512x384")


def bid(root):
  """Numbers with gaps, blank grades, .xlsx in the image folder."""
  top = root / "BID"
  write_images(top, [f"ImageDatabase/DatabaseImage{i:04d}.JPG" for i in (1, 3, 590)])
  header = ["Image Number", "Average Subjective Grade", "Number of Grades", *(f"Grade #{i}" for i in range(1, 21))]
  rows = [[1, 4.5, 2, 4.0, 5.0], [3, 1.0, 3, 0.5, 1.0, 1.5], [590, 2.0, 2, 2.0, 2.0]]
  rows = [row + [None] * (len(header) - len(row)) for row in rows]
  write_sheet(top / "ImageDatabase/DatabaseGrades.xlsx", "Plan1", [header, *rows])
  return [f"ImageDatabase/DatabaseImage{i:04d}.JPG" for i in (1, 3, 590)], "bid"


def spaq(root):
  """TestImage/ lies in Dataset/."""
  top = root / "SPAQ"
  names = ["00001.jpg", "00002.jpg"]
  write_images(top, [f"Dataset/TestImage/{name}" for name in names])
  write_spaq_labels(top, names, [48.86, 62.5])
  return [f"TestImage/{name}" for name in names], "spaq"


def write_spaq_labels(top, names, scores):
  header = ("Image name", "MOS", "Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness")
  rows = [(name, score, 50, 50, 50, 50, 50) for name, score in zip(names, scores, strict=True)]
  write_sheet(top / "Annotations/MOS and Image attribute scores.xlsx", "Sheet1", [header, *rows])


def flive(root):
  """One image in each official part, and one that the parts leave out."""
  top = root / "FLIVE"
  names = ["voc_emotic_ava/A.jpg", "voc_emotic_ava/B.jpg", "blur_dataset/C.jpg", "EE371R/rq85.jpg"]
  write_images(top / "database", names)
  write_csv(top / "labels_image.csv", ("name", "mos"), [(name, 70 + i) for i, name in enumerate(names)])
  write_flive_parts(top, test=[names[0]], validation=[names[1]], other=[names[2]])
  return [f"database/{names[i]}" for i in (3, 2, 1, 0)], "flive/images"


def write_flive_parts(top, test, validation, other):
  write_csv(top / "labels640.csv", ("mos_image", "name_image"), [(70, name) for name in test])
  rows = [*((name, 70, True) for name in validation), *((name, 70, False) for name in other)]
  write_csv(top / "labels=640_padded.csv", ("name_image", "mos_image", "is_valid"), rows)


def flive_patches(root):
  """Patches are in the part of their photograph."""
  top = root / "FLIVE"
  photographs = ["voc_emotic_ava/A.jpg", "blur_dataset/C.jpg"]
  names = [f"patches/{stem}_patch_{i}.jpg" for stem in ("A", "C", "rq59") for i in (1, 2, 3)]
  write_images(top / "database", names)
  write_csv(top / "labels_patch.csv", ("name", "mos"), [(name, 60 + i) for i, name in enumerate(names)])
  write_flive_parts(top, test=[photographs[0]], validation=[], other=[])
  return [f"database/{name}" for name in names[6:] + names[3:6] + names[:3]], "flive/patches"


def pipal(root, folders=("Train_Dist_1", "Train_Dist_2")):
  """Images in several folders, named otherwise by each distribution."""
  top = root / "PIPAL"
  names = ["A0001_00_00.bmp", "A0001_06_26.bmp", "A0002_03_01.bmp"]
  places = [f"{folders[i % len(folders)]}/{name}" for i, name in enumerate(names)]
  write_images(top, [*places, "Train_Ref/A0001.bmp", "Train_Ref/A0002.bmp"])
  (top / "Train_Label").mkdir()
  (top / "Train_Label/A0001.txt").write_text("A0001_00_00.bmp,1520.0648\nA0001_06_26.bmp,1400.5\n")
  (top / "Train_Label/A0002.txt").write_text("A0002_03_01.bmp,950.25\n")
  return sorted(places), "pipal"


def pipal_merged(root):
  return pipal(root, ("Dist_Imgs",))


def pipal_numbered(root):
  return pipal(root, ("Distortion_1", "Distortion_2"))


def agiqa3k(root):
  """Quoted prompts with commas; images of one prompt by two models."""
  top = root / "AGIQA-3K"
  names = ["AttnGAN_normal_000.jpg", "sd1.5_highcorr_000.jpg", "DALLE2_normal_001.jpg"]
  write_images(top, names)
  header = ("name", "prompt", "adj1", "adj2", "style", "mos_quality", "std_quality", "mos_align", "std_align")
  prompts = ("a cat, warm color", "a cat, warm color", "statue of a man")
  rows = [(n, p, "", "", "", 1.0 + i, 0.5, 3.0, 0.4) for i, (n, p) in enumerate(zip(names, prompts, strict=True))]
  write_csv(top / "data.csv", header, rows)
  return sorted(names), "agiqa3k"


def biq2021(root):
  """A label that says .jpg where the file is .JPG, empty trailing columns, an MPO, a file that is not 512x512."""
  top = root / "BIQ2021"
  write_images(top, ["Images/ss01 (1).JPG", "Images/ss02 (7).jpg"])
  (top / "Images/ss03 (3).jpg").write_bytes(mpo_bytes())
  (top / "Train (Images and MOS).csv").write_text(
    "Image Name,MOS,,\r\nss01 (1).jpg,0.25,,\r\nss02 (7).jpg,0.5,,\r\n,,,\r\n"
  )
  (top / "Test (Images and MOS).csv").write_text("Image Name,MOS\r\nss03 (3).jpg,0.75\r\n")
  return ["Images/ss01 (1).JPG", "Images/ss02 (7).jpg", "Images/ss03 (3).jpg"], "biq2021"


def mpo_bytes():
  """A file of two images, as stereo and phone cameras write."""
  file = io.BytesIO()
  first, second = Image.new("RGB", (16, 12), "red"), Image.new("RGB", (16, 12), "blue")
  first.save(file, format="MPO", save_all=True, append_images=[second])
  return file.getvalue()


def kadis700k(root):
  write_images(root / "kadis700k", ["ref_imgs/b.png", "ref_imgs/a.png"])
  write_csv(root / "kadis700k/kadis700k_ref_imgs.csv", ("ref_im",), [("a.png",), ("b.png",)])
  return ["ref_imgs/a.png", "ref_imgs/b.png"], "kadis700k"


def imagenet2012(root):
  """A PNG and a CMYK file that call themselves .JPEG."""
  top = root / "ILSVRC2012"
  write_images(top, ["train/n01440764/n01440764_10.JPEG", "val/ILSVRC2012_val_00000001.JPEG"])
  (top / "train/n01440764/n01440764_11.JPEG").write_bytes(image_bytes("png"))
  Image.new("CMYK", (8, 8)).save(top / "train/n01440764/n01440764_12.JPEG")
  return [
    *(f"train/n01440764/n01440764_{i}.JPEG" for i in (10, 11, 12)), "val/ILSVRC2012_val_00000001.JPEG",
  ], "imagenet2012"  # fmt: skip


def image_folder(root):
  """Nested folders, extensions in any case, other files between."""
  top = root / "photos"
  write_images(top, ["b/two.PNG", "one.jpg", "b/c/three.bmp"])
  (top / "notes.txt").write_text("not an image")
  return ["b/c/three.bmp", "b/two.PNG", "one.jpg"], "image_folder/photos"


def csv_table(root):
  """A difference score, a further column, two images of one content."""
  top = root / "own"
  write_images(top, ["x/1.png", "x/2.png", "x/3.png"])
  rows = [("x/1.png", 10.0, "ann", "r1"), ("x/2.png", 20.0, "ben", "r1"), ("x/3.png", 40.0, "cem", "r2")]
  write_csv(top / "scores.csv", ("image_name", "dmos", "observer", "reference_name"), rows)
  return ["x/1.png", "x/2.png", "x/3.png"], "csv/own"


TREES = (
  live, csiq, tid2013, kadid10k, clive, koniq10k, koniq10k_half, bid, spaq, flive, flive_patches, pipal, pipal_merged,
  pipal_numbered, agiqa3k, biq2021, kadis700k, imagenet2012, image_folder, csv_table,
)  # fmt: skip


def folder_of(root):
  """The one folder that a tree was written to."""
  (folder,) = (path for path in pathlib.Path(root).iterdir() if path.is_dir())
  return folder
