"""A headless Chromium for tests, driven over the WebDriver protocol with the standard library."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--disable-dev-shm-usage",
)


def find_browser() -> tuple[str, str] | None:
    """Paths of a browser and its driver; None where one of them is not installed."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


class Browser:
    """One window: pages are opened in it, and scripts run in them."""

    def __init__(self, address: str, session: str):
        self.address, self.session = address, session

    def call(self, command: str, body: dict | None = None, method: str = "POST"):
        """What the driver answers to a command of this session."""
        return request(f"{self.address}/session/{self.session}/{command}", body, method)

    def open(self, page: Path) -> None:
        """Open a file."""
        self.call("url", {"url": page.resolve().as_uri()})

    def run(self, script: str, *args):
        """What a script returns, run in the page."""
        return self.call("execute/sync", {"script": script, "args": list(args)})

    def press(self, *keys: str) -> None:
        """Press keys one after the other, wherever the focus is."""
        actions = []
        for key in keys:
            actions += [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self.call("actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def emulate(self, width: int, height: int = 900, scheme: str = "light") -> None:
        """The width of the window in pixels, and a light or dark colour scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.devtools("Emulation.setEmulatedMedia", features=[feature])

    def devtools(self, command: str, **params):
        """A command of the DevTools protocol."""
        return self.call("goog/cdp/execute", {"cmd": command, "params": params})

    def log(self, kind: str) -> list[dict]:
        """Entries of the "browser" (console) or "performance" (network) log since the last call."""
        return self.call("se/log", {"type": kind})

    def requests(self) -> list[str]:
        """The addresses that were asked for since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        sent = [m for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [message["params"]["request"]["url"] for message in sent]


def request(address: str, body: dict | None, method: str):
    """The value that the driver answers; its errors are raised with their message."""
    content = json.dumps(body or {}).encode() if method == "POST" else None
    sent = urllib.request.Request(address, content, {"Content-Type": "application/json"})
    sent.get_method = lambda: method
    try:
        with urllib.request.urlopen(sent, timeout=60) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(json.load(error)["value"]["message"]) from None


@contextmanager
def start_browser(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile in this folder; it ends with the block."""
    browser, driver = find_browser()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([driver, f"--port={port}"], **quiet)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address)
        options = {"binary": browser, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        capabilities = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        body = {"capabilities": {"alwaysMatch": capabilities}}
        session = request(f"{address}/session", body, "POST")["sessionId"]
        window = Browser(address, session)
        try:
            yield window
        finally:
            request(f"{address}/session/{session}", None, "DELETE")
    finally:
        process.terminate()
        process.wait()


def wait_for(address: str, seconds: float = 60) -> None:
    """Wait until the driver answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"{address}/status", timeout=5).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
