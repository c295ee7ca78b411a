"use strict";
// Script of the report page: draws the data in #data with the two libraries embedded in the page.
const D = JSON.parse(document.getElementById("data").textContent);
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down", "pentagon", "hexagon", "triangle-left", "triangle-right", "diamond-tall"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const ORDER = Object.keys(D.looks);
const place = name => D.looks[name] ?? 0;
const colour = name => D.palette[place(name) % D.palette.length];
const symbol = name => SYMBOLS[place(name) % SYMBOLS.length];
const modelSymbol = cell => SYMBOLS[D.models.indexOf(cell.at.model) % SYMBOLS.length];  // shapes by backbone, colours by freeze mode
const shape = (cell, name) => D.models.length ? modelSymbol(cell) : symbol(name);
const COSTS = ["training time (seconds)", "trainable parameters", "peak memory (bytes)", "images through the backbone",
  "bytes to ship per task", "inference (seconds per image)"];
let group = D.groups[0];

const $ = (selector, root = document) => root.querySelector(selector);
const pct = (value, digits = 1) => value == null ? "–" : (100 * value).toFixed(digits) + "%";
const score = (value, digits = 1) => value == null ? "–" : group.by.share ? pct(value, digits) : value.toFixed(digits + 2);
const text = value => value == null ? "–" : typeof value !== "number" ? String(value) : value && Math.abs(value) < 1e-4 ? (+value.toPrecision(6)).toExponential() : String(+value.toPrecision(6));
const safe = value => String(value).replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`);  // Plotly reads some tags in labels
const sum = list => list.reduce((a, b) => a + b, 0);

function make(tag, props = {}, ...children) {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
}

function select(label, options, chosen, changed) {
  const box = make("select", {}, ...options.map(([value, name]) => make("option", { value, textContent: name, selected: value === chosen })));
  box.addEventListener("change", () => changed(box.value));
  return make("label", {}, label, box);
}

// ---- drawing ---------------------------------------------------------------------------------------------------

const css = name => getComputedStyle(document.body).getPropertyValue(name);
function ink(name) {  // light-dark() is only resolved where it is used
  const probe = make("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

const drawers = new Map();  // chart element -> its drawing function
const seen = new Set();
const show = node => { if (!seen.has(node)) { seen.add(node); paint(node); } };
const watch = margin => new IntersectionObserver(entries => entries.forEach(entry => entry.isIntersecting && show(entry.target)), { rootMargin: margin });
let watcher = watch("0px");  // draws charts in view first
function lookAhead() {
  watcher.disconnect();
  watcher = watch("400px");
  for (const node of drawers.keys()) if (!seen.has(node)) watcher.observe(node);
}
function toPaper(yes) {  // paper is narrower than a window, and white
  document.documentElement.classList.toggle("printing", yes);
  for (const node of drawers.keys()) if (node.isConnected && node.clientWidth) { seen.add(node); paint(node, yes); if (!yes) Plotly.Plots.resize(node); }
  if (table) table.page.len(yes ? -1 : 25).draw();
}
addEventListener("beforeprint", () => toPaper(true));
addEventListener("afterprint", () => toPaper(false));

function chart(node, draw) {
  drawers.set(node, draw);
  if (seen.has(node)) paint(node); else watcher.observe(node);
}

function paint(node, fixed = false) {
  const [traces, layout = {}] = drawers.get(node)(), size = fixed ? { width: node.clientWidth, height: node.clientHeight } : {};
  const quiet = ink("--quiet"), line = ink("--line"), narrow = node.clientWidth < 560;
  const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, tickcolor: line, automargin: true, title: { standoff: 8 } };
  const full = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: quiet },
    margin: { l: 50, r: 12, t: 10, b: 44 }, hovermode: "closest", hoverlabel: { align: "left" }, modebar: { bgcolor: "rgba(0,0,0,0)", color: line, activecolor: quiet },
    legend: { orientation: "h", y: 1.01, yanchor: "bottom", x: 0, font: { color: ink("--ink") } }, ...layout, ...size,
  };
  for (const name of new Set(["xaxis", "yaxis", ...Object.keys(layout).filter(key => /^[xy]axis\d*$/.test(key))])) {
    const own = layout[name] || {};
    full[name] = { ...axis, ...own, title: { ...axis.title, ...(typeof own.title === "string" ? { text: own.title } : own.title) } };
  }
  Plotly.react(node, traces, full, { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"],
    displayModeBar: narrow ? false : "hover", toImageButtonOptions: { format: "svg" } });
}

function logTicks(values) {  // 1, 2 and 5 of each decade, or the decades alone where those are many
  const low = Math.floor(Math.log10(Math.min(...values))), high = Math.ceil(Math.log10(Math.max(...values)));
  const steps = high - low > 4 ? [1] : [1, 2, 5], tickvals = [];
  for (let e = low; e <= high; e++) for (const step of steps) tickvals.push(step * 10 ** e);
  const units = [[1e9, "G"], [1e6, "M"], [1e3, "k"], [0, ""]];
  return { tickvals, ticktext: tickvals.map(v => { const [unit, name] = units.find(([least]) => v >= least); return +(v / (unit || 1)).toPrecision(1) + name; }) };
}

const percents = { tickformat: "~%" };  // as many digits as the distance of the ticks needs
const scores = () => group.by.share ? percents : {};
const better = (a, b) => group.by.sign * a > group.by.sign * b;
const bars = (found, name) => {
  const [mid, low, high] = [0, 1, 2].map(i => found.map(cell => cell[name][i]));
  return { type: "data", symmetric: false, thickness: 1, width: 3,
    array: mid.map((m, i) => high[i] == null ? NaN : high[i] - m), arrayminus: mid.map((m, i) => low[i] == null ? NaN : m - low[i]) };  // null would be drawn as an interval of no width
};
const at = cell => D.keys.filter(key => cell.at[key] != null).map(key => `${key}=${text(cell.at[key])}`).join(" ");
const cellText = cell => safe(`${cell.series} ${at(cell)}`) +
  `<br>validation ${score(cell.val[0], 2)}, test ${score(cell.test[0], 2)}` + (cell.seeds[1] > 1 ? `<br>${cell.seeds[0]} of ${cell.seeds[1]} runs` : "");
const title = words => /^[a-z]+\b/.test(words) ? words[0].toUpperCase() + words.slice(1) : words;  // mAP as it is
const seriesOf = found => ORDER.filter(name => found.some(cell => cell.series === name));
const done = () => group.cells.filter(cell => cell.val[0] != null);

// ---- accuracy against training images ----------------------------------------------------------------------------

function sizesSection() {
  const root = $("#sizes"), own = D.sizes.find(one => one.groups.includes(D.groups.indexOf(group)));
  root.hidden = !own;
  if (root.hidden) return;
  const found = own.groups.flatMap((number, i) => D.groups[number].contenders.map(one => ({ ...one, images: own.images[i] })));
  $("h2", root).textContent = `${title(group.by.words)} against training images`;
  $(".note", root).textContent = `${own.sentence} Each point is the best cell by validation, with the 95% interval of its test score.`;
  chart($(".chart", root), () => [seriesOf(found).map((name, i, all) => {
    const line = found.filter(one => one.series === name), beside = (own.images.at(-1) / own.images[0]) ** ((i - (all.length - 1) / 2) * .006);  // intervals would cover each other
    return { name: safe(name), type: "scatter", mode: "lines+markers", x: line.map(one => one.images * beside), y: line.map(one => one.test[0]), error_y: bars(line, "test"),
      line: { color: colour(name), width: 2 }, marker: { color: colour(name), symbol: symbol(name), size: 9 }, text: line.map(one => `${one.images.toLocaleString("en")} images<br>${cellText(one)}`), hovertemplate: "%{text}<extra></extra>" };
  }), { xaxis: { title: "training images", type: "log", tickvals: own.images, ticktext: own.images.map(count => count.toLocaleString("en")) }, yaxis: { title: `test ${group.by.words}`, ...scores() } }]);
}

// ---- accuracy against cost ---------------------------------------------------------------------------------------

const costState = { which: 0, split: "val" };
function pareto(found) {
  const [which, split] = [costState.which, costState.split];
  let best = -group.by.sign * Infinity;
  return found.filter(cell => cell.cost[which] != null && cell[split][0] != null)
    .sort((a, b) => a.cost[which] - b.cost[which] || group.by.sign * (b[split][0] - a[split][0]))
    .filter(cell => better(cell[split][0], best) && ((best = cell[split][0]), true));
}

function drawCost() {
  const { which, split } = costState, found = done().filter(cell => cell.cost[which] != null && cell[split][0] != null), front = pareto(found);
  const many = found.length > 60;
  const traces = seriesOf(found).map(name => {
    const own = found.filter(cell => cell.series === name);
    return { name: safe(name), type: "scatter", mode: "markers", x: own.map(c => c.cost[which]), y: own.map(c => c[split][0]), error_y: { ...bars(own, split), visible: !many },
      marker: { color: colour(name), symbol: own.map(cell => shape(cell, name)), size: many ? 7 : 10, opacity: many ? .7 : 1 }, text: own.map(cellText), hovertemplate: "%{text}<br>%{x:.4s}<extra></extra>" };
  });
  for (const model of D.models) traces.push({ name: safe(model), type: "scatter", mode: "markers", x: [null], y: [null], marker: { symbol: modelSymbol({ at: { model } }), color: ink("--quiet"), size: 10 }, hoverinfo: "skip" });
  traces.unshift({ name: "Pareto front", type: "scatter", mode: "lines+markers", x: front.map(c => c.cost[which]), y: front.map(c => c[split][0]), hoverinfo: "skip",
    line: { color: ink("--quiet"), width: 1.2, dash: "dot", shape: "hv" }, marker: { symbol: "circle-open", size: 17, color: ink("--quiet"), line: { width: 1.5 } } });
  const positive = found.every(cell => cell.cost[which] > 0), values = found.map(cell => cell.cost[which]);
  const [least, most] = [Math.min(...values), Math.max(...values)], wide = positive && most > 5 * least;
  return [traces, { xaxis: { title: COSTS[which], ...(wide ? { type: "log", ...logTicks(values) } : { exponentformat: "SI", rangemode: least < most / 2 || least === most ? "tozero" : "normal" }) },
    yaxis: { title: `${split === "val" ? "validation" : "test"} ${group.by.words}`, ...scores() } }];
}

function costSection() {
  const root = $("#cost"), node = $(".chart", root);
  root.hidden = !done().length;
  if (root.hidden) return;
  $(".controls", root).replaceChildren(
    select("cost", COSTS.map((name, i) => [String(i), name]).filter(([i]) => done().some(cell => cell.cost[i] != null)), String(costState.which), value => { costState.which = +value; paint(node); }),
    select(group.by.words, [["val", "validation"], ["test", "test"]], costState.split, value => { costState.split = value; paint(node); }));
  $("h2", root).textContent = `${title(group.by.words)} against cost`;
  $(".note", root).textContent = "Each point is a cell, with its 95% interval if known (left out above 60 cells). Ringed: no other cell is both cheaper and better." +
    (done().some(cell => cell.cost[3] === 0) ? " Cells whose features were already in the store show only the remaining cost." : "") +
    (done().some(cell => cell.runs.some(run => D.runs[run].status === "PRUNED")) ? " Trials stopped early show what they had reached by then." : "");
  chart(node, drawCost);
}

// ---- response to lr and other keys ---------------------------------------------------------------------------------

const reads = (cell, key) => key === D.key || cell.at[key] != null;  // a solved head has no lr
const isNumber = key => group.cells.some(cell => reads(cell, key)) && group.cells.every(cell => !reads(cell, key) || typeof cell.at[key] === "number");
const valuesOf = (key, cells = group.cells) => {
  const found = [...new Set(cells.filter(cell => reads(cell, key)).map(cell => valueOf(cell, key)))];
  return key !== D.key && isNumber(key) ? found.sort((a, b) => a - b) : found.map(String);
};
const valueOf = (cell, key) => key === D.key ? cell.series : typeof cell.at[key] === "number" ? cell.at[key] : String(cell.at[key]);
const isLog = values => values.length > 1 && values.every(v => v > 0) && Math.max(...values) >= 5 * Math.min(...values);
const response = { x: null, fixed: {} };
const lost = cell => {  // why a cell has no result: its runs are over, and all failed
  const runs = cell.runs.map(number => D.runs[number]);
  return !runs.length || runs.some(run => run.status !== "FAILED") ? "" : runs.every(run => /^Diverged/.test(run.reason)) ? "diverged" : "failed";
};
const best = found => found.reduce((a, b) => a == null || better(b.val[0], a.val[0]) ? b : a, null);

function drawResponse() {
  const x = response.x, values = valuesOf(x), number = isNumber(x) && x !== D.key;
  const fits = cell => Object.entries(response.fixed).every(([key, value]) => value === "" || !reads(cell, key) || String(cell.at[key]) === value);
  const found = done().filter(fits), without = group.cells.filter(cell => fits(cell) && reads(cell, x) && lost(cell) && !found.some(c => c.series === cell.series && valueOf(c, x) === valueOf(cell, x)));
  const log = number && isLog(values), beside = (value, i, count) => log ? value * (values.at(-1) / values[0]) ** ((i - (count - 1) / 2) * (innerWidth < 600 ? .02 : .006)) : value;  // intervals would cover each other
  const traces = seriesOf(found).map((name, i, all) => {
    const own = values.map(value => best(found.filter(cell => cell.series === name && valueOf(cell, x) === value))).filter(cell => cell);
    return { name: safe(name), type: "scatter", mode: "lines+markers", x: own.map(cell => number ? beside(cell.at[x], i, all.length) : safe(valueOf(cell, x))), y: own.map(cell => cell.val[0]), error_y: bars(own, "val"),
      line: { color: colour(name), width: 2 }, marker: { color: colour(name), symbol: symbol(name), size: 9 }, text: own.map(cellText), hovertemplate: "%{text}<extra></extra>" };
  });
  const order = seriesOf(done());
  if (without.length) traces.push({ type: "scatter", mode: "markers", showlegend: false, yaxis: "y2", y: without.map(() => 0), cliponaxis: false, x: without.map(cell => number ? beside(cell.at[x], Math.max(0, order.indexOf(cell.series)), order.length) : safe(valueOf(cell, x))),
    marker: { symbol: "x-thin-open", size: 10, color: without.map(cell => colour(cell.series)), line: { width: 2.4 } }, text: without.map(cell => `${safe(`${cell.series} ${at(cell)}`)}<br>${lost(cell)}`), hovertemplate: "%{text}<extra></extra>" });
  return [traces, { ...(without.length ? { yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true } } : {}), xaxis: { title: x === "lr" ? "learning rate" : safe(x), type: log ? "log" : number ? "linear" : "category",
    ...(number && values.length <= 8 ? { tickvals: values, ticktext: values.map(text) } : {}) },
    yaxis: { title: `validation ${group.by.words}`, ...scores() } }];
}

function responseSection() {
  const root = $("#response"), node = $(".chart", root), keys = D.keys.filter(key => valuesOf(key).length > 1);
  root.hidden = !done().length || (!keys.length && valuesOf(D.key).length < 2) || group.search != null;  // that has drawn it
  if (root.hidden) return;
  response.x = keys.includes("lr") ? "lr" : keys.find(isNumber) || keys[0] || D.key;
  const controls = () => {
    const others = keys.filter(key => key !== response.x);
    $("h2", root).textContent = response.x === "lr" ? "Learning rate response" : `Response to ${response.x}`;
    $(".controls", root).replaceChildren(
      ...(keys.length > 1 ? [select("along", keys.map(key => [key, key]), response.x, value => { response.x = value; response.fixed = {}; controls(); paint(node); })] : []),
      ...others.map(key => select(key, [["", "best of each"], ...valuesOf(key).map(v => [String(v), text(v)])], response.fixed[key] || "", value => { response.fixed[key] = value; paint(node); })));
  };
  controls();
  const unread = ORDER.filter(name => group.cells.some(cell => cell.series === name) && !group.cells.some(cell => cell.series === name && reads(cell, response.x)));
  $(".note", root).textContent = (keys.some(key => isNumber(key) && isLog(valuesOf(key))) ? "On a logarithmic axis, points of the same value stand side by side, so that their 95% intervals can be seen." : "") + (keys.length > 1 ? " “Best of each”: each point is the cell that is best on validation among those with its value." : "") + (group.cells.some(lost) ? " Crosses at the bottom: all runs diverged or failed." : "") + (unread.length ? ` Without ${response.x}, so not shown: ${unread.join(", ")}.` : "");
  chart(node, drawResponse);
  heatSection($(".heat", root), [...keys, D.key].filter(key => valuesOf(key).length > 1));
}

const heat = { x: null, y: null };
function heatSection(root, keys) {
  root.hidden = keys.length < 2;
  if (root.hidden) return;
  heat.x = keys[0]; heat.y = keys[1];
  const node = $(".chart", root), options = keys.map(key => [key, key]);
  const controls = () => $(".controls", root).replaceChildren(...["x", "y"].map(axis => select(axis === "x" ? "across" : "up", options, heat[axis], value => {
    const other = axis === "x" ? "y" : "x";
    if (heat[other] === value) heat[other] = heat[axis];
    heat[axis] = value; controls(); paint(node);
  })));
  controls();
  chart(node, () => {
    const both = group.cells.filter(c => reads(c, heat.x) && reads(c, heat.y));
    const [xs, ys] = [valuesOf(heat.x, both), valuesOf(heat.y, both)];
    const cell = ys.map(y => xs.map(x => best(done().filter(c => valueOf(c, heat.x) === x && valueOf(c, heat.y) === y))));
    const z = cell.map(row => row.map(c => c ? c.val[0] : null)), none = (x, y) => both.filter(c => valueOf(c, heat.x) === x && valueOf(c, heat.y) === y).map(lost)[0];
    const failed = ys.flatMap((y, j) => xs.map((x, i) => [safe(text(x)), safe(text(y)), z[j][i] == null && none(x, y)])).filter(([, , why]) => why);
    return [[{ type: "heatmap", x: xs.map(v => safe(text(v))), y: ys.map(v => safe(text(v))), z, colorscale: "Cividis", xgap: 2, ygap: 2, hoverongaps: false,
      text: cell.map(row => row.map(c => c ? cellText(c) : "")), hovertemplate: "%{text}<extra></extra>", ...(xs.length * ys.length <= 120 ? { texttemplate: group.by.share ? "%{z:.1%}" : "%{z:.3f}" } : {}), reversescale: group.by.sign < 0, colorbar: { ...scores(), thickness: 12, outlinewidth: 0, ...(node.clientWidth < 560 ? {} : { title: { text: `validation ${group.by.words}`, side: "right" } }) } },
      { type: "scatter", mode: "text", x: failed.map(([x]) => x), y: failed.map(([, y]) => y), text: failed.map(([, , why]) => why), textfont: { color: ink("--quiet") }, hoverinfo: "skip", showlegend: false }],
    { xaxis: { title: safe(heat.x), type: "category", showgrid: false }, yaxis: { title: safe(heat.y), type: "category", showgrid: false } }];
  });
  $(".note", root).textContent = `The ${group.by.words} on validation of the best cell of each field; without a colour: no cell has finished.`;
}

// ---- learning curves ---------------------------------------------------------------------------------------------

const curves = { metric: "accuracy", runs: new Set() };
const MOST_CURVES = 40;
function drawCurves() {
  const chosen = [...curves.runs].slice(0, MOST_CURVES), shapes = [], traces = [], used = {};
  const narrow = $("#curves .chart").clientWidth < 560, wrapped = name => narrow ? safe(name).replace(/(.{24}\S*) /g, "$1<br>") : safe(name);
  for (const number of chosen) {
    const run = D.runs[number], data = D.curves[number], name = run.series, dash = DASHES[(used[name] = (used[name] ?? -1) + 1) % DASHES.length];
    const common = { type: "scatter", x: data.epoch, legendgroup: String(number), hovertemplate: `${safe(run.name)}<br>epoch %{x}: %{y:.4f}` };
    const mode = data.epoch.length < 3 ? "lines+markers" : "lines";
    traces.push({ ...common, mode, name: wrapped(run.name), y: data[`val/${curves.metric}`], line: { color: colour(name), width: 2.4, dash }, marker: { symbol: symbol(name), size: 7 }, hovertemplate: common.hovertemplate + " validation<extra></extra>" });
    if (data[`train/${curves.metric}`]) traces.push({ ...common, mode, name: "train", showlegend: false, opacity: .55, y: data[`train/${curves.metric}`], line: { color: colour(name), width: 1.2, dash }, marker: { symbol: symbol(name) + "-open", size: 6 }, hovertemplate: common.hovertemplate + " train<extra></extra>" });
    for (const start of data.starts) shapes.push({ type: "line", x0: start - .5, x1: start - .5, yref: "paper", y0: 0, y1: 1, line: { color: colour(name), width: 1, dash: "dot" }, layer: "below" });
  }
  const share = curves.metric === "accuracy" || (curves.metric === group.by.name && group.by.share);
  return [traces, { shapes, xaxis: { title: "epoch", ...(Math.max(0, ...chosen.map(n => D.curves[n].epoch.at(-1) || 0)) <= 12 ? { dtick: 1 } : {}) }, yaxis: { title: curves.metric === group.by.name ? group.by.words : curves.metric, ...(share ? percents : {}) } }];
}

function curvesSection() {
  const root = $("#curves"), node = $(".chart", root), own = group.cells.flatMap(cell => cell.runs).filter(n => D.curves[n].epoch.length).sort((a, b) => a - b);
  root.hidden = !own.length;
  if (root.hidden) return;
  curves.metric = group.by.name;
  const shown = [...new Map([["accuracy", "accuracy"], [group.by.name, group.by.words], ["loss", "loss"]])];
  const firsts = group.contenders.map(one => one.run);
  curves.runs = new Set(firsts.length ? firsts.slice(0, 6) : own.slice(0, 6));
  const list = make("div"), filter = make("input", { type: "search", placeholder: "filter, e.g. head 0.001" });
  const draw = () => {
    paint(node);
    tell();
  };
  const tell = () => {
    const drawn = [...curves.runs].slice(0, MOST_CURVES), moves = drawn.some(n => D.curves[n].starts.length);
    $("summary", root).textContent = `runs: ${curves.runs.size} of ${own.length}`;
    $(".note", root).textContent = "Thick lines: validation; thin lines: train." + (moves ? " Dotted lines: epochs at which the frost line moves, in the colour of the run." : "") +
      (drawn.length < curves.runs.size ? ` Only the first ${MOST_CURVES} of ${curves.runs.size} runs are drawn.` : "");
  };
  const matching = () => own.filter(n => filter.value.toLowerCase().split(/\s+/).every(word => D.runs[n].name.toLowerCase().includes(word)));
  const fill = () => list.replaceChildren(...matching().slice(0, 200).map(number => {
    const box = make("input", { type: "checkbox", checked: curves.runs.has(number) });
    box.addEventListener("change", () => { box.checked ? curves.runs.add(number) : curves.runs.delete(number); draw(); });
    return make("label", {}, box, D.runs[number].name);
  }));
  filter.addEventListener("input", fill);
  const button = (name, chosen) => { const b = make("button", { type: "button", textContent: name }); b.addEventListener("click", () => { curves.runs = new Set(chosen()); fill(); draw(); }); return b; };
  const pick = make("details", { className: "pick" }, make("summary"), make("div", { className: "list" }, filter, " ", button("all that match", matching), " ", button("none", () => []), list));
  pick.addEventListener("toggle", () => pick.open && fill());
  $(".controls", root).replaceChildren(select("show", shown, curves.metric, value => { curves.metric = value; draw(); }), pick, button("best of each", () => firsts));
  chart(node, drawCurves);
  tell();
}

// ---- per class ----------------------------------------------------------------------------------------------------

const short = name => name.length > 22 ? name.slice(0, 20) + "…" : name;
function classesSection() {
  const root = $("#classes"), known = group.contenders.filter(one => one.classes);
  root.hidden = !known.length;
  if (root.hidden) return;
  const names = known[0].classes, node = $(".chart", root), state = { most: names.length <= 40 ? names.length : 40 };
  const worst = () => names.map((_, i) => i).sort((a, b) => Math.min(...known.map(o => o.accuracy[a] ?? 2)) - Math.min(...known.map(o => o.accuracy[b] ?? 2)));
  const shown = () => state.most >= names.length ? names.map((_, i) => i) : worst().slice(0, state.most);
  $(".controls", root).replaceChildren(...(names.length > 40 ? [select("classes", [["40", "the 40 that are hardest"], [String(names.length), `all ${names.length}`]], "40", value => { state.most = +value; paint(node); })] : []));
  chart(node, () => [known.map(one => ({ type: "bar", name: safe(one.series), x: shown().map(i => `${i} `), y: shown().map(i => one.accuracy[i]), marker: { color: colour(one.series) },
    error_y: { type: "data", symmetric: false, thickness: 1.2, width: 2, color: ink("--ink"), array: shown().map(i => one.within[i][1] == null ? NaN : one.within[i][1] - one.accuracy[i]), arrayminus: shown().map(i => one.within[i][0] == null ? NaN : one.accuracy[i] - one.within[i][0]), visible: shown().length <= 40 },
    customdata: shown().map(i => `${safe(names[i])}, ${one.images[i]} images` + (one.f1 ? `<br>precision ${pct(one.precision[i])}, F1 ${pct(one.f1[i])}` : "")), hovertemplate: "%{customdata}<br>%{y:.1%}<extra>" + safe(one.series) + "</extra>" })),
  { barmode: "group", bargap: .25, xaxis: { type: "category", tickvals: shown().map(i => `${i} `), ticktext: shown().map(i => safe(short(names[i]))) }, yaxis: { title: "recall", range: [0, 1], ...percents } }]);
  const scored = known.filter(one => one.over_classes), over = measure => scored.map(one => `${one.name} ${pct(one.over_classes[measure])}`).join(", ");
  const means = scored.length ? Object.keys(scored[0].over_classes).map(measure => `${measure} ${over(measure)}`).join("; ") : "";
  $(".note", root).textContent = (means && `Mean over the classes, with equal weights: ${means}.`) + (!known.some(one => one.seeds[0] > 1) ? "" : group.folds ? " All folds are counted together." : " All runs of a cell are counted together, so an image counts once per run.");
  matrices($(".matrices", root), known, names);
  pairs($(".pairs", root), known, names);
  disagreements($(".disagreements", root), names);
}

function matrices(root, known, classes) {
  const drawn = known.filter(one => one.confusion);
  root.replaceChildren();
  if (drawn.some(one => one.shown.length < classes.length)) root.append(make("p", { className: "quiet", textContent: `Of ${classes.length.toLocaleString("en")} classes, those confused most often are shown; the run's confusion_matrix.json has all.` }));
  for (const first of drawn.slice(0, 2)) {
    let one = first;
    const node = make("div", { className: "chart tall" }), head = make("h3", {}, "Confusion of ");
    const box = select("", drawn.map(o => [o.series, o.name]), one.series, value => { one = drawn.find(o => o.series === value); paint(node); });
    head.append(box);
    root.append(make("div", {}, head, node));
    chart(node, () => {
      const names = one.shown.map(i => classes[i]), totals = one.shown.map(i => one.images[i]);
      const z = names.map(() => new Array(names.length).fill(0)), [rows, columns, counts] = one.confusion;
      rows.forEach((row, i) => { z[row][columns[i]] = counts[i]; });
      const share = z.map((row, i) => row.map(v => totals[i] ? Math.pow(v / totals[i], .5) : null));
      const small = names.length <= 20, labels = names.length <= 30 ? { tickvals: names.map((_, i) => `${i} `), ticktext: names.map(n => safe(short(n))) } : { showticklabels: false }, dark = matchMedia("(prefers-color-scheme: dark)").matches;
      const longest = Math.max(...names.map(n => short(n).length)) * 8, upright = longest > (node.clientWidth - longest - 50) / names.length ? { tickangle: 90 } : {};  // slanted ones need room at the side
      return [[{ type: "heatmap", z: share, customdata: z, x: names.map((_, i) => `${i} `), y: names.map((_, i) => `${i} `), zmin: 0, zmax: 1, showscale: false, xgap: small ? 1 : 0, ygap: small ? 1 : 0,
        colorscale: [[0, dark ? "#1f2228" : "#f5f6f8"], [1, colour(one.series)]], text: z.map(row => row.map(v => v || "")), ...(small ? { texttemplate: "%{text}" } : {}),
        hovertext: z.map((row, i) => row.map((v, j) => `${v} of ${totals[i]} images of ${safe(names[i])}<br>taken for ${safe(names[j])}`)), hovertemplate: "%{hovertext}<extra></extra>" }],
      { margin: { l: 40, r: 8, t: 8, b: 40 }, xaxis: { title: "predicted class", type: "category", ...labels, ...upright, showgrid: false },
        yaxis: { title: "true class", type: "category", autorange: "reversed", ...labels, showgrid: false } }];
    });
  }
}

