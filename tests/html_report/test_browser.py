"""The report in a real browser: opened from the disk, clicked through, with nothing sent and nothing run."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import MISSING, Browser
from synthetic import synthetic_run

from rlreason.html_report import report, report_command

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

READY = "document.querySelector('#completions').dataset.ready === 'true'"
ROWS = "document.querySelectorAll('.list .row')"
EVIL = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
    "<svg onload='window.hacked = 3'>\x1b]0;title\x07\x1b[2J"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose first completion, its question and what a reward says of it try to get out.

    Nothing is learned from the last of each group of four.
    """
    root = synthetic_run(tmp_path_factory.mktemp("runs") / "run", seed=3, steps=24, groups=4, group_size=4)
    records = [json.loads(line) for line in (root / "samples.jsonl").read_text().splitlines()]
    records[0] |= {"text": EVIL, "question": f"What is {EVIL}?"}
    records[0]["scores"]["accuracy"]["reason"] = EVIL
    for record in records[3::4]:
        record["advantage"] = None
    (root / "samples.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    report_command([root], None)
    return root


@pytest.fixture
def page(browser: Browser, run: Path) -> Iterator[Browser]:
    """The report of the run, opened anew; afterwards the console and the network must be found silent."""
    opened(browser, run / "report.html")
    yield browser
    silent(browser)


def opened(browser: Browser, path: Path) -> None:
    browser.screen(1280, 900)
    browser.run("location.href = 'about:blank'")
    browser.log("browser")
    browser.requests()
    browser.open(path)
    browser.wait(READY)


def pick(browser: Browser, selector: str, value: str) -> None:
    browser.run(
        "const select = document.querySelector(arguments[0]); select.value = arguments[1];"
        "select.dispatchEvent(new Event('change'));",
        selector,
        value,
    )


def silent(browser: Browser) -> None:
    assert browser.log("browser") == []
    assert {url.split(":")[0] for url in browser.requests()} <= {"file", "about"}
    assert browser.run("return performance.getEntriesByType('resource').length") == 0
    assert browser.run("return window.hacked === undefined")


def test_the_headline_the_findings_and_the_curves_are_drawn(page: Browser, run: Path) -> None:
    evaluation = json.loads((run / "eval.json").read_text())
    assert page.text("h1") == "run"
    figures = page.run("return [...document.querySelectorAll('.figure-value')].map((one) => one.textContent)")
    before, after = (100 * evaluation[name]["accuracy"] for name in ("before", "after"))
    gain = 100 * evaluation["gain"]["value"]
    assert figures == [f"{before:.1f}%", f"{after:.1f}%", f"{gain:+.1f} points".replace("-", "\u2212")]
    assert page.run("return document.querySelectorAll('#findings .finding, #findings .calm').length") >= 1
    titles = page.run("return [...document.querySelectorAll('[data-chart]')].map((one) => one.dataset.chart)")
    assert {"reward", "held_out", "accuracy", "format", "length", "kl", "entropy", "grad_norm"} <= set(titles)
    assert {"sampler_gap", "informative", "reward/accuracy", "reward/think_format", "time"} <= set(titles)
    assert page.run("return document.querySelector('[data-chart=reward] canvas').width") > 100


def test_moving_over_a_chart_shows_that_step_in_all(page: Browser) -> None:
    shown = "document.querySelector('[data-chart={}] .chart-values small').textContent"
    assert page.run(f"return {shown.format('reward')}") == "step 24"
    page.run("document.querySelector('#curves').scrollIntoView()")
    page.wait("document.querySelector('[data-chart=entropy] .u-over')")
    page.move("[data-chart=reward] .u-over")
    page.wait(f"{shown.format('reward')} === 'step 12'")
    page.wait(f"{shown.format('entropy')} === 'step 12'")


def test_a_click_on_a_chart_leads_to_the_completions_of_that_step(page: Browser) -> None:
    page.run("document.querySelector('#curves').scrollIntoView()")
    page.wait("document.querySelector('[data-chart=reward] .u-over')")
    page.move("[data-chart=reward] .u-over", press=True)
    page.wait("!document.querySelector('#selection').hidden")
    assert page.text("#selection b") == "Step 12"
    page.click("#selection .primary")
    page.wait("Math.abs(document.querySelector('#completions').getBoundingClientRect().top) < 120")
    assert page.text(".found") == "16 completions of step 12"
    assert page.run("return document.querySelector('#step').value") == "12"
    assert page.text(".detail-place b") == "Step 12"
    page.click("#selection button:last-child")
    page.wait("document.querySelector('#selection').hidden")
    assert page.text(".found") == "384 completions"


def test_search_and_filters_narrow_the_list(page: Browser) -> None:
    page.type("#words", "SEEN QUESTIONS LIKE")
    page.wait("document.querySelectorAll('.list mark').length > 0")
    guesses = int(page.text(".found").split()[0])
    assert 0 < guesses < 384
    assert page.run("return document.querySelector('.detail mark').textContent") == "seen questions like"
    page.type("#reward-from", "0.1")
    page.wait(f"document.querySelector('.found').textContent !== '{guesses} completions'")
    # Guesses earn 0.1 for the form, or nothing.
    tags = page.run(f"return [...{ROWS}].map((row) => Number(row.querySelector('.tag').textContent))")
    assert set(tags) == {0.1}
    page.type("#words", "there is no such text")
    page.wait("document.querySelector('.found').textContent === '0 completions'")
    assert page.text(".detail .empty") == "Nothing fits these filters."


def test_the_order_can_be_chosen(page: Browser) -> None:
    pick(page, "#order", "reward-down")
    tags = page.run(f"return [...{ROWS}].map((row) => Number(row.querySelector('.tag').textContent))")
    assert tags == sorted(tags, reverse=True)
    assert tags[0] == 1.1


def test_only_the_rows_in_sight_are_in_the_page(page: Browser) -> None:
    assert page.run(f"return {ROWS}.length") < 40
    page.run("document.querySelector('.list').scrollTop = 1e9")
    page.wait("document.querySelector('.list .row:last-child .row-head').textContent.includes('step 24')")


def test_think_answer_and_reasons_are_shown(page: Browser) -> None:
    page.run(f"{ROWS}[5].click()")
    heads = page.run(
        "return [...document.querySelectorAll('.detail .piece h5')].map((one) => one.textContent)"
    )
    assert heads[0] == "Thinking"
    assert page.run("return document.querySelectorAll('.detail .scores tr').length") == 2
    assert page.text(".detail .scores .reason")


def test_a_group_is_shown_side_by_side_with_advantages(page: Browser) -> None:
    assert page.run("return document.querySelectorAll('.strip button').length") == 4
    page.click(".strip button:nth-child(3)")
    assert "3 of 4" in page.text(".detail-place")
    page.click(".detail .segmented button:nth-child(2)")
    assert page.run("return document.querySelectorAll('.beside-one').length") == 4
    assert page.run("return document.querySelectorAll('.beside-one .advantage').length") == 4
    facts = page.run(
        "return [...document.querySelectorAll('.beside-one .facts')].map((one) => one.textContent)"
    )
    assert ["advantage" in fact for fact in facts] == [True, True, True, False]
    assert "not learned from" in facts[3]
    assert (
        page.run(
            "return [...document.querySelectorAll('.beside-one')].findIndex((one) => one.matches('.chosen'))"
        )
        == 2
    )


def test_html_in_a_completion_is_text_and_does_not_run(page: Browser) -> None:
    shown = page.run("return document.querySelector('.detail .pieces').textContent")
    assert "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>" in shown
    assert "\u241b]0;title\u2407\u241b[2J" in shown  # escape codes, visibly
    assert "<img src=x" in page.text(".detail .question")
    assert "<svg onload" in page.text(".detail .scores .reason")
    active = "main img, main script, main iframe, [onload], [onerror]"
    assert page.run("return document.querySelectorAll(arguments[0]).length", active) == 0


def test_the_theme_is_the_systems_until_the_button_is_used(page: Browser) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.run(f"return {background}")
    page.screen(1280, 900, dark=True)
    dark = page.run(f"return {background}")
    assert dark != light
    page.click("#theme")
    assert page.run(f"return {background}") == light
    page.click("#theme")
    assert page.run(f"return {background}") == dark
    page.run("localStorage.clear()")


def test_a_phone_needs_no_sideways_scrolling(page: Browser) -> None:
    page.screen(390, 844, phone=True)
    for section in ("summary", "findings", "curves", "time", "completions"):
        page.run(f"document.querySelector('#{section}').scrollIntoView()")
        assert page.run("return document.documentElement.scrollWidth") <= 390, section
    page.run(f"{ROWS}[1].click()")
    page.run("document.querySelectorAll('.detail .segmented button')[1].click()")
    assert page.run("return document.documentElement.scrollWidth") <= 390


def test_several_runs_share_the_charts(browser: Browser, run: Path, tmp_path: Path) -> None:
    other = synthetic_run(tmp_path / "other", seed=4, steps=18, groups=2, group_size=2, lr=3e-5)
    report_command([run, other], tmp_path / "both.html")
    opened(browser, tmp_path / "both.html")
    assert browser.text("h1") == "2 runs compared"
    assert browser.run("return document.querySelectorAll('.compared tbody tr').length") == 2
    values = "document.querySelectorAll('[data-chart=reward] .chart-value').length"
    browser.run("document.querySelector('#curves').scrollIntoView()")
    browser.wait(f"{values} === 2")
    browser.click(".legend button:nth-child(1)")
    browser.wait(f"{values} === 1")
    pick(browser, "#completions .tools select", "1")
    assert browser.text(".found") == "72 completions"
    silent(browser)


def test_a_sample_says_by_which_rule_it_was_drawn(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = synthetic_run(tmp_path / "run", steps=40, groups=4, group_size=4)
    said = []
    for room in (
        60_000,
        6_000,
    ):  # a group takes some 1,200 bytes: one of each of 40 steps, then of fewer steps
        monkeypatch.setattr(report, "ROOM", room)
        report_command([root], None)
        opened(browser, root / "report.html")
        said.append(browser.text(".rule"))
    assert "A sample: 160 of 640 completions, the first group of every step, each group whole." in said[0]
    assert re.search(
        r"A sample: \d+ of 640 completions, the first group of [2-9] of 40 steps, spread evenly", said[1]
    )
    assert "The middle of a text is left out beyond 6,000 characters." in said[1]
    silent(browser)


@pytest.mark.parametrize("left", ["sft", "begun", "no samples"])
def test_runs_that_lack_parts_are_drawn_too(browser: Browser, run: Path, tmp_path: Path, left: str) -> None:
    root = tmp_path / "run"
    shutil.copytree(run, root)
    (root / "samples.jsonl").unlink()
    if left != "no samples":
        shutil.rmtree(root / "evaluations")
        (root / "eval.json").unlink()
        lines = (root / "metrics.jsonl").read_text().splitlines(keepends=True)
        kept = [line for line in lines if left == "sft" and '"stage": "sft"' in line]
        (root / "metrics.jsonl").write_text("".join(kept))
    report_command([root], None)
    browser.run("location.href = 'about:blank'")
    browser.log("browser")
    browser.requests()
    browser.open(root / "report.html")
    browser.wait("document.querySelector('#completions .empty')")
    assert browser.run("return document.querySelectorAll('[data-chart]').length > 0") == (left != "begun")
    silent(browser)


def test_the_policy_holds_against_scripts_that_get_in(browser: Browser, run: Path) -> None:
    """As if a completion had found a way into the page all the same. Last, as the refusals are logged."""
    opened(browser, run / "report.html")
    browser.run(
        """
        const script = document.createElement("script");
        script.textContent = "window.hacked = 4";
        const box = document.createElement("div");
        box.innerHTML = "<img src='https://example.invalid/x' onerror='window.hacked = 5'>";
        document.body.append(script, box);
        window.sent = "";
        const told = (word) => () => { window.sent = word; };
        fetch("https://example.invalid/").then(told("sent"), told("refused"));
        """
    )
    browser.wait("window.sent === 'refused'")
    assert browser.run("return window.hacked === undefined")
    told = [entry["message"] for entry in browser.log("browser")]
    assert sum("Content Security Policy" in message for message in told) >= 3
    outside = {url: why for url, why in browser.requests().items() if url.startswith("http")}
    assert set(outside.values()) <= {"csp"}
