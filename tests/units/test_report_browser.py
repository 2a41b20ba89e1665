"""The report in a real browser: headless Chromium, driven through its DevTools pipe with the standard library alone."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_example import crowded, example

from edm_unified.report import build

FIGURES = True  # drawn, not dots: see conftest.py

CHROMIUM = next(
    (path for n in ("chromium", "chromium-browser", "google-chrome", "chrome") if (path := shutil.which(n))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"),
    *("--disable-component-update", "--no-first-run", "--hide-scrollbars", "--remote-debugging-pipe"),
)


class Browser:
    """One tab. ``events`` are all notifications since the last ``open``."""

    def __init__(self, profile: str) -> None:
        command_out, command_in = os.pipe()
        reply_out, reply_in = os.pipe()
        self._out, self._reader, self._rest, self._last = command_in, reply_out, b"", 0
        # Chromium reads commands from descriptor 3 and answers on 4; pytest may hold those numbers already.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 50) for fd in (command_out, reply_in)]
        redirect = ["/bin/sh", "-c", f'exec "$@" 3</dev/fd/{high[0]} 4>/dev/fd/{high[1]}', "sh"]
        self.process = subprocess.Popen(
            [*redirect, str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=high,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (*high, command_out, reply_in):
            os.close(fd)
        self.events: list[dict[str, Any]] = []
        self._session: str | None = None

    def start(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._reader], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError("Chromium did not answer in time")
            part = os.read(self._reader, 1 << 20)
            if not part:
                raise ConnectionError("Chromium has gone")
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 300
        while True:
            answer = self._read(deadline)
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(
        self, path: Path, width: int = 1280, dark: bool = False, media: str = "screen", script: bool = True
    ) -> None:
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500
        )
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        deadline = time.monotonic() + 300
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._read(deadline))

    def run(self, script: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def close(self) -> None:
        self._session = None
        with contextlib.suppress(OSError, ConnectionError, TimeoutError):
            self.call("Browser.close")
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._out)
        os.close(self._reader)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    profile = tempfile.mkdtemp(prefix="edm-unified-chromium-")
    tab = Browser(profile)
    try:
        tab.start()
        yield tab
    finally:
        tab.close()
        shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(build(example()), "utf-8")
    return path


def column(table: int, place: int) -> str:
    """JavaScript for the texts of a column of the table-th ranked table."""
    return (
        f"[...document.querySelectorAll('table.ranked')[{table}].tBodies[0].rows]"
        f".map(r => (r.children[{place}].dataset.sort ?? r.children[{place}].textContent).trim())"
    )


def click(table: int, place: int) -> str:
    return f"document.querySelectorAll('table.ranked')[{table}].tHead.rows[0].children[{place}].firstChild.click()"


def test_loads_without_an_error_or_a_request(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.run("for (const b of document.querySelectorAll('button')) b.click()")
    problems = [e for e in browser.events if e.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")]
    assert problems == []
    asked = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert [u for u in asked if not u.startswith("data:")] == [report.as_uri()]


def test_every_column_sorts_both_ways(browser: Browser, report: Path) -> None:
    browser.open(report)
    columns = browser.run("document.querySelector('table.ranked').tHead.rows[0].children.length")
    for place in range(1, columns):
        numeric = "num" in browser.run(
            f"document.querySelector('table.ranked').tHead.rows[0].children[{place}].className"
        )
        head = f"document.querySelector('table.ranked').tHead.rows[0].children[{place}]"
        browser.run(f"{head}.removeAttribute('aria-sort')")
        for wanted in ("ascending", "descending"):
            browser.run(click(0, place))
            assert browser.run(f"{head}.getAttribute('aria-sort')") == wanted
            assert browser.run("document.querySelector('table.ranked').querySelectorAll('[aria-sort]').length") == 1
            shown = browser.run(column(0, place))
            valued = [x for x in shown if x not in ("", "–", "nan")]
            assert shown[: len(valued)] == valued  # those without a value are last either way
            keys = [float(x) for x in valued] if numeric else [x.lower() for x in valued]
            if numeric:
                assert keys == sorted(keys, reverse=wanted == "descending")
            else:
                assert sorted(keys, reverse=wanted == "descending")[0] == keys[0]


def test_choosing_a_metric_ranks_every_table_by_it(browser: Browser, report: Path) -> None:
    browser.open(report)
    assert browser.run("document.querySelector('.tool').hidden") is False
    browser.run(
        "{const s = document.getElementById('rank-by'); s.value = 'log_density_gap';"
        " s.dispatchEvent(new Event('change'))}"
    )
    place = browser.run(
        "[...document.querySelector('table.ranked').tHead.rows[0].cells]"
        ".findIndex(h => h.dataset.metric == 'log_density_gap')"
    )
    for table in range(5):
        values = [float(x) for x in browser.run(column(table, place))]
        assert values == sorted(values)
        ranks = [x for x in browser.run(column(table, 0)) if x != "–"]
        assert ranks[0] in ("1", "1=")
        numbers = [int(x.rstrip("=")) for x in ranks]
        assert numbers[0] == 1
        assert all(a <= i + 1 for i, a in enumerate(numbers))
        caption = browser.run(f"document.querySelectorAll('table.ranked')[{table}].caption.textContent")
        assert caption.endswith("ranked by Log-density gap")


def test_picking_a_method_dims_the_others(browser: Browser, report: Path) -> None:
    browser.open(report)
    look = "['.m9', '.m0'].map(q => getComputedStyle(document.querySelector('#errors svg.plot ' + q)).opacity)"
    assert browser.run(look) == ["1", "1"]
    pick = "document.querySelector('#errors .legend li[data-method=\"9\"] button').click()"
    browser.run(pick)
    shown, dimmed = map(float, browser.run(look))
    assert shown == 1
    assert dimmed < 0.3
    browser.run(pick)
    assert browser.run(look) == ["1", "1"]


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_the_page_never_scrolls_sideways(browser: Browser, report: Path, width: int) -> None:
    browser.open(report, width)
    assert browser.run("document.documentElement.scrollWidth") == width
    escaping = browser.run(
        f"""[...document.querySelectorAll('main *, header *')].filter(e =>
              e.getBoundingClientRect().right > {width} + 1 && !e.closest('.scroll, pre, .formula, svg, .skip'))
            .map(e => e.tagName + '.' + e.className)"""
    )
    assert escaping == []


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("busy") / "report.html"
    path.write_text(build(crowded()), "utf-8")
    return path


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("page", ["report", "busy"])
def test_no_text_in_a_figure_is_small_cut_or_printed_over(
    browser: Browser, page: str, width: int, request: pytest.FixtureRequest
) -> None:
    browser.open(request.getfixturevalue(page), width)
    found = browser.run(
        """[...document.querySelectorAll('svg.plot')].flatMap(svg => {
          const box = svg.getBoundingClientRect(), bad = [];
          const texts = [...svg.querySelectorAll('text')].filter(t => t.textContent.trim()).map(t => {
            const r = t.getBoundingClientRect(), trim = 0.22 * Math.min(r.height, r.width);
            return {name: t.textContent, l: r.left, r: r.right, t: r.top + trim, b: r.bottom - trim,
                    size: parseFloat(getComputedStyle(t).fontSize) * box.width / svg.viewBox.baseVal.width};
          });
          for (const t of texts) {
            if (t.size < 8) bad.push(['small', t.name, t.size]);
            if (t.l < box.left - 4 || t.r > box.right + 4 || t.t < box.top - 4 || t.b > box.bottom + 4)
              bad.push(['cut', svg.getAttribute('aria-label'), t.name]);
          }
          for (let i = 0; i < texts.length; i++) for (let j = 0; j < i; j++) {
            const a = texts[i], b = texts[j];
            if (Math.min(a.r, b.r) - Math.max(a.l, b.l) > 0.5 && Math.min(a.b, b.b) - Math.max(a.t, b.t) > 0.5)
              bad.push(['over', svg.getAttribute('aria-label'), a.name, b.name]);
          }
          return bad;
        })"""
    )
    assert found == []


def test_light_dark_and_print(browser: Browser, report: Path) -> None:
    look = """(() => {
      const line = [...document.querySelectorAll('#errors .m0 path')].find(p => p.style.stroke.startsWith('var'));
      return [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
              getComputedStyle(line).stroke, getComputedStyle(document.querySelector('#errors text')).fill];
    })()"""
    seen = {}
    for name, dark, media in (("light", False, "screen"), ("dark", True, "screen"), ("print", True, "print")):
        browser.open(report, dark=dark, media=media)
        seen[name] = browser.run(look)
    assert all(a != b for a, b in zip(seen["light"], seen["dark"], strict=True))
    assert seen["print"] == seen["light"]
    assert seen["light"][0] == "rgb(255, 255, 255)"
    assert browser.run("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_reads_without_javascript(browser: Browser, report: Path) -> None:
    browser.open(report, script=False)
    state = browser.call("DOM.getDocument", depth=0)["root"]["nodeId"]
    found = browser.call("DOM.querySelectorAll", nodeId=state, selector="table.ranked tbody tr")["nodeIds"]
    assert len(found) == 11 * 5
    assert browser.call("DOM.querySelectorAll", nodeId=state, selector="button")["nodeIds"] == []
    assert len(browser.call("DOM.querySelectorAll", nodeId=state, selector=".tool[hidden]")["nodeIds"]) == 1


def test_images_keep_their_pixels_and_all_decode(browser: Browser, report: Path) -> None:
    browser.open(report)
    images = browser.run(
        """[...document.querySelectorAll('.pictures img')].map(i =>
             [i.complete, i.naturalWidth, i.width / i.naturalWidth, getComputedStyle(i).imageRendering])"""
    )
    assert len(images) == 12  # data, exact endpoints, and eleven methods of which one diverged
    for complete, natural, zoom, rendering in images:
        assert complete
        assert natural == 8 * 9 - 1
        assert zoom == 3
        assert rendering == "pixelated"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [375, 1280])
def test_heat_maps_are_readable_on_every_screen(browser: Browser, tmp_path: Path, width: int, dark: bool) -> None:
    """33 methods at 12 budgets: the page does not scroll sideways, the row's name stays, and no number is clipped."""
    path = tmp_path / "report.html"
    path.write_text(build(crowded(11)), "utf-8")
    browser.open(path, width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.querySelectorAll('#map table.heat tbody tr').length") == 33
    assert browser.run("document.querySelectorAll('#errors, #samples, #levels').length") == 0
    found = browser.run(
        """(() => {
          const box = document.querySelector('#map table.heat').parentNode, cells = [...box.querySelectorAll('td')];
          box.scrollLeft = 1e6;
          const names = [...box.querySelectorAll('tbody th')].map(e => e.getBoundingClientRect().left);
          return {small: cells.filter(e => parseFloat(getComputedStyle(e).fontSize) < 9).length,
                  clipped: cells.filter(e => e.scrollWidth > e.clientWidth + 1).length,
                  gone: names.filter(x => x < 0).length,
                  colours: new Set(cells.map(e => getComputedStyle(e).backgroundColor)).size};
        })()"""
    )
    assert (found["small"], found["clipped"], found["gone"]) == (0, 0, 0)
    assert found["colours"] >= 8