const image = src => make("img", { src, alt: "", loading: "lazy" });
const dot = name => { const node = make("span", { className: "swatch" }); node.style.setProperty("--c", colour(name)); return node; };
const confused = (one, names) => make("div", {},
  make("h3", {}, dot(one.series), `Most confused by ${one.name}`),
  make("table", { className: "plain" }, make("tr", {}, make("th"), make("th", { className: "number", textContent: "times" }), make("th")),
    ...one.pairs.map(([i, j, count, shown]) => make("tr", {}, make("td", { textContent: `${names[i]} taken for ${names[j]}` }), make("td", { className: "number", textContent: count }), make("td", {}, ...shown.map(image))))));
function pairs(root, known, names) {
  const [first, others] = [known.slice(0, 2), known.slice(2)].map(part => part.filter(one => one.pairs.length).map(one => confused(one, names)));
  const rest = others.length ? [make("details", { className: "others" }, make("summary", { textContent: `${others.length} more` }), make("div", { className: "pairs" }, ...others))] : [];
  root.replaceChildren(...first, ...rest);
}

function disagreements(root, names) {
  const found = group.disagreements, [one, two] = group.contenders;
  root.replaceChildren();
  if (!found) return;
  const both = found.differ - found.first - found.second, same = (a, b) => String(a) === String(b);
  const named = label => [label].flat().map(i => names[i]).join(" + ") || "none";
  root.append(make("h3", { textContent: "Where the best two disagree" }),
    make("p", { className: "quiet", textContent: `${title([...found.of, "they"].join(" "))} classify ${found.differ} of ${found.images} test images differently: only ${one.name} is right on ${found.first}, only ${two.name} on ${found.second}, neither on ${both}.` +
      (found.tiles.length < found.differ ? ` ${found.tiles.length} of them are shown.` : "") }),
    make("div", { className: "tiles" }, ...found.tiles.map(([src, label, first, second]) => make("figure", {}, image(src),
      make("figcaption", {}, make("div", { title: named(label), textContent: `is ${named(label)}` }), ...[[one, first], [two, second]].map(([who, said]) => make("div", { className: "said" }, dot(who.series), make("span", { className: same(said, label) ? "right" : "wrong", title: `${who.name} says ${named(said)}`, textContent: `${same(said, label) ? "✓" : "✗"} ${named(said)}` }))))))));
}

