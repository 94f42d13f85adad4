"use strict";
// The page's behaviour: a table that sorts, figures in the page's colours, labels that keep out of each other's way.

(() => {
  // ---- the table -------------------------------------------------------------------------------------------------
  const table = document.getElementById("rows");
  const heads = table ? [...table.tHead.rows[0].cells] : [];

  function valueOf(row, column) {
    const text = row.cells[column] && row.cells[column].dataset.value;
    if (text === undefined) return null;
    return column === 0 ? text : Number(text);
  }

  function sortBy(column) {
    const head = heads[column];
    const now = head.getAttribute("aria-sort");
    const order = now ? (now === "ascending" ? "descending" : "ascending") : head.firstElementChild.dataset.first;
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      // Rows without a result stay at the end whichever way the rest is sorted, then rows without this number.
      const last = ("last" in a.dataset) - ("last" in b.dataset);
      if (last) return last;
      const x = valueOf(a, column), y = valueOf(b, column);
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (column === 0 ? x.localeCompare(y) : x - y);
    });
    table.tBodies[0].append(...rows);
  }
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => sortBy(column)));

  // ---- the figures -----------------------------------------------------------------------------------------------
  const source = document.getElementById("figure-data");
  const figures = source ? JSON.parse(source.textContent) : {};
  const hidden = new Set();
  if (!Object.keys(figures).length || typeof Plotly === "undefined") return;

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // Without a mouse a drag is a scroll of the page, so the figures must not catch it.
  const touch = matchMedia("(hover: none)").matches;
  const FONT = 13;

  function layoutOf(figure, width) {
    const axis = {
      gridcolor: colour("--grid"), linecolor: colour("--line"), zeroline: false, showline: true, ticks: "outside",
      tickcolor: colour("--line"), ticklen: 4, automargin: true, fixedrange: touch,
    };
    const merge = (own) => ({ ...axis, ...own, title: { ...own.title, standoff: 10, font: { size: FONT } } });
    return {
      ...figure.layout,
      xaxis: { ...merge(figure.layout.xaxis), showgrid: false, tickfont: { size: width < 420 ? 10 : 12 } },
      yaxis: { ...merge(figure.layout.yaxis), nticks: 7 },
      ...(figure.layout.yaxis2 ? { yaxis2: { ...merge(figure.layout.yaxis2), showgrid: false } } : {}),
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--text") },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 52, r: 10, t: 10, b: 48 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--quiet"), activecolor: colour("--text") },
      showlegend: false, hovermode: "closest", dragmode: touch ? false : "zoom",
      hoverlabel: { bgcolor: colour("--panel"), bordercolor: colour("--line"), font: { color: colour("--text"), size: 13 }, namelength: -1 },
      shapes: figure.lines.map((line) => ({
        type: "line", xref: "paper", x0: 0, x1: 1, y0: line.y, y1: line.y, layer: "below",
        line: { color: colour("--quiet"), width: 1, dash: "dash" },
      })),
    };
  }

  function tracesOf(figure) {
    return figure.data.map(({ role, ...trace }) => {
      const copy = { type: "scatter", ...trace, visible: !hidden.has(trace.meta) };
      if (role === "front") copy.line = { ...trace.line, color: colour("--quiet") };
      if (role === "study") copy.marker = { ...trace.marker, line: { width: trace.marker.rings, color: colour("--text") } };
      if (role === "on-front") copy.marker = { ...trace.marker, line: { width: 2, color: colour("--text") } };
      return copy;
    });
  }

  // Labels of points: try places around the mark, nearest first, take the one that covers least; when all of them
  // cover something (a phone, a crowd), leave the label out: the chips and the hover text still name the point.
  const pen = document.createElement("canvas").getContext("2d");
  const PLACES = [];
  for (const reach of [11, 22, 36, 54]) {
    for (const [dx, dy] of [[1, 0], [-1, 0], [0.8, -0.8], [0.8, 0.8], [-0.8, -0.8], [-0.8, 0.8], [0, -1.3], [0, 1.3]]) {
      PLACES.push([dx * reach, dy * reach, reach]);
    }
  }
  const overlap = (a, b) =>
    Math.max(0, Math.min(a.r, b.r) - Math.max(a.l, b.l)) * Math.max(0, Math.min(a.b, b.b) - Math.max(a.t, b.t));

  function boxAt(x, y, width, dx, dy) {
    const left = dx > 0 ? x + dx : dx < 0 ? x + dx - width : x - width / 2;
    return { l: left, r: left + width, t: y + dy - 8, b: y + dy + 8 };
  }

  function annotationsOf(figure, plot) {
    const { xaxis, yaxis } = plot._fullLayout;
    const size = plot.clientWidth < 420 ? 11 : 12;
    pen.font = `${size}px ${getComputedStyle(document.body).fontFamily}`;
    const plain = (text) => text.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");
    const wide = (text) => pen.measureText(plain(text)).width + 4;
    const area = { l: 0, t: 0, r: xaxis._length, b: yaxis._length };
    const taken = [], notes = [];
    const points = figure.labels.filter((label) => !hidden.has(label.of)).map((label) => ({
      ...label, px: xaxis.d2p(label.x), py: yaxis.d2p(label.y), top: yaxis.d2p(label.high), bottom: yaxis.d2p(label.low),
    })).filter((point) => point.px >= 0 && point.px <= area.r && point.py >= 0 && point.py <= area.b);
    for (const { px, py, top, bottom } of points) {
      taken.push({ l: px - 7, r: px + 7, t: py - 7, b: py + 7, weight: 3 }, { l: px - 4, r: px + 4, t: top, b: bottom, weight: 2 });
    }
    const front = figure.data.find((trace) => trace.role === "front");
    const stair = front ? front.x.map((x, i) => ({ x: xaxis.d2p(x), y: yaxis.d2p(front.y[i]) })) : [];
    const strings = figure.lines.map((line) => ({ l: 0, r: area.r, t: yaxis.d2p(line.y) - 1, b: yaxis.d2p(line.y) + 1, weight: 2 }));
    for (let i = 1; i < stair.length; i += 1) {
      const [from, to] = [stair[i - 1], stair[i]];
      strings.push({ l: from.x, r: to.x, t: from.y - 1, b: from.y + 1, weight: 4 }, { l: to.x - 1, r: to.x + 1, t: to.y, b: from.y, weight: 4 });
    }
    // A leader that runs over another mark would name the wrong one.
    const crossed = (point, dx, dy) => {
      let sum = 0;
      for (const other of points) {
        if (other.of === point.of) continue;
        for (let part = 0.1; part <= 1; part += 0.1) {
          if (Math.abs(point.px + dx * part - other.px) < 8 && Math.abs(point.py + dy * part - other.py) < 8) sum += 40;
        }
      }
      return sum;
    };
    const costOf = (box) => {
      const out = (box.r - box.l) * (box.b - box.t) - overlap(box, area);
      return [...taken, ...strings].reduce((sum, other) => sum + other.weight * overlap(box, other), out * 8);
    };

    for (const line of figure.lines) {
      const y = yaxis.d2p(line.y), width = wide(line.text);
      if (y < 0 || y > area.b) continue;
      let best = null;
      for (const left of [area.r - width, 2, (area.r - width) / 2]) {
        for (const side of [-10, 10]) {
          const box = { l: left, r: left + width, t: y + side - 8, b: y + side + 8 };
          const cost = costOf(box);
          if (!best || cost < best.cost - 1) best = { box, cost, left, side };
        }
      }
      if (best.cost > 0.6 * width * 16) continue;
      taken.push({ ...best.box, weight: 4 });
      notes.push({
        text: `<i>${line.text}</i>`, x: best.left / area.r, xref: "paper", xanchor: "left", y: line.y, yref: "y", yanchor: "middle",
        yshift: -best.side, showarrow: false, borderpad: 0, font: { size, color: colour("--quiet") },
      });
    }
    for (const point of [...points].sort((a, b) => b.front - a.front)) {
      const width = wide(point.text);
      let best = null;
      for (const [dx, dy, reach] of PLACES) {
        const box = boxAt(point.px, point.py, width, dx, dy);
        const cost = costOf(box) + reach + (reach > 15 ? crossed(point, dx, dy) : 0);
        if (!best || cost < best.cost) best = { box, cost, dx, dy, reach };
      }
      if (best.cost - best.reach > 0.5 * width * 16) continue;
      taken.push({ ...best.box, weight: 4 });
      const far = best.reach > 15;
      notes.push({
        text: point.text, x: xaxis.type === "log" ? Math.log10(point.x) : point.x, y: point.y, xref: "x", yref: "y", borderpad: 0, standoff: 6,
        xanchor: best.dx > 0 ? "left" : best.dx < 0 ? "right" : "center", yanchor: "middle",
        showarrow: far, ax: best.dx, ay: best.dy, arrowhead: 0, arrowwidth: 0.8, arrowcolor: colour("--quiet"),
        xshift: far ? 0 : best.dx, yshift: far ? 0 : -best.dy, font: { size, color: colour("--text") },
      });
    }
    return notes;
  }

  const plots = Object.entries(figures).map(([id, figure]) => ({ plot: document.getElementById(id), figure, busy: false, width: 0 }));

  async function label(entry) {
    if (entry.busy) return;
    entry.busy = true;  // writing annotations is itself a relayout, which would call this again
    try {
      await Plotly.relayout(entry.plot, { annotations: annotationsOf(entry.figure, entry.plot) });
    } finally {
      entry.busy = false;
    }
  }

  async function draw(entry) {
    const { plot, figure } = entry;
    entry.width = plot.clientWidth;
    await Plotly.react(plot, tracesOf(figure), { ...layoutOf(figure, plot.clientWidth), annotations: [], width: plot.clientWidth, height: plot.clientHeight }, {
      // An explicit list, because plotly.js adds buttons of its own and one of them uploads the chart to its makers.
      displaylogo: false, displayModeBar: touch ? false : "hover", modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
      showSendToCloud: false, plotlyServerURL: "",
      toImageButtonOptions: { format: "svg", filename: plot.id },
    });
    await label(entry);
  }

  const drawAll = () => Promise.all(plots.map(draw));
  const chips = [...document.querySelectorAll(".chips [data-technique]")];
  const all = document.querySelector(".chips .all");

  function toggled() {
    for (const chip of chips) chip.setAttribute("aria-pressed", String(!hidden.has(chip.dataset.technique)));
    all.hidden = hidden.size === 0;
    return drawAll();
  }
  for (const chip of chips) {
    chip.title = "click to hide or show; double-click to show this one alone";
    chip.addEventListener("click", () => {
      const name = chip.dataset.technique;
      if (!hidden.delete(name)) hidden.add(name);
      toggled();
    });
    chip.addEventListener("dblclick", () => {
      hidden.clear();
      for (const other of chips) if (other !== chip) hidden.add(other.dataset.technique);
      toggled();
    });
  }
  all.addEventListener("click", () => { hidden.clear(); toggled(); });

  drawAll().then(() => {
    for (const entry of plots) {
      entry.plot.on("plotly_relayout", (change) => {
        if (Object.keys(change).some((key) => key.includes("range"))) label(entry);
      });
      new ResizeObserver(() => { if (entry.plot.clientWidth && entry.plot.clientWidth !== entry.width) draw(entry); }).observe(entry.plot);
    }
    document.documentElement.dataset.drawn = String(plots.length);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  matchMedia("print").addEventListener("change", drawAll);
})();
