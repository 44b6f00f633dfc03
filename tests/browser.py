"""A headless Chromium, driven by selenium, and what tests do with its pages."""

import contextlib

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

CSS = By.CSS_SELECTOR
FLAGS = (
  "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
  "disable-component-update", "disable-sync", "disable-dev-shm-usage",
)  # fmt: skip


def start(chromium, driver, folder):
  """Yields a browser whose profile and `downloads` are in a folder."""
  options = webdriver.ChromeOptions()
  options.binary_location = chromium
  for flag in (*FLAGS, f"user-data-dir={folder / 'profile'}"):
    options.add_argument(f"--{flag}")
  options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
  browser.downloads = folder
  yield browser
  browser.quit()


def wait(browser, condition):
  return WebDriverWait(browser, 20, poll_frequency=0.05).until(lambda _: condition())


def one(browser, selector):
  return browser.find_element(CSS, selector)


def texts(browser, selector):
  return [element.text for element in browser.find_elements(CSS, selector)]


@contextlib.contextmanager
def screen(browser, width, touch=False):
  """A window of so many pixels, of a phone where it is `touch`ed."""
  command = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": touch}
  browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", command)
  try:
    yield
  finally:
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
