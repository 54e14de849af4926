"""The book: parameters are checked, failures are named, nothing outside `_build` is written, and the pages
load in a browser with no request to any other host."""

import functools
import http.server
import json
import os
import re
import shutil
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import axe_playwright_python
import nbformat
import pandas as pd
import papermill
import pytest
import yaml
from browser import MISSING, find_chromium

from intrinsic import images
from intrinsic.campaigns import campaign, engine
from intrinsic.campaigns.records import Store
from intrinsic.publishing import book

TINY = Path(__file__).with_name("tiny.yaml")
CLAIMS = [
    "data_dimension_scaling",
    "label_sharpness_generalization",
    "label_sharpness_robustness",
    "representation_dimension_bound",
]
slow_book = [pytest.mark.slow, pytest.mark.xdist_group("book")]


# ------------------------------------------------------------------- parameters, notebooks and failures


def write_notebook(path, *cells, parameters=None):
    """A notebook of a title, a parameters cell and code cells."""
    made = [nbformat.v4.new_markdown_cell(f"# {path.stem}")]
    if parameters is not None:
        made.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    made += [nbformat.v4.new_code_cell(source) for source in cells]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": kernel}), path)
    return path


def small_repository(root, monkeypatch, toc):
    """A repository with the book's configuration and assets and a table of contents of its own."""
    shutil.copy(images.REPOSITORY / "_config.yml", root)
    shutil.copytree(images.REPOSITORY / "book" / "assets", root / "book" / "assets")
    shutil.copy(images.REPOSITORY / "book" / "references.bib", root / "book")
    shutil.copytree(images.REPOSITORY / "params", root / "params")
    (root / "_toc.yml").write_text(yaml.safe_dump(toc))
    monkeypatch.setattr(images, "REPOSITORY", root)
    return root


