"""The page in a headless Chromium: images dropped, scores read, the table downloaded."""

import csv
import shutil
import subprocess
import sys
import time

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
selenium = pytest.importorskip("selenium")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from tests.serve.images import encoded, png_header  # noqa: E402

BROWSER, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = pytest.mark.skipif(
  not (BROWSER and DRIVER), reason="no Chromium here (Debian: apt-get install chromium chromium-driver)"
)

SERVER = """
from jiqa.serve.command import run
from jiqa.serve.upload import Limits
from jiqa.serve.worker import Worker
from tests.serve.images import Brightness
run(Worker(Brightness, 60), host="127.0.0.1", port=0, limits=Limits(pixels=10_000_000))
"""
# What a file manager does: files arrive as a drop on the page, not through its button.
DROP = """
  const [input, target] = arguments, transfer = new DataTransfer();
  for (const file of input.files) transfer.items.add(file);
  target.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
"""
OWN_INPUT = """
  const input = document.createElement("input");
  input.type = "file"; input.multiple = true; input.id = "hand";
  document.body.append(input);
"""


@pytest.fixture(scope="module")
def address():
  with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
    yield server.stdout.readline().split()[1]
    server.terminate()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
  options = webdriver.ChromeOptions()
  options.binary_location = BROWSER
  profile, downloads = tmp_path_factory.mktemp("profile"), tmp_path_factory.mktemp("downloads")
  for flag in (
    "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-sync", "disable-dev-shm-usage", f"user-data-dir={profile}",
  ):  # fmt: skip
    options.add_argument(f"--{flag}")
  options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
  browser.downloads = downloads
  yield browser
  browser.quit()


def drop(browser, *paths):
  browser.execute_script(OWN_INPUT)
  hand = browser.find_element(By.ID, "hand")
  hand.send_keys("\n".join(map(str, paths)))
  browser.execute_script(DROP, hand, browser.find_element(By.ID, "drop"))
  browser.execute_script("arguments[0].remove()", hand)


def wait(browser, condition):
  return WebDriverWait(browser, 20, poll_frequency=0.05).until(lambda _: condition())


def texts(browser, selector):
  return [element.text for element in browser.find_elements(By.CSS_SELECTOR, selector)]


def test_dropped_images_are_scored_and_the_table_can_be_downloaded(address, browser, tmp_path):
  names = ["=1+1,dark.png", "<b>light</b>.png"]
  names[1] = names[1].replace("/", "")  # no file name has a slash
  for name, gray in zip(names, (51, 204), strict=True):
    (tmp_path / name).write_bytes(encoded(color=gray))
  (tmp_path / "bomb.png").write_bytes(png_header(60_000, 60_000))
  browser.get(address)
  wait(browser, lambda: "higher is better" in browser.find_element(By.ID, "model").text)
  drop(browser, *(tmp_path / name for name in names), tmp_path / "bomb.png")
  button = browser.find_element(By.ID, "download")
  wait(browser, button.is_enabled)

  assert browser.find_element(By.ID, "summary").text == "2 images scored · mean 0.5 · 1 failed"
  assert texts(browser, "#list .name") == [*names, "bomb.png"]
  assert texts(browser, "#list .score output")[:2] == ["0.2", "0.8"]
  assert "pixels" in browser.find_elements(By.CSS_SELECTOR, "#list .error")[2].text
  assert "distortion\n=blur" in browser.find_element(By.CSS_SELECTOR, "#list .facts").text
  over = browser.find_element(By.CSS_SELECTOR, "#list .map")
  assert not over.is_displayed()
  browser.find_element(By.ID, "map").click()
  assert over.is_displayed()
  browser.find_element(By.CSS_SELECTOR, "#order option[value=best]").click()
  assert texts(browser, "#list .name") == [names[1], names[0], "bomb.png"]

  button.click()
  table = browser.downloads / "scores.csv"
  wait(browser, table.exists)
  with table.open(newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["name"] for row in rows] == [f"'{names[0]}", names[1], "bomb.png"]
  assert [float(row["score"]) for row in rows[:2]] == pytest.approx([0.2, 0.8])
  assert rows[0]["distortion"] == "'=blur"
  assert (rows[0]["width"], rows[0]["height"], rows[0]["error"]) == ("40", "30", "")
  assert rows[2]["score"] == "" and "pixels" in rows[2]["error"]


def test_what_comes_from_outside_is_text_and_nothing_breaks_the_policy(address, browser):
  browser.get(address)
  wait(browser, lambda: browser.find_element(By.ID, "model").text.startswith("brightness"))
  assert "<script>alert(1)</script>" in browser.find_element(By.ID, "card").text
  assert len(browser.find_elements(By.CSS_SELECTOR, "#card script, #list b")) == 0
  assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_fits(address, browser, tmp_path, width):
  (tmp_path / f"{'long_name_' * 12}.png").write_bytes(encoded((800, 200)))
  (tmp_path / "tall.png").write_bytes(encoded((60, 700)))
  command = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
  browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", command)
  try:
    browser.get(address)
    wait(browser, lambda: browser.find_element(By.ID, "model").text.startswith("brightness"))
    drop(browser, *sorted(tmp_path.iterdir()))
    wait(browser, browser.find_element(By.ID, "download").is_enabled)
    browser.find_element(By.ID, "map").click()
    time.sleep(0.1)  # the maps are laid over the thumbnails when those are laid out
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    for image, over in browser.execute_script(
      "return [...document.querySelectorAll('.frame')].map(frame => "
      "['canvas', '.map'].map(name => frame.querySelector(name).getBoundingClientRect()))"
    ):
      assert image["width"] > 10
      for side in ("left", "top", "width", "height"):
        assert abs(image[side] - over[side]) <= 1, f"the map does not lie on the image: {side}"
  finally:
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