// ---- per group ----------------------------------------------------------------------------------------------------

function groupsSection() {
  const root = $("#groups"), found = group.groups;
  root.hidden = !found;
  if (root.hidden) return;
  const known = group.contenders.map((one, i) => ({ ...one, scores: found.scores[i], worst: found.worst[i] })).filter(one => one.worst);
  const number = (...content) => make("td", { className: "number" }, ...content), count = images => images.toLocaleString("en");
  const cell = (score, whole) => score ? number(make("span", { className: score[2] < whole ? "wrong" : "", textContent: pct(score[0]) }), " ", make("span", { className: "quiet", textContent: `${(100 * score[1]).toFixed(0)} to ${(100 * score[2]).toFixed(0)}` })) : number("–");
  $("table", root).replaceChildren(
    make("tr", {}, make("th", { textContent: "group" }), make("th", { className: "number", textContent: "images" }), ...known.map(one => make("th", { className: "number", title: one.name }, dot(one.series), one.series))),
    ...found.names.map((name, i) => make("tr", {}, make("td", { textContent: name }), number(count(found.images[i])), ...known.map(one => cell(one.scores[i], one.accuracy_of_test)))));
  $(".note", root).textContent = `Worst-group accuracy (Sagawa et al. 2020): ${known.map(one => `${one.name} ${pct(one.worst[1])} on ${one.worst[0]}`).join(", ")}.` +
    (found.names.length < found.count ? ` Of ${count(found.count)} groups, the ${found.names.length} worst of ${known[0].name} are shown.` : "") +
    (found.others > 0 ? ` ${count(found.others)} more test images are in groups of fewer than ${found.least}, or in none.` : "") +
    " The 95% intervals are over further images of the same group." + ($(".wrong", root) ? " In colour: the interval lies below the accuracy on all test images." : "") +
    (known.some(one => one.f1) ? " An image is right if all its classes are." : "");
}

