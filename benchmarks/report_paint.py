"""How large a report is, how long it takes to write, and how soon a browser paints it.

    python benchmarks/report_paint.py 10000 200000

For each number of completions a run is drawn (tests/support/synthetic.py), its report written, and opened
five times from the disk in headless Chromium (Debian's packages chromium and chromium-driver).
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from browser import MISSING, Browser  # noqa: E402
from synthetic import synthetic_run  # noqa: E402

from rlreason.html_report import write_report  # noqa: E402

TIMES = 5
GROUP, GROUPS = 8, 25
READY = "document.querySelector('#completions').dataset.ready === 'true'"
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def main(counts: list[int]) -> None:
    if MISSING:
        sys.exit(MISSING)
    print("completions  in the page       MB  s to write  s to first paint  s until all of it answers")
    with tempfile.TemporaryDirectory() as folder, Browser(Path(folder, "profile")) as browser:
        for count in counts:
            steps = max(count // (GROUP * GROUPS), 1)
            root = synthetic_run(
                Path(folder, str(count)), steps=steps, groups=GROUPS, group_size=GROUP, words=20
            )
            start = time.perf_counter()
            written = write_report([root], root / "report.html")
            seconds = time.perf_counter() - start
            paints, readies = zip(*(opened(browser, written.path) for _ in range(TIMES)), strict=True)
            print(
                f"{written.completions:>11,}  {written.shown:>11,}  {written.size / 1e6:>7.1f}"
                f"  {seconds:>10.1f}  {told(paints)}  {told(readies)}",
                flush=True,
            )


def told(seconds: tuple[float, ...]) -> str:
    return f"{statistics.median(seconds):>7.2f} (at most {max(seconds):.2f})"


def opened(browser: Browser, path: Path) -> tuple[float, float]:
    """Seconds from the start of loading to the first paint, and until the completions can be searched."""
    browser.open(path)
    browser.wait(READY)
    browser.wait(PAINT)
    ready = browser.run("return Number(document.querySelector('#completions').dataset.readyAt)")
    return browser.run(f"return {PAINT}") / 1000, ready / 1000


if __name__ == "__main__":
    main([int(count) for count in sys.argv[1:] or ("10000", "200000")])
