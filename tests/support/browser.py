"""A headless Chromium, driven through chromedriver by the WebDriver protocol, with the standard library."""

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MISSING = (
    ""
    if CHROMIUM and DRIVER
    else "chromium and chromedriver are not installed (Debian: chromium chromium-driver)"
)

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
_SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Whatever is asked for by name is not found; an address would be refused all the same.
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


class Browser:
    """One browser with one window and an empty profile in `folder`; usable in a `with` statement."""

    def __init__(self, folder: Path, *, width: int = 1280, height: int = 900) -> None:
        self._driver = subprocess.Popen(
            [str(DRIVER), "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            self._base = f"http://127.0.0.1:{self._port()}"
            arguments = [*_SWITCHES, f"--user-data-dir={folder}", f"--window-size={width},{height}"]
            options = {"binary": CHROMIUM, "args": arguments}
            wanted = {
                "browserName": "chrome",
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            }
            session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self._base += f"/session/{session['sessionId']}"
        except BaseException:
            self._driver.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._call("DELETE", "", None)
        finally:
            self._driver.terminate()
            self._driver.wait(timeout=20)
            if self._driver.stdout:
                self._driver.stdout.close()

    def open(self, path: Path) -> None:
        self._call("POST", "/url", {"url": path.resolve().as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """What `script` returns; `arguments` are its `arguments`."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, condition: str, *, seconds: float = 20) -> Any:
        """Wait until the expression is true, and return it."""
        end = time.monotonic() + seconds
        while not (value := self.run(f"return {condition};")):
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds} s: {condition}")
            time.sleep(0.05)
        return value

    def click(self, selector: str) -> None:
        """Click as a person does: the element must be in sight and not covered."""
        self._call("POST", f"/element/{self._find(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Replace what an input holds."""
        element = self._find(selector)
        self._call("POST", f"/element/{element}/clear", {})
        self._call("POST", f"/element/{element}/value", {"text": text})

    def text(self, selector: str) -> str:
        return str(self._call("GET", f"/element/{self._find(selector)}/text", None))

    def move(self, selector: str, x: int = 0, y: int = 0, *, press: bool = False) -> None:
        """Move the pointer to a place that is `x`, `y` away from the middle of an element; press there."""
        origin = {_ELEMENT: self._find(selector)}
        steps: list[dict[str, Any]] = [
            {"type": "pointerMove", "duration": 30, "origin": origin, "x": x, "y": y},
        ]
        if press:
            steps += [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        pointer = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": steps}
        self._call("POST", "/actions", {"actions": [pointer]})

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What was logged since the last call: "browser" (the console) or "performance" (the network)."""
        return list(self._call("POST", "/se/log", {"type": kind}))

    def requests(self) -> dict[str, str]:
        """The addresses of all requests since the last call, the page's own among them.

        Each with the reason for which the browser itself has refused it, such as "csp"; "" if it has not.
        """
        events = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        asked, refused = {}, {}
        for event in events:
            what = event["params"]
            if event["method"] == "Network.requestWillBeSent":
                asked[what["requestId"]] = str(what["request"]["url"])
            elif event["method"] == "Network.loadingFailed":
                refused[what["requestId"]] = str(what.get("blockedReason", ""))
        return {url: refused.get(number, "") for number, url in asked.items()}

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def screen(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        """Look at the page in a window of that size, by a system that is set to light or dark."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Save what is in sight, or the `whole` page, as PNG."""
        shot = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _port(self) -> int:
        assert self._driver.stdout is not None
        for line in self._driver.stdout:
            if found := re.search(r"on port ([1-9]\d*)\.?\s*$", line):
                return int(found[1])
        raise RuntimeError("chromedriver did not start")

    def _find(self, selector: str) -> str:
        found = self._call("POST", "/element", {"using": "css selector", "value": selector})
        return str(found[_ELEMENT])

    def _call(self, method: str, path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data=data, method=method)
        request.add_header("Content-Type", "application/json")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            said = json.load(error)["value"]
            raise RuntimeError(f"{said['error']}: {said['message']}") from None