// ---- calibration and robustness ------------------------------------------------------------------------------------

function calibrationSection() {
  const root = $("#calibration"), known = group.contenders.filter(one => one.calibration);
  root.hidden = !known.length;
  if (root.hidden) return;
  $(".note", root).textContent = "Expected calibration error with 15 bins (Guo et al. 2017): " + known.map(one => `${one.name} ${pct(one.calibration.ece)}`).join(", ") + ". Below the diagonal a model is overconfident; the size of a point is its share of the " + (known.some(one => one.f1) ? "decisions, one for each image and class." : "images.");
  chart($(".chart", root), () => [[{ type: "scatter", mode: "lines", x: [0, 1], y: [0, 1], name: "calibrated", hoverinfo: "skip", line: { color: ink("--quiet"), width: 1, dash: "dot" } },
    ...known.map(one => {
      const bins = one.calibration.bins, total = sum(bins.map(bin => bin[0]));
      return { type: "scatter", mode: "lines+markers", name: `${safe(one.series)} (ECE ${pct(one.calibration.ece)})`, x: bins.map(bin => bin[1]), y: bins.map(bin => bin[2]), line: { color: colour(one.series), width: 2 },
        marker: { color: colour(one.series), symbol: symbol(one.series), size: bins.map(bin => 6 + 14 * Math.sqrt(bin[0] / total)), opacity: .9 }, text: bins.map(bin => `${bin[0]} images`), hovertemplate: "confidence %{x:.1%}, accuracy %{y:.1%}<br>%{text}<extra></extra>" };
    })], { xaxis: { title: "confidence", range: [0, 1.03], ...percents }, yaxis: { title: "test accuracy", range: [-.04, 1.06], ...percents } }]);
}

