"""The built book in a browser: every page loads from its own files, can be read at two widths, and has no
grave fault. With INTRINSIC_HTML, the folder of a built book, nothing is built."""

import functools
import http.server
import itertools
import os
import re
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote, urldefrag, urljoin, urlsplit

import axe_playwright_python
import pytest
import yaml
from browser import MISSING, find_chromium
from sphinx_external_toc.parsing import parse_toc_data

from intrinsic import images
from intrinsic.publishing import build

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.xdist_group("book")]
WIDTHS = (390, 1300)


def state_of_the_checkout():
    """Names, times and sizes of the files that a book is made from."""
    paths = [p for name in ("book", "params") for p in (images.REPOSITORY / name).rglob("*") if p.is_file()]
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in paths if ".ipynb_checkpoints" not in p.parts}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The book of the published records, built once: (folder of its pages, whether the checkout is as it was)."""
    if "INTRINSIC_HTML" in os.environ:
        return Path(os.environ["INTRINSIC_HTML"]), True
    root = tmp_path_factory.mktemp("book")
    before = state_of_the_checkout()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTRINSIC_STORE", str(root / "records"))
        index = build.build(output=root / "out", progress=False)
    return index.parent, before == state_of_the_checkout()


@pytest.fixture(scope="module")
def html(built):
    return built[0]


@pytest.fixture(scope="module")
def pages(html):
    toc = yaml.safe_load((html.parent / "source" / "_toc.yml").read_text(encoding="utf-8"))
    return [f"{name}.html" for name in parse_toc_data(toc)]


@pytest.fixture(scope="module")
def site(html):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(html)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    if path is None:
        pytest.fail(MISSING)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def context(chromium):
    made = chromium.new_context(viewport={"width": WIDTHS[1], "height": 900})
    made.set_default_timeout(90_000)  # other tests may keep the processors busy
    yield made
    made.close()


def opened(context, site, path, problems):
    """A page; `problems` gathers JavaScript errors, warnings, failed loads and requests to other hosts."""
    page, own = context.new_page(), (site, "data:", "blob:")
    page.on("request", lambda r: r.url.startswith(own) or problems.append(f"{path}: a request to {r.url}"))
    page.on("pageerror", lambda error: problems.append(f"{path}: {error}"))
    page.on("console", lambda m: m.type in ("error", "warning") and problems.append(f"{path}: {m.text}"))
    page.on("response", lambda r: r.status >= 400 and problems.append(f"{path}: {r.status} {r.url}"))
    page.goto(site + path, wait_until="load")
    return page


def draw_charts(page):
    """Scroll through a page; return how many charts it has once all of them are drawn."""
    charts = page.locator(".vega-chart")
    for i in range(charts.count()):
        page.evaluate("i => document.querySelectorAll('.vega-chart')[i].scrollIntoView()", i)
        charts.nth(i).locator(".vega-chart-live svg.marks").wait_for(state="attached")
    return charts.count()


def faults(page):
    """What axe-core calls a serious or critical fault of a page."""
    axe = next(Path(axe_playwright_python.__file__).parent.rglob("axe.min.js")).read_text(encoding="utf-8")
    page.evaluate(f"{axe}; 0")
    found = page.evaluate("axe.run(document, {preload: false, resultTypes: ['violations']})")["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found if one["impact"] in ("serious", "critical")
    ]


@pytest.fixture(scope="module")
def tour(context, site, pages):
    """Each page visited once: (what was seen on it, all problems)."""
    seen, problems = {}, []
    for path in pages:
        page = opened(context, site, path, problems)
        typeset = "[...document.querySelectorAll('article .math')].every(m => m.querySelector('mjx-container'))"
        facts = {"charts": draw_charts(page), "equations": page.wait_for_function(typeset) and 0}
        facts["equations"] = page.locator("article mjx-container").count()
        facts["wrong equations"] = page.locator("mjx-merror").count()
        facts["alternatives"] = page.eval_on_selector_all(
            "article img, .vega-chart", "all => all.map(i => i.getAttribute('alt') ?? i.ariaLabel ?? '')"
        )
        facts["faults"] = faults(page)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(200)
            facts[width] = page.evaluate("document.documentElement.scrollWidth")
        wide = "all => all.filter(t => t.scrollWidth > t.clientWidth + 1).map(t => t.innerText.slice(0, 80))"
        facts["wide tables"] = page.eval_on_selector_all(".table-scroll, .pst-scrollable-table-container", wide)
        facts["text"] = page.evaluate(
            "() => { const a = document.querySelector('article').cloneNode(true);"
            " a.querySelectorAll('pre, code, script, mjx-container').forEach(e => e.remove()); return a.textContent; }"
        )
        seen[path] = facts
        page.close()
    return seen, problems


def those(tour, fact, wrong):
    return {path: facts[fact] for path, facts in tour[0].items() if wrong(facts[fact])}


def test_faults_of_accessibility_are_found(context):
    page = context.new_page()
    page.set_content('<html lang="en"><title>t</title><p style="color: #eee; background: #fff">pale</p><img src="x">')
    assert [fault.partition(":")[0] for fault in faults(page)] == ["color-contrast", "image-alt"]
    page.close()


def test_the_checkout_is_left_as_it_was_and_all_pages_are_there(built, pages):
    html, same = built
    assert same
    assert (html / "index.html").exists()
    assert [page for page in pages if not (html / page).exists()] == []


def test_internal_links_resolve(html, pages):
    class Links(HTMLParser):
        def __init__(self):
            super().__init__()
            self.links, self.ids = [], set()

        def handle_starttag(self, tag, attributes):
            attributes = dict(attributes)
            self.ids.update(attributes[key] for key in ("id", "name") if attributes.get(key))
            if tag == "a" and attributes.get("href"):
                self.links.append(attributes["href"])

    @functools.cache
    def read(path):
        links = Links()
        links.feed(path.read_text(encoding="utf-8"))
        return links

    broken = []
    for page in pages:
        for link in read(html / page).links:
            address, anchor = urldefrag(urljoin(f"http://book/{page}", link))
            parts = urlsplit(address)
            target = html / unquote(parts.path).lstrip("/")
            if parts.netloc != "book" or parts.scheme != "http":
                continue
            if not target.is_file() or (
                anchor and target.suffix == ".html" and unquote(anchor) not in read(target).ids
            ):
                broken.append(f"{page}: {link}")
    assert broken == []


def test_every_page_loads_without_errors_and_without_other_hosts(tour):
    seen, problems = tour
    assert problems == []
    assert sum(facts["charts"] for facts in seen.values()) > 3
    assert sum(facts["equations"] for facts in seen.values()) > 3


def test_equations_are_typeset(tour):
    assert those(tour, "wrong equations", bool) == {}
    source = re.compile(r"\$\$|\\\(|\\\[|\{eq\}|\{numref\}|\{ref\}")
    assert those(tour, "text", source.search) == {}


def test_images_and_charts_have_alternatives(tour):
    assert those(tour, "alternatives", lambda found: any(len(one) < 10 for one in found)) == {}


def test_no_page_has_a_serious_fault_of_accessibility(tour):
    assert those(tour, "faults", bool) == {}


def test_no_page_scrolls_sideways_and_no_table_on_a_wide_screen(tour):
    for width in WIDTHS:
        assert those(tour, width, lambda found, width=width: found > width) == {}
    assert those(tour, "wide tables", bool) == {}


def test_no_table_has_a_value_that_python_would_print(html, pages):
    cell = re.compile(r"<td[^>]*>(?:NaN|nan|None|NaT|&lt;NA&gt;)</td>")
    assert [page for page in pages if cell.search((html / page).read_text(encoding="utf-8"))] == []


def test_a_page_with_its_own_pictures_is_small(html, pages):
    def weight(page):
        text = (html / page).read_text(encoding="utf-8")
        own = {(html / page).parent.joinpath(src).resolve() for src in re.findall(r'src="([^"]*_images/[^"]+)"', text)}
        return len(text.encode()) + sum(path.stat().st_size for path in own)

    assert {page: weight(page) for page in pages if weight(page) > 1_500_000} == {}


def test_a_chart_answers_the_pointer_and_follows_the_theme(context, site):
    problems = []
    page = opened(context, site, "book/intro.html", problems)
    draw_charts(page)
    marks = page.locator(".vega-chart-live svg g.mark-symbol.role-mark path")
    marks.first.scroll_into_view_if_needed()
    marks.first.hover(force=True)
    page.locator("#vg-tooltip-element.visible").wait_for()
    label = "() => document.querySelector('.vega-chart-live g.role-axis-label text').getAttribute('fill')"
    light = page.evaluate(label)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_function(f"was => ({label})() !== was", arg=light)
    assert problems == []
    page.close()


def test_without_javascript_and_in_print_the_pictures_of_charts_stand_there(chromium, site):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(site + "book/intro.html")
    page.emulate_media(media="print")
    assert page.locator(".vega-chart img").first.bounding_box()["width"] > 200
    assert not page.locator(".bd-sidebar-primary").is_visible()
    context.close()


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("label sharpness", "methods/sharpness"),
        ("intrinsic dimension", "methods/dimension"),
        ("FGSM", "start/try_it"),
        ("measure my images", "yours/measure"),
    ],
)
def test_search_finds_the_right_page_first_without_a_network(context, site, words, first):
    problems = []
    page = opened(context, site, f"search.html?q={quote(words)}", problems)
    page.wait_for_function("document.querySelector('#search-results .search-summary')?.textContent.match(/[0-9]/)")
    assert f"book/{first}.html" in page.locator("#search-results li a").first.get_attribute("href")
    assert problems == []
    page.close()


def test_previous_and_next_lead_through_all_pages(html, pages):
    for page, after in itertools.pairwise(pages):
        found = re.search(r'class="right-next"\s+href="([^"]+)"', (html / page).read_text(encoding="utf-8"))
        assert (html / page).parent.joinpath(found[1]).resolve() == (html / after).resolve(), page


def test_each_notebook_can_be_downloaded(html, pages):
    for page in pages:
        if (html.parent / "source" / page).with_suffix(".ipynb").exists():
            links = set(re.findall(r'href="([^"]+\.ipynb)"', (html / page).read_text(encoding="utf-8")))
            assert [link for link in links if (html / page).parent.joinpath(link).resolve().is_file()], page
