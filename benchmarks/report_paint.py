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
AT = "performance.getEntriesByName('{}')[0]?.startTime"


def main(counts: list[int]) -> None:
    if MISSING:
        sys.exit(MISSING)
    print(
        "completions  in the page       MB  s to write  seconds to first paint, to the headline, to the list"
    )
    with tempfile.TemporaryDirectory() as folder, Browser(Path(folder, "profile")) as browser:
        for count in counts:
            steps = max(count // (GROUP * GROUPS), 1)
            root = synthetic_run(
                Path(folder, str(count)), steps=steps, groups=GROUPS, group_size=GROUP, words=20
            )
            start = time.perf_counter()
            written = write_report([root], root / "report.html")
            seconds = time.perf_counter() - start
            times = zip(*(opened(browser, written.path) for _ in range(TIMES)), strict=True)
            size = f"{written.completions:>11,}  {written.shown:>11,}  {written.size / 1e6:>7.1f}"
            print(f"{size}  {seconds:>10.1f}  {'  '.join(map(told, times))}", flush=True)


def told(seconds: tuple[float, ...]) -> str:
    return f"{statistics.median(seconds):>7.2f} (at most {max(seconds):.2f})"


def opened(browser: Browser, path: Path) -> list[float]:
    """Seconds from the start of loading to the first paint, to the headline, to the list of completions."""
    browser.open(path)
    browser.wait(READY)
    browser.wait(f"{AT.format('first-contentful-paint')} !== undefined")
    names = ("first-contentful-paint", "headline", "completions")
    return [browser.run(f"return {AT.format(name)}") / 1000 for name in names]


if __name__ == "__main__":
    main([int(count) for count in sys.argv[1:] or ("10000", "200000")])