function robustnessSection() {
  const root = $("#robustness"), known = group.contenders.filter(one => one.shift);
  root.hidden = !known.length;
  if (root.hidden) return;
  const kinds = Object.keys(known[0].shift), node = $(".chart", root), mean = one => sum(kinds.map(kind => sum(one.shift[kind]) / one.shift[kind].length)) / kinds.length;
  $(".note", root).textContent = "Mean over all corruptions and severities: " + [...known].sort((a, b) => mean(b) - mean(a)).map(one => `${one.name} ${pct(mean(one))} (clean ${pct(one.accuracy_of_test)})`).join(", ") +
    ". Severity 0 is the clean test split, 1 to 5 are corrupted as by Hendrycks and Dietterich (2019).";
  chart(node, () => {
    const columns = node.clientWidth < 560 ? 1 : node.clientWidth < 1100 ? 3 : kinds.length, rows = Math.ceil(kinds.length / columns), layout = { grid: { rows, columns, pattern: "independent", xgap: .06, ygap: .36 }, annotations: [] };
    node.style.height = `${Math.max(320, rows * 230)}px`;
    const traces = kinds.flatMap((kind, i) => {
      const n = i ? i + 1 : "";
      layout[`xaxis${n}`] = { title: { text: safe(kind) + " severity" }, dtick: 1 };
      layout[`yaxis${n}`] = { range: [0, 1.03], ...percents, ...(i % columns ? { showticklabels: false } : { title: "test accuracy" }) };
      return known.map(one => ({ type: "scatter", mode: "lines+markers", name: safe(one.series), legendgroup: one.series, showlegend: !i, x: [0, 1, 2, 3, 4, 5], y: [one.accuracy_of_test, ...one.shift[kind]], xaxis: `x${n}`, yaxis: `y${n}`,
        line: { color: colour(one.series), width: 2 }, marker: { color: colour(one.series), symbol: symbol(one.series), size: 7 }, hovertemplate: "%{y:.1%}<extra>" + safe(one.series) + "</extra>" }));
    });
    return [traces, layout];
  });
}

