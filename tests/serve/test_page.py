"""The page in a headless Chromium: images dropped, scores read, the table downloaded."""

import contextlib
import csv
import subprocess
import sys

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
pytest.importorskip("selenium")

from tests.browser import CSS, one, screen, texts, wait
from tests.serve.images import encoded, png_header

SERVER = """
import sys
from jiqa.serve.command import run
from jiqa.serve.upload import Limits
from jiqa.serve.worker import Worker
from tests.serve import images
worker = Worker(getattr(images, sys.argv[1]), 60)
run(worker, host="127.0.0.1", port=int(sys.argv[2]), limits=Limits(pixels=10_000_000))
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


@contextlib.contextmanager
def serving(metric="Rated", port=0):
  """The address of a server of its own."""
  with subprocess.Popen([sys.executable, "-c", SERVER, metric, str(port)], stdout=subprocess.PIPE, text=True) as server:
    try:
      yield server.stdout.readline().split()[1]
    finally:
      server.terminate()


@pytest.fixture(scope="module")
def address():
  with serving() as address:
    yield address


def drop(browser, *paths):
  browser.execute_script(OWN_INPUT)
  hand = one(browser, "#hand")
  hand.send_keys("\n".join(map(str, paths)))
  browser.execute_script(DROP, hand, one(browser, "#drop"))
  browser.execute_script("arguments[0].remove()", hand)


def scored(browser, address, folder, **images):
  """Opens the page and has images of these names scored; each is the arguments of `encoded`."""
  browser.get(address)
  wait(browser, lambda: "higher is better" in one(browser, "#model").text)
  for name, arguments in images.items():
    (folder / f"{name}.png").write_bytes(encoded(**arguments))
  drop(browser, *(folder / f"{name}.png" for name in images))
  wait(browser, one(browser, "#download").is_enabled)


def test_dropped_images_are_scored_and_the_table_can_be_downloaded(address, browser, tmp_path):
  names = ["=1+1,dark.png", "<b>light<b>.png"]
  for name, gray in zip(names, (51, 204), strict=True):
    (tmp_path / name).write_bytes(encoded(color=gray))
  (tmp_path / "bomb.png").write_bytes(png_header(60_000, 60_000))
  browser.get(address)
  wait(browser, lambda: "0 to 100, higher is better" in one(browser, "#model").text)
  drop(browser, *(tmp_path / name for name in names), tmp_path / "bomb.png")
  button = one(browser, "#download")
  wait(browser, button.is_enabled)

  assert one(browser, "#summary").text == "2 images scored · mean 50.0 · 1 failed"
  assert texts(browser, "#list .name") == [*names, "bomb.png"]
  assert texts(browser, "#list .score")[:2] == ["20.0 ± 16.4", "80.0 ± 16.4"]  # 1.645 deviations
  assert "pixels" in browser.find_elements(CSS, "#list .error")[2].text
  assert one(browser, "#list .facts").text == "distortion\n=blur (81 %)\nlevel\n2\nsize\n40 × 30"
  ends = "const {left, width} = arguments[0].getBoundingClientRect(); return [left, left + width]"
  scale, band = (browser.execute_script(ends, one(browser, f"#list .range{part}")) for part in ("", " i"))
  shares = [(end - scale[0]) / (scale[1] - scale[0]) for end in band]
  assert shares == pytest.approx([0.0355, 0.3645], abs=0.01)
  one(browser, "#order option[value=best]").click()
  assert texts(browser, "#list .name") == [names[1], names[0], "bomb.png"]

  button.click()
  table = browser.downloads / "scores.csv"
  wait(browser, table.exists)
  with table.open(newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["name"] for row in rows] == [f"'{names[0]}", names[1], "bomb.png"]
  assert [float(row["score"]) for row in rows[:2]] == pytest.approx([20, 80])
  assert (rows[0]["distortion"], rows[0]["score_std"]) == ("'=blur", "10")
  assert (rows[0]["width"], rows[0]["height"], rows[0]["error"]) == ("40", "30", "")
  assert rows[2]["score"] == "" and "pixels" in rows[2]["error"]


def test_what_the_scores_mean_is_told_in_words_to_who_asks(address, browser):
  browser.get(address)
  wait(browser, lambda: one(browser, "#model").text.startswith("brightness"))
  assert not one(browser, "#meaning").is_displayed()
  one(browser, "#about > summary").click()
  told = one(browser, "#meaning").text
  for part in ("0 to 100", "that of 88 %", "1 point: 49 %, 10 points: 74 %", "299 images of greys", "SRCC 0.853"):
    assert part in told
  assert "Trained on <b>grays</b>. Licence: free." in told and "Not for night." in told
  assert not one(browser, "#card").is_displayed()
  one(browser, "#about details > summary").click()
  # What comes from outside is text, and nothing breaks the policy.
  assert "<script>alert(1)</script>" in one(browser, "#card").text
  assert len(browser.find_elements(CSS, "#card script, #meaning b, #list b:not(.range b)")) == 0
  assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_map_is_fetched_and_laid_over_its_image_on_a_click(address, browser, tmp_path):
  scored(browser, address, tmp_path, a={}, b={})
  asked = "return performance.getEntriesByType('resource').filter(e => e.name.includes('saliency=true')).length"
  first, second = browser.find_elements(CSS, "#list .map")
  button = one(browser, "#list .where")
  assert browser.execute_script(asked) == 0
  button.click()
  wait(browser, first.is_displayed)
  assert not second.is_displayed() and button.get_attribute("title") == "where it is gray"
  button.click()
  assert not first.is_displayed()
  one(browser, "#list .frame").click()
  assert not one(browser, "#panes .map").is_displayed()
  one(browser, "#where").click()
  wait(browser, one(browser, "#panes .map").is_displayed)
  assert one(browser, "#legend").text == "where it is gray" and browser.execute_script(asked) == 1
  one(browser, "#close").click()
  assert not one(browser, "#viewer").is_displayed()


@pytest.mark.parametrize("width", [400, 1280])
def test_two_images_are_compared_at_100_percent_and_move_together(address, browser, tmp_path, width):
  with screen(browser, width):
    scored(browser, address, tmp_path, a={"size": (2000, 1500)}, b={}, c={"size": (2000, 1500), "color": 200})
    pick = browser.find_elements(CSS, "#list .pick")
    pick[0].click()
    assert [button.text for button in pick] == ["Compare", "with this", "with this"]
    pick[2].click()
    assert texts(browser, "#panes .name") == ["a.png", "c.png"]
    assert texts(browser, "#panes .value") == ["39.2 ± 16.4", "78.4 ± 16.4"]
    shape = "return [...document.querySelectorAll('#panes .whole')].map(image => [image.width, image.height])"
    wait(browser, lambda: browser.execute_script(shape) == [[2000, 1500]] * 2)
    browser.execute_script("document.querySelector('.scroller').scrollTo(700, 300)")
    place = "return [...document.querySelectorAll('.scroller')].map(pane => [pane.scrollLeft, pane.scrollTop])"
    wait(browser, lambda: browser.execute_script(place) == [[700, 300]] * 2)
    one(browser, "#zoom").click()
    for image, pane in zip(browser.execute_script(shape), browser.find_elements(CSS, "#panes .scroller"), strict=True):
      assert image[0] <= pane.size["width"] and image[1] <= pane.size["height"]
    one(browser, "#close").click()
    assert [button.text for button in pick] == ["Compare"] * 3


def test_when_the_server_is_gone_the_page_says_so_and_goes_on_when_it_is_back(browser, tmp_path):
  with serving() as address:
    port = int(address.rpartition(":")[2])
    scored(browser, address, tmp_path, before={})
    assert not one(browser, "#banner").is_displayed()
  (tmp_path / "meanwhile.png").write_bytes(encoded(color=204))
  drop(browser, tmp_path / "meanwhile.png")
  wait(browser, one(browser, "#banner").is_displayed)
  assert "The server does not answer" in one(browser, "#banner").text
  assert one(browser, "#summary").text == "1 image scored · mean 39.2 · 1 to go"
  with serving(port=port):
    wait(browser, one(browser, "#download").is_enabled)
    assert texts(browser, "#list .score output") == ["39.2", "80.0"] and not one(browser, "#banner").is_displayed()
  browser.execute_script("dispatchEvent(new Event('focus'))")  # also where nothing waits
  wait(browser, one(browser, "#banner").is_displayed)
  drop(browser, tmp_path / "meanwhile.png")
  with serving("Brightness", port):
    wait(browser, lambda: "another model" in one(browser, "#banner").text)
    wait(browser, one(browser, "#download").is_enabled)
    assert "reload this page" in browser.find_elements(CSS, "#list .error")[2].text


@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_fits(address, browser, tmp_path, width):
  with screen(browser, width):
    scored(browser, address, tmp_path, **{"long_name_" * 12: {"size": (800, 200)}}, tall={"size": (60, 700)})
    buttons = browser.find_elements(CSS, "#list .where")
    for button, over in zip(buttons, browser.find_elements(CSS, "#list .map"), strict=True):
      button.click()
      wait(browser, over.is_displayed)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    for image, over, frame in browser.execute_script(
      "return [...document.querySelectorAll('.frame')].map(frame => [frame.querySelector('canvas'), "
      "frame.querySelector('.map'), frame].map(part => part.getBoundingClientRect()))"
    ):
      assert image["width"] > 10
      assert image["width"] <= frame["width"] and image["height"] <= frame["height"]
      for side in ("left", "top", "width", "height"):
        assert abs(image[side] - over[side]) <= 1, f"the map does not lie on the image: {side}"