def test_an_unknown_parameter_is_refused_before_anything_is_made(tmp_path):
    params = tmp_path / "mine.yaml"
    params.write_text(TINY.read_text() + "n_trian: 12\n")
    with pytest.raises(ValueError, match="'n_trian' is not a parameter"):
        book.build(params, output=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_notebook_that_declares_an_unknown_parameter_is_refused(tmp_path, monkeypatch):
    small_repository(tmp_path, monkeypatch, {"format": "jb-book", "root": "book/one"})
    write_notebook(tmp_path / "book" / "one.ipynb", parameters="k = 20\nn_trian = 12")
    with pytest.raises(book.BookError, match=r"book/one\.ipynb declares n_trian"):
        book.plan(campaign.read(TINY))


def test_a_page_that_does_not_exist_is_refused(tmp_path, monkeypatch):
    small_repository(tmp_path, monkeypatch, {"format": "jb-book", "root": "book/one"})
    with pytest.raises(book.BookError, match="names book/one"):
        book.plan(campaign.read(TINY))


def test_a_page_shows_the_values_that_it_was_made_with_and_folds_the_defaults():
    defaults = 'name = "quick"      # campaign: params/quick.yaml\nk = 20     # neighbors\nfree = [1]\n'
    given = '# Parameters\nname = "tiny"\nk = 10\nfree = [2]\n'
    cells = [
        {"cell_type": "code", "metadata": {"tags": [tag]}, "source": source.splitlines(keepends=True)}
        for tag, source in (("parameters", defaults), ("injected-parameters", given))
    ]
    book._show_what_was_used(cells)
    assert "hide-input" in cells[0]["metadata"]["tags"]
    assert "hide-input" not in cells[1]["metadata"]["tags"]
    shown = [" ".join(line.split()) for line in cells[1]["source"].splitlines()]
    assert shown == ['name = "tiny" # campaign', "k = 10 # neighbors", "free = [2]"]


def test_a_notebook_is_given_exactly_what_it_declares(tmp_path):
    notebook = write_notebook(tmp_path / "one.ipynb", parameters="k = 3  # neighbors\ndraws: int = 1")
    assert book.declared_parameters(notebook, campaign.read(TINY)) == {"k": 10, "draws": 5}


def test_each_image_set_has_a_report_of_its_own():
    p = campaign.read(TINY).model_copy(update={"datasets": ["digits", "/data/a b/digits", "/data/é$"]})
    made = book.plan(p)
    reports = [page for page in made.pages if page.title is not None]
    assert [page.parameters["dataset"] for page in reports] == p.datasets
    names = [page.name for page in reports]
    assert len(set(names)) == 3
    assert names[0] == "book/image_sets/digits"
    assert all(re.fullmatch(r"book/image_sets/[A-Za-z0-9_-]+", name) for name in names)
    chapters = made.toc["parts"][-1]["chapters"]
    assert [chapter["file"] for chapter in chapters] == names


def test_paths_mean_the_same_to_the_command_and_to_the_notebooks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    block = {"models": ["resnet18"], "n_train": [64], "datasets": ["digits", "mine/knees"]}
    p = campaign.params(datasets=["digits", "mine/knees"], dataset="mine/knees", runs=[block])
    made, here = book.placed(p), str(tmp_path / "mine" / "knees")
    assert made.datasets == made.runs[0].datasets == ["digits", here]
    assert made.dataset == here


@pytest.mark.slow
def test_a_failing_notebook_is_named_with_its_cell_and_the_others_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(book, "_package_hash", lambda: "the package as it is")  # whoever edits it meanwhile
    good = write_notebook(tmp_path / "good.ipynb", "print(k + 1)", parameters="k = 1")
    bad = write_notebook(tmp_path / "bad.ipynb", "ratio = 1", "k = 0\nratio / k", "never = 1", parameters="k = 1")
    pages = [book.Page(good, "book/good", {"k": 41}), book.Page(bad, "book/bad", {"k": 2})]
    folder = tmp_path / "executed"
    with pytest.raises(book.BookError) as failure:
        book.execute(pages, folder, state="a", progress=False)
    said = str(failure.value)
    assert "bad.ipynb failed at its code cell 4" in said  # parameters, injected parameters, 1, 2
    assert "    ratio / k\n" in said
    assert "ZeroDivisionError: division by zero" in said
    assert "good.ipynb" not in said
    assert not (folder / "book" / "bad.ipynb").exists()
    assert (folder / "book" / "bad.failed").exists()
    executed = nbformat.read(folder / "book" / "good.ipynb", 4)
    nbformat.validate(executed)
    assert executed.cells[-1].outputs[0].text == "42\n"
    assert "papermill" not in executed.metadata

    before = (folder / "book" / "good.ipynb").stat().st_mtime_ns
    write_notebook(bad, "ratio = 1", parameters="k = 1")
    assert book.execute(pages, folder, state="a", progress=False) == 1  # the good one is kept
    assert (folder / "book" / "good.ipynb").stat().st_mtime_ns == before
    assert not (folder / "book" / "bad.failed").exists()
    assert book.execute(pages[:1], folder, state="a", progress=False) == 0
    assert not (folder / "book" / "bad.ipynb").exists()  # no page of the book any more


@pytest.mark.slow
def test_a_kernel_that_ends_before_its_first_cell_is_started_again(tmp_path, monkeypatch):
    pages = [book.Page(write_notebook(tmp_path / "good.ipynb", "print(k)", parameters="k = 1"), "book/good", {"k": 2})]
    environment = book._environment(tmp_path / "executed")
    run = book.Execution(pages[0], "a", tmp_path / "executed" / "book" / "good.ipynb", environment)
    started, execute_notebook = [], papermill.execute_notebook

    def dead(times):
        def execute(*arguments, **how):
            started.append(arguments)
            if len(started) <= times:
                raise RuntimeError("Kernel died before replying to kernel_info")
            return execute_notebook(*arguments, **how)

        monkeypatch.setattr(papermill, "execute_notebook", execute)
        started.clear()

    for name in environment:
        monkeypatch.setenv(name, os.environ.get(name, ""))  # as they were, after the test
    store = Store(tmp_path / "executed")
    dead(book.STARTS)
    with pytest.raises(book.BookError, match="Kernel died before replying"):
        book._execute(run, store)
    assert run.keys[0] not in store
    dead(1)
    book._execute(run, store)
    assert len(started) == 2
    assert run.keys[0] in store


@pytest.mark.slow
def test_a_kernel_that_is_killed_is_started_again_three_times_at_most(tmp_path):
    """Each start leaves a line; the kernel kills itself as often as asked."""
    starts = tmp_path / "starts"
    told = f"from pathlib import Path\nimport os, signal\nPath({str(starts)!r}).open('a').write('x')"
    told += f"\nif len(Path({str(starts)!r}).read_text()) <= times:\n    os.kill(os.getpid(), signal.SIGKILL)"
    source = write_notebook(tmp_path / "one.ipynb", told, "print('whole')", parameters="times = 0")

    def execute(times):
        starts.unlink(missing_ok=True)
        page = book.Page(source, "book/one", {"times": times})
        return book.execute([page], tmp_path / "executed", state="a", progress=False)

    assert execute(1) == 1
    assert starts.read_text() == "xx"
    cells = nbformat.read(tmp_path / "executed" / "book" / "one.ipynb", 4).cells
    assert cells[-1].outputs[0].text == "whole\n"
    with pytest.raises(book.BookError, match=r"one\.ipynb(.|\n)*Kernel died"):
        execute(99)
    assert starts.read_text() == "x" * book.STARTS


@pytest.mark.slow
def test_notebooks_are_executed_by_a_dask_cluster(tmp_path):
    from distributed import LocalCluster

    source = write_notebook(tmp_path / "one.ipynb", "import os\nprint(k, os.getcwd())", parameters="k = 1")
    bad = write_notebook(tmp_path / "bad.ipynb", "k / 0", parameters="k = 1")
    pages = [book.Page(source, f"book/page_{k}", {"k": k}) for k in range(2)]
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as two:
        settings = engine.Settings(scheduler=two.scheduler_address)
        out = tmp_path / "executed"
        with pytest.raises(book.BookError, match=r"bad\.ipynb failed at its code cell 3(.|\n)*ZeroDivisionError"):
            book.execute(
                [*pages, book.Page(bad, "book/bad", {"k": 1})], out, state="a", settings=settings, progress=False
            )
        assert book.execute(pages, out, state="a", settings=settings, progress=False) == 0  # they are kept
    for k in range(2):
        said = nbformat.read(out / "book" / f"page_{k}.ipynb", 4).cells[-1].outputs[0].text
        assert said.split() == [str(k), str(images.REPOSITORY)]


@pytest.mark.slow
def test_a_notebook_that_hangs_is_killed_and_named(tmp_path):
    endless = write_notebook(tmp_path / "endless.ipynb", "import time", "time.sleep(600)", parameters="k = 1")
    settings = engine.Settings(run_minutes=0.2)
    with pytest.raises(book.BookError, match=r"endless\.ipynb: it took longer than 0\.2 minutes"):
        book.execute(
            [book.Page(endless, "book/endless", {"k": 1})],
            tmp_path / "out",
            state="a",
            settings=settings,
            progress=False,
        )
    assert not (tmp_path / "out" / "book" / "endless.ipynb").exists()


@pytest.mark.slow
def test_a_notebook_finds_the_store_and_the_catalogue_that_were_named_from_here(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INTRINSIC_STORE", "kept")
    monkeypatch.setenv("INTRINSIC_CATALOGUE", "mine.yaml")
    told = "import os\nprint(os.environ['INTRINSIC_STORE'], os.environ['INTRINSIC_CATALOGUE'], os.getcwd())"
    page = book.Page(write_notebook(tmp_path / "one.ipynb", told, parameters="k = 1"), "book/one", {"k": 1})
    book.execute([page], tmp_path / "executed", state="a", progress=False)
    said = nbformat.read(tmp_path / "executed" / "book" / "one.ipynb", 4).cells[-1].outputs[0].text
    assert said.split() == [str(tmp_path / "kept"), str(tmp_path / "mine.yaml"), str(images.REPOSITORY)]


def test_a_page_is_executed_again_when_what_it_shows_may_have_changed(tmp_path):
    notebook = write_notebook(tmp_path / "one.ipynb", "k", parameters="k = 1")
    page = book.Page(notebook, "book/one", {"k": 1})
    keys = [book._inputs(page, "the package and the records"), book._inputs(page, "other records")]
    keys.append(book._inputs(book.Page(notebook, "book/one", {"k": 2}), "the package and the records"))
    write_notebook(notebook, "k + 1", parameters="k = 1")
    keys.append(book._inputs(page, "the package and the records"))
    assert len(set(keys)) == 4


@pytest.mark.slow
def test_a_warning_fails_the_build_the_second_time_too(tmp_path, monkeypatch):
    small_repository(tmp_path, monkeypatch, {"format": "jb-book", "root": "book/intro"})
    (tmp_path / "book" / "intro.md").write_text("# One\n\nSee {ref}`nowhere` and [that](missing.md).\n")
    book.assemble(book.Plan([], {"format": "jb-book", "root": "book/intro"}), tmp_path / "_build")
    for _ in range(2):
        with pytest.raises(book.BookError, match=r"book/intro\.md:3.*nowhere"):
            book.render(tmp_path / "_build")


@pytest.mark.slow
def test_a_title_that_is_html_stays_text_on_its_page(tmp_path, monkeypatch):
    small_repository(tmp_path, monkeypatch, {"format": "jb-book", "root": "book/intro"})
    (tmp_path / "book" / "intro.md").write_text("# knees \\<img src=x onerror=y\\> & \\<i\\>\n\nText.\n")
    book.assemble(book.Plan([], {"format": "jb-book", "root": "book/intro"}), tmp_path / "_build")
    page = book.render(tmp_path / "_build").parent.joinpath("book", "intro.html").read_text(encoding="utf-8")
    assert "&lt;i&gt;" in page
    assert "<img src=x" not in page
    assert "<i>" not in page.replace('<i class="', "")


HOSTILE = '</script><!-- <img src=x onerror="alert(1)"> & \u2028 "'


def test_no_text_of_a_chart_can_end_its_element():
    spec = {"description": HOSTILE, "data": {"values": [{"name": HOSTILE}]}}
    text = book.embedded_json(spec)
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == spec


def test_a_chart_is_labelled_with_its_description():
    class Reader(HTMLParser):
        found = ()

        def handle_starttag(self, tag, attributes):
            self.found = (*self.found, (tag, dict(attributes)))

    reader = Reader()
    reader.feed("".join(book.chart_html({"description": HOSTILE})))
    tags = [tag for tag, _ in reader.found]
    assert tags == ["div", "div", "script"]
    assert reader.found[0][1]["aria-label"] == HOSTILE
    assert reader.found[0][1]["role"] == "img"
    assert reader.found[2][1]["type"] == "application/json"


# ------------------------------------------------------------------------------------------ the pages


def state_of_the_checkout():
    """The names of all files, with time and size of those that a book is made from."""
    made_by_python = {"__pycache__", ".ipynb_checkpoints", ".pytest_cache"}
    state = {}
    for name in ("book", "params", "lib", "tests", "."):
        folder = images.REPOSITORY / name
        for path in folder.glob("*.*") if name == "." else folder.rglob("*"):
            if path.is_file() and not made_by_python & set(path.parts) and ".egg-info" not in str(path):
                facts = (path.stat().st_mtime_ns, path.stat().st_size)
                state[str(path)] = facts if name in ("book", "params", ".") else None
    return state


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A small book, built once: (folder of its pages, the checkout before, the checkout after)."""
    root = tmp_path_factory.mktemp("book")
    before = state_of_the_checkout()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTRINSIC_STORE", str(root / "records"))
        index = book.build(TINY, output=root / "out", progress=False)
    return index.parent, before, state_of_the_checkout()


@pytest.fixture(scope="module")
def html(built):
    return built[0]


@pytest.fixture(scope="module")
def pages(html):
    """Every page of the table of contents, as the path of its HTML."""
    toc = yaml.safe_load((html.parent / "source" / "_toc.yml").read_text(encoding="utf-8"))
    return [f"{name}.html" for name in book._files(toc)]


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


class Visitor:
    """Opens pages; `problems` gathers JavaScript errors, failed loads and requests to other hosts."""

    def __init__(self, chromium, site):
        self.chromium, self.site = chromium, site
        self.problems, self.contexts, self.plain = [], [], None

    def __call__(self, path, **options):
        page = self._context(**options).new_page()
        page.set_default_timeout(90_000)  # other tests may keep the processors busy

        def stays_here(request):
            if not request.url.startswith((self.site, "data:", "blob:")):
                self.problems.append(f"{path}: a request to {request.url}")

        page.on("request", stays_here)
        page.on("pageerror", lambda error: self.problems.append(f"{path}: {error}"))
        page.on("console", lambda m: m.type == "error" and self.problems.append(f"{path}: {m.text}"))
        page.on("response", lambda r: r.status >= 400 and self.problems.append(f"{path}: {r.status} {r.url}"))
        page.goto(self.site + path, wait_until="load")
        return page

    def _context(self, **options):
        """One of its own for pages with options; the others share one, and with it what they have loaded."""
        if not options and self.plain is not None:
            return self.plain
        context = self.chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.contexts.append(context)
        if not options:
            self.plain = context
        return context

    def leave(self):
        for context in self.contexts:
            context.close()


@pytest.fixture
def visit(chromium, site):
    visitor = Visitor(chromium, site)
    yield visitor
    visitor.leave()


@pytest.fixture(scope="module")
def tour(chromium, site, pages):
    """Each page visited once: (what was seen on it, all problems)."""
    visitor, seen = Visitor(chromium, site), {}
    for path in pages:
        page = visitor(path)
        charts = drawn_charts(page)
        page.wait_for_function(
            "[...document.querySelectorAll('article .math')].every(m => m.querySelector('mjx-container'))"
        )
        page.wait_for_load_state("networkidle")
        seen[path] = {
            "title": page.locator("article h1").first.inner_text(),
            "charts": charts,
            "equations": page.locator("article mjx-container").count(),
            "wrong equations": page.locator("mjx-merror").count(),
            "text": page.evaluate(
                "() => { const a = document.querySelector('article').cloneNode(true);"
                " a.querySelectorAll('pre, code, script, mjx-container').forEach(e => e.remove());"
                " return a.textContent; }"
            ),
            "alternatives": page.eval_on_selector_all(
                "article img, .vega-chart", "all => all.map(i => i.getAttribute('alt') ?? i.ariaLabel)"
            ),
        }
        seen[path]["faults"] = faults(page)
        page.close()
    visitor.leave()
    return seen, visitor.problems


def faults(page):
    """What axe-core calls a serious or critical fault of a page."""
    axe = next(Path(axe_playwright_python.__file__).parent.rglob("axe.min.js")).read_text(encoding="utf-8")
    page.evaluate(f"{axe}; 0")
    found = page.evaluate("axe.run(document, {preload: false, resultTypes: ['violations']})")["violations"]
    grave = [one for one in found if one["impact"] in ("serious", "critical")]
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in grave]


@pytest.mark.slow
def test_faults_of_accessibility_are_found(chromium):
    page = chromium.new_page()
    page.set_content('<html lang="en"><title>t</title><p style="color: #eee; background: #fff">pale</p><img src="x">')
    assert [fault.partition(":")[0] for fault in faults(page)] == ["color-contrast", "image-alt"]
    page.set_content('<html lang="en"><title>t</title><p>dark</p>')
    assert faults(page) == []
    page.close()


def drawn_charts(page):
    """Scrolls through a page; returns how many charts it has once all of them are drawn."""
    charts = page.locator(".vega-chart")
    for i in range(charts.count()):
        charts.nth(i).scroll_into_view_if_needed()
        charts.nth(i).locator(".vega-chart-live svg.marks").wait_for()
    return charts.count()


class TestBuiltBook:
    pytestmark = slow_book

    def test_the_checkout_is_left_as_it_was(self, built):
        _, before, after = built
        assert before == after

    def test_all_pages_and_an_index_are_there(self, html, pages):
        assert (html / "index.html").exists()
        assert {f"book/claims/{name}.html" for name in CLAIMS} <= set(pages)
        assert {"book/image_sets/digits_0_1.html", "book/image_sets/torus_waves.html"} <= set(pages)
        assert [page for page in pages if not (html / page).exists()] == []

    def test_internal_links_resolve(self, html, pages):
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

        broken, checked = [], 0
        for page in pages:
            for link in read(html / page).links:
                address, anchor = urldefrag(urljoin(f"http://book/{page}", link))
                parts = urlsplit(address)
                if parts.netloc != "book" or parts.scheme != "http":
                    continue
                checked += 1
                target = html / unquote(parts.path).lstrip("/")
                if not target.is_file():
                    broken.append(f"{page}: {link}")
                elif anchor and target.suffix == ".html" and unquote(anchor) not in read(target).ids:
                    broken.append(f"{page}: {link} has no such place")
        assert checked > 20
        assert broken == []

    def test_the_pages_are_of_the_given_campaign(self, html):
        notebook = json.loads((html.parent / "executed" / "book" / "claims" / f"{CLAIMS[0]}.ipynb").read_text())
        injected = [c for c in notebook["cells"] if "injected-parameters" in c["metadata"].get("tags", [])]
        assert 'name = "tiny"' in "".join(injected[0]["source"])
        page = (html / "book" / "claims" / f"{CLAIMS[0]}.html").read_text(encoding="utf-8")
        assert "Show the default parameters" in page
        folded, end, shown = page[page.index('id="parameters"') :].partition("</details>")
        assert end
        assert '"quick"' in folded
        assert '"tiny"' not in folded
        assert '"tiny"' in shown

    def test_no_table_has_a_value_that_python_would_print(self, html, pages):
        cell = re.compile(r"<td[^>]*>(?:NaN|nan|None|NaT|&lt;NA&gt;)</td>")
        assert [page for page in pages if cell.search((html / page).read_text(encoding="utf-8"))] == []

    def test_every_page_loads_without_errors_and_without_other_hosts(self, tour, pages):
        seen, problems = tour
        assert problems == []
        assert [path for path in pages if not seen[path]["title"].strip()] == []
        assert sum(facts["charts"] for facts in seen.values()) > len(CLAIMS)

    @pytest.mark.parametrize("claim", CLAIMS)
    def test_a_claims_chart_is_drawn_and_answers_the_pointer(self, visit, claim):
        page = visit(f"book/claims/{claim}.html")
        assert drawn_charts(page) >= 1
        marks = page.locator(".vega-chart-live svg g.mark-symbol.role-mark path")
        tooltip = page.locator("#vg-tooltip-element.visible")
        for i in range(min(marks.count(), 20)):
            marks.nth(i).scroll_into_view_if_needed()
            box = marks.nth(i).bounding_box()
            page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            page.wait_for_timeout(100)
            if tooltip.count():
                break
        assert "Image set" in tooltip.inner_text()
        assert visit.problems == []

    def test_a_chart_follows_the_theme_and_the_width(self, visit):
        page = visit(f"book/claims/{CLAIMS[0]}.html", color_scheme="light")
        drawn_charts(page)
        live = page.locator(".vega-chart").first.locator(".vega-chart-live")
        label = live.locator("g.role-axis-title text").first
        light = label.get_attribute("fill")
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        page.wait_for_function(
            "([was]) => { const t = document.querySelector('.vega-chart-live g.role-axis-title text');"
            " return t && t.getAttribute('fill') !== was; }",
            arg=[light],
        )
        page.set_viewport_size({"width": 390, "height": 800})
        page.wait_for_timeout(500)
        assert live.locator("svg.marks").first.bounding_box()["width"] <= 390
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert visit.problems == []

    def test_equations_are_typeset(self, tour):
        seen, _ = tour
        assert sum(facts["equations"] for facts in seen.values()) > 10
        assert [path for path, facts in seen.items() if facts["wrong equations"]] == []
        source = re.compile(r"\$\$|\\\(|\\\[|\{eq\}|\{numref\}")
        assert [path for path, facts in seen.items() if source.search(facts["text"])] == []

    def test_images_and_charts_have_alternatives(self, tour):
        seen, _ = tour
        assert sum(len(facts["alternatives"]) for facts in seen.values()) > len(CLAIMS)
        assert [(p, a) for p, facts in seen.items() for a in facts["alternatives"] if len(a or "") < 10] == []

    def test_without_javascript_the_pictures_of_the_charts_stand_there(self, visit):
        page = visit(f"book/claims/{CLAIMS[0]}.html", java_script_enabled=False)
        picture = page.locator(".vega-chart img").first
        assert picture.is_visible()
        assert picture.bounding_box()["width"] > 200

    def test_no_page_has_a_serious_fault_of_accessibility(self, tour):
        seen, _ = tour
        assert {path: facts["faults"] for path, facts in seen.items() if facts["faults"]} == {}

    def test_the_first_page_shows_the_published_sets_and_a_click_leads_to_one(self, visit):
        page = visit("book/intro.html")
        assert drawn_charts(page) == 1
        assert page.locator("article .sd-card-hover").count() == 3
        assert page.locator("#the-verdicts table").first.locator("tbody tr").count() == len(CLAIMS)
        marks = page.locator(".vega-chart-live svg g.mark-symbol.role-mark path")
        box = marks.first.bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_url(re.compile(r"/(reference/sets|image_sets)/"))
        assert page.locator("article h1").count() == 1
        assert visit.problems == []

    def test_the_first_stop_of_the_keyboard_leads_past_the_navigation(self, visit):
        page = visit("book/theory.html")
        page.keyboard.press("Tab")
        assert "Skip" in page.evaluate("document.activeElement.textContent")
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == "#main-content"

    def test_pages_lead_to_the_next_and_the_one_before(self, visit):
        page = visit("book/theory.html")
        assert page.locator(".prev-next-area a.left-prev").count() == 1
        page.locator(".prev-next-area a.right-next").click()
        assert page.url != visit.site + "book/theory.html"
        assert visit.problems == []

    def test_search_finds_a_word_without_a_network(self, visit):
        page = visit("search.html?q=sharpness")
        page.locator("#search-results li a").first.wait_for()
        assert visit.problems == []

    def test_each_notebook_can_be_downloaded(self, html, pages):
        made = [page for page in pages if "/claims/" in page or "/methods/" in page or "/image_sets/" in page]
        assert len(made) > len(CLAIMS)
        for page in made:
            text = (html / page).read_text(encoding="utf-8")
            (link,) = set(re.findall(r'href="([^"]+\.ipynb)"', text))
            assert (html / page).parent.joinpath(link).resolve().is_file()

    def test_print_leaves_out_what_only_a_screen_needs(self, visit):
        page = visit("book/theory.html")
        page.emulate_media(media="print")
        assert not page.locator(".bd-sidebar-primary").is_visible()
        assert not page.locator(".prev-next-footer").is_visible()
        assert page.locator("h1:visible").count() == 1

    def test_pages_and_figures_are_small(self, html, pages):
        for page in pages:
            text = (html / page).read_text(encoding="utf-8")
            assert len(text.encode()) < 1_500_000, page
            data = re.findall(r'<script type="application/json">(.*?)</script>', text, flags=re.DOTALL)
            assert all(len(one.encode()) < 150_000 for one in data), page

    def test_without_an_address_of_a_repository_no_page_links_to_one(self, html, pages):
        for page in pages:
            text = (html / page).read_text(encoding="utf-8")
            assert "mybinder.org" not in text
            assert "colab.research.google.com" not in text
            assert "/edit/" not in text


@pytest.mark.slow
def test_with_an_address_own_pages_can_be_edited_and_notebooks_opened(tmp_path, monkeypatch):
    toc = {"format": "jb-book", "root": "book/intro", "chapters": [{"file": "book/one"}]}
    small_repository(tmp_path, monkeypatch, toc)
    config = (tmp_path / "_config.yml").read_text(encoding="utf-8")
    (tmp_path / "_config.yml").write_text(config.replace('url: ""', "url: https://github.com/example/book"))
    (tmp_path / "book" / "intro.md").write_text("# Intro\n\nText.\n")
    notebook = write_notebook(tmp_path / "book" / "one.ipynb", "1")
    output = tmp_path / "_build"
    executed = output / "executed" / "book" / "one.ipynb"
    executed.parent.mkdir(parents=True)
    shutil.copy(notebook, executed)
    book.assemble(book.Plan([book.Page(notebook, "book/one", {})], toc), output)
    pages = book.render(output, strict=False).parent / "book"
    assert "https://github.com/example/book/edit/" in (pages / "intro.html").read_text(encoding="utf-8")
    text = (pages / "one.html").read_text(encoding="utf-8")
    assert "mybinder.org" in text
    assert "colab.research.google.com" in text


def test_names_of_sets_stay_text_on_the_page_of_the_plane(tmp_path):
    wild = "</script><script>document.title='x'</script>"
    rows = pd.DataFrame(
        [
            {"dataset": wild, "domain": "medical", "d_data": 5.0, "k_f": 0.3, "own": True},
            {"dataset": "b", "domain": "natural", "d_data": 6.0, "k_f": 0.2, "own": False},
        ]
    )
    page = book.plane_page(campaign.Comparison(rows, wild, {}, ()), output=tmp_path).read_text(encoding="utf-8")
    assert "<script>document" not in page
    assert "&lt;script&gt;document.title" in page.split("</title>")[0]