// ---- every run ------------------------------------------------------------------------------------------------------

let table = null;
function runsSection({ ITable, jQuery, DataTable }) {
  const escape = value => value == null ? "" : safe(text(value));
  const number = (show, none) => (value, kind) => kind === "display" ? (value == null ? "–" : show(value)) : value ?? none;  // missing values come last when sorted best first
  const score = { render: (value, kind, run) => number(v => run.share ? pct(v, 2) : v.toFixed(4), D.groups[0].by.sign < 0 ? Infinity : -1)(value, kind), orderSequence: ["desc", "asc"] }, cost = show => ({ render: number(show, Infinity), orderSequence: ["asc", "desc"] });
  const plain = { render: (value, kind) => kind === "display" || kind === "filter" ? escape(value) : value ?? "" };
  const columns = [
    { title: "status", data: run => run.status, render: (value, kind, run) => kind === "display" ? `<span class="state ${safe(value)}" title="${safe(run.reason ?? "")}">${safe(value.toLowerCase())}</span>` : value },
    ...D.swept.map((key, i) => ({ title: safe(key), data: run => run.at[i], ...plain })),
    ...D.repeated.map((key, i) => ({ title: key, data: run => run.repeat[i], ...plain })),
    { title: "val", data: run => run.val, ...score }, { title: "test", data: run => run.test, ...score },
    { title: "best epoch", data: run => run.epoch, ...cost(String) },
    { title: "seconds", data: run => run.cost[0], ...cost(v => v < 1 ? String(+v.toPrecision(2)) : v.toFixed(1)) }, { title: "trainable", data: run => run.cost[1], ...cost(v => v.toLocaleString("en")) },
    { title: "adapter", data: run => run.adapter, className: "wrap", ...plain },
    { title: "reason", data: run => run.reason ?? "", className: "wrap", render: (value, kind) => kind === "display" ? safe(value) : value },
    { title: "links", orderable: false, data: run => run.folder ?? "", render: (folder, kind, run) => kind !== "display" ? "" : [folder && `<a href="${safe(folder)}/config.yaml">config</a>`, folder && `<a href="${safe(folder)}/">files</a>`, run.mlflow && `<a href="${safe(run.mlflow)}">mlflow</a>`].filter(Boolean).join(" ") },
    { title: "again", orderable: false, data: run => run.again, render: (value, kind) => kind === "display" && value ? `<code class="again" title="copy">${safe(value)}</code>` : value ?? "" },
  ].filter(({ title }) => !["adapter", "reason"].includes(title) || D.runs.some(run => run[title]));
  const node = $("#runs table");
  const by = columns.findIndex(column => column.title === "val");
  table = new jQuery.fn.dataTable.Api(jQuery(node).DataTable({ data: D.runs, columns, order: [[by, D.groups[0].by.sign < 0 ? "asc" : "desc"]], pageLength: 25, lengthMenu: [10, 25, 100, 1000], deferRender: true, autoWidth: false,
    language: { search: "filter", searchPlaceholder: "e.g. head failed" }, layout: { topStart: "search", topEnd: "pageLength", bottomStart: "info", bottomEnd: "paging" } }));
}

