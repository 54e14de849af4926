// Draws the book's charts: each one when the reader comes near it, in the colors of the current theme.
// Everything comes from this site; without this script the static picture of a chart stays in its place.
(() => {
  "use strict";

  const here = new URL(".", document.currentScript.src);
  const drawn = new Map(); // element -> for which theme it was drawn, and how to take it away again
  let bundle = null;

  function loadVega() {
    bundle ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = new URL("vega-bundle.js", here).href;
      script.onload = () => resolve(window.vegaEmbed);
      script.onerror = () => reject(new Error("vega-bundle.js could not be loaded"));
      document.head.append(script);
    });
    return bundle;
  }

  function isDark() {
    return document.documentElement.dataset.theme === "dark";
  }

  function themed(dark) {
    const ink = dark ? "#c9ced6" : "#4a4f57";
    const line = dark ? "#8b929c" : "#9aa0a6";
    const text = { labelColor: ink, titleColor: ink };
    return {
      font: getComputedStyle(document.body).fontFamily,
      axis: { ...text, domainColor: line, tickColor: line, gridColor: line },
      legend: { ...text, symbolFillColor: ink, symbolStrokeColor: ink },
      header: text,
      title: { color: ink, subtitleColor: ink },
      text: { color: ink },
    };
  }

  function merged(base, over) {
    const out = { ...base };
    for (const [key, value] of Object.entries(over)) {
      const both = value && typeof value === "object" && out[key] && typeof out[key] === "object";
      out[key] = both ? merged(out[key], value) : value;
    }
    return out;
  }

  // A long axis title goes on several lines: `room` is in pixels, along the axis.
  function broken(title, room) {
    const longest = Math.max(12, Math.floor(room / 7));
    const lines = [];
    for (const part of [title].flat()) {
      let line = "";
      for (const word of part.split(" ")) {
        if (line && line.length + 1 + word.length > longest) {
          lines.push(line);
          line = word;
        } else line = line ? `${line} ${word}` : word;
      }
      lines.push(line);
    }
    return lines.length === 1 ? lines[0] : lines;
  }

  function withBrokenTitles(node, width, height) {
    if (Array.isArray(node)) return node.map((item) => withBrokenTitles(item, width, height));
    if (!node || typeof node !== "object") return node;
    const out = {};
    for (const [key, value] of Object.entries(node)) {
      out[key] = key === "datasets" || key === "data" ? value : withBrokenTitles(value, width, height);
      const title = out[key]?.title;
      if ((key === "x" || key === "y") && title && (typeof title === "string" || Array.isArray(title))) {
        out[key].title = broken(title, key === "x" ? width : height);
      }
    }
    return out;
  }

  // What gives way to the width of the page: the one panel of a chart, or the panels of a row.
  function rows(spec, room) {
    if (typeof spec.width === "number" && (spec.layer || spec.mark)) return { signal: "width", columns: 1 };
    if (!spec.facet || typeof spec.spec?.width !== "number") return null;
    return { signal: "child_width", columns: Math.max(1, Math.min(spec.columns ?? 3, Math.floor((room - 60) / 170))) };
  }

  // On a phone names beside marks would cover each other; a tap on a mark still says which one it is.
  function withoutNames(spec, room) {
    if (room >= 480 || !spec.layer) return spec;
    const isName = ({ mark, encoding }) => (mark?.type ?? mark) === "text" && encoding?.text?.field === "set";
    return { ...spec, layer: spec.layer.filter((layer) => !isName(layer)) };
  }

  // Where there is little room, charts beside each other stand below each other, each as wide as the page allows.
  function stacked(spec, room) {
    const { hconcat, vconcat, ...rest } = spec;
    const parts = hconcat ?? vconcat;
    if (room >= 480) return spec;
    if (!parts) return typeof spec.width === "number" ? { ...spec, width: Math.min(spec.width, room - 170) } : spec;
    return { ...rest, vconcat: parts.map((part) => stacked(part, room)) };
  }

  // Places of the book that marks lead to are written from its first folder.
  function withPlaces(spec) {
    const root = document.documentElement.dataset.content_root ?? "";
    const places = (rows) => rows.map((row) => (row.page?.startsWith?.("book/") ? { ...row, page: root + row.page } : row));
    const datasets = Object.entries(spec.datasets ?? {}).map(([name, rows]) => [name, places(rows)]);
    return { ...spec, datasets: Object.fromEntries(datasets) };
  }

  function prepared(given, dark, room) {
    const named = withPlaces(withoutNames(given, room));
    const spec = named.hconcat || named.vconcat ? stacked(named, room) : named;
    const { $schema, ...rest } = spec;
    const narrow = room < 480 ? { axis: { labelLimit: 170, labelFontSize: 11 } } : {};
    const out = { ...rest, config: merged(merged(rest.config ?? {}, themed(dark)), narrow) };
    const { columns, signal } = rows(spec, room) ?? {};
    if (!columns) return out;
    const width = Math.max(100, (room - 80) / columns - 20);
    const { datasets, data, ...form } = out;
    const fitting = withBrokenTitles(form, width, (spec.height ?? spec.spec?.height) || 300);
    if (signal === "width") fitting.width = width;
    else Object.assign(fitting, { columns, spec: { ...fitting.spec, width } });
    return { ...fitting, datasets, data };
  }

  // Where there is little room, legends stand below each other.
  function patched(room) {
    return (vega) => {
      if (room >= 520) return vega;
      vega.config = merged(vega.config ?? {}, { legend: { layout: { top: { direction: "vertical", margin: 6 } } } });
      for (const legend of vega.legends ?? []) legend.columns = room < 420 ? 1 : 3;
      return vega;
    };
  }

  // Axes, legends and names take what they need; the panels take the rest of the page's width.
  async function fit(view, stage, { signal, columns }) {
    for (let round = 0; round < 3; round++) {
      const svg = stage.querySelector("svg");
      if (!stage.clientWidth || !svg) return;
      const spare = stage.clientWidth - Number(svg.getAttribute("width"));
      const width = Math.max(100, Math.floor(view.signal(signal) + spare / columns));
      if (Math.abs(width - view.signal(signal)) < 2) return;
      await view.signal(signal, width).resize().runAsync();
    }
  }

  async function draw(element) {
    const state = drawn.get(element) ?? { dark: null, busy: false, remove: null };
    drawn.set(element, state);
    const dark = isDark();
    if (state.busy || state.dark === dark) return;
    state.busy = true;
    state.dark = dark;
    try {
      const embed = await loadVega();
      const spec = JSON.parse(element.querySelector('script[type="application/json"]').textContent);
      const stage = document.createElement("div");
      stage.className = "vega-chart-live is-waiting";
      element.append(stage);
      const room = stage.clientWidth;
      const { view, finalize } = await embed(stage, prepared(spec, dark, room), {
        mode: "vega-lite",
        renderer: "svg",
        actions: false,
        patch: patched(room),
        tooltip: { theme: dark ? "dark" : "light" },
      });
      const giving = rows(spec, room);
      const refit = () => giving && fit(view, stage, giving);
      await refit();
      state.remove?.();
      stage.classList.remove("is-waiting");
      element.classList.add("is-drawn");
      element.setAttribute("role", "figure");
      const resized = new ResizeObserver(() => {
        if (rows(spec, stage.clientWidth)?.columns === giving?.columns) return refit();
        state.dark = null; // a phone was turned: the panels stand in other rows
        return draw(element);
      });
      resized.observe(stage);
      state.remove = () => {
        resized.disconnect();
        finalize();
        stage.remove();
      };
    } catch (error) {
      console.error("a chart could not be drawn; its picture stays:", error);
    } finally {
      state.busy = false;
    }
    if (isDark() !== dark) draw(element);
  }

  function markWideTables() {
    for (const box of document.querySelectorAll(".table-scroll, .pst-scrollable-table-container")) {
      box.classList.toggle("is-wide", box.scrollWidth > box.clientWidth + 1);
    }
  }

  function start() {
    markWideTables();
    addEventListener("resize", markWideTables);
    const charts = document.querySelectorAll(".vega-chart");
    if (!charts.length) return;
    const near = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) {
          if (!entry.isIntersecting) continue;
          near.unobserve(entry.target);
          draw(entry.target);
        }
      },
      { rootMargin: "600px 0px" },
    );
    charts.forEach((chart) => near.observe(chart));
    new MutationObserver(() => drawn.forEach((_, element) => draw(element))).observe(
      document.documentElement,
      { attributes: true, attributeFilter: ["data-theme"] },
    );
    addEventListener("beforeprint", () => charts.forEach(draw));
  }

  if (document.readyState === "loading") addEventListener("DOMContentLoaded", start);
  else start();
})();