// ---- starting --------------------------------------------------------------------------------------------------------

async function unpack(id) {
  const text = document.getElementById(id).textContent.trim();
  let bytes;
  if (Uint8Array.fromBase64) bytes = Uint8Array.fromBase64(text);
  else {
    const raw = atob(text);
    bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  }
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).blob();
}

async function script(id) {
  const url = URL.createObjectURL(new Blob([await unpack(id)], { type: "text/javascript" }));
  await new Promise((loaded, failed) => document.head.append(make("script", { src: url, onload: loaded, onerror: failed })));
}

const SECTIONS = [sizesSection, costSection, responseSection, curvesSection, classesSection, groupsSection, calibrationSection, robustnessSection];
function sections() {
  for (const draw of SECTIONS) draw();
  document.querySelectorAll("[data-group]").forEach(node => { node.hidden = D.groups.length > 1 && +node.dataset.group !== D.groups.indexOf(group) && node.tagName === "DIV"; });
}

async function start() {
  document.addEventListener("click", async ({ target }) => {
    if (!target.matches(".again")) return;
    try {
      await navigator.clipboard.writeText(target.textContent);
      target.classList.add("copied");
    } catch {  // not allowed here
      getSelection().selectAllChildren(target);
    }
  });
  for (const node of document.querySelectorAll(".swatch[data-series]")) node.style.setProperty("--c", colour(node.dataset.series));
  if (D.groups.length > 1) {
    const box = $("#pick-group");
    box.hidden = false;
    $("select", box).append(...D.groups.map((one, i) => make("option", { value: i, textContent: one.where })));
    $("select", box).addEventListener("change", event => { group = D.groups[+event.target.value]; sections(); });
  }
  await script("plotly");
  sections();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => seen.forEach(node => node.isConnected && paint(node)));
  const [module, style] = await Promise.all([unpack("tables").then(blob => import(URL.createObjectURL(new Blob([blob], { type: "text/javascript" })))), unpack("tables-style").then(blob => blob.text())]);
  document.head.prepend(make("style", { textContent: style }));
  const dark = matchMedia("(prefers-color-scheme: dark)"), shade = () => document.documentElement.classList.toggle("dark", dark.matches);
  dark.addEventListener("change", shade);
  shade();
  runsSection(module);
  document.documentElement.dataset.ready = Math.round(performance.now());
  lookAhead();
}

start().catch(error => { $("main").prepend(make("p", { className: "wrong", textContent: `The charts could not be drawn: ${error}. They need a browser from 2023 or later.` })); throw error; });
