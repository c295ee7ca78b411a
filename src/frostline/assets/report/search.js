
// ---- a search: its history, what matters, one key at a time, two keys at once -----------------------------------------

const [COMPLETE, PRUNED, FAILED] = [0, 1, 2];
const ended = (study, state) => study.state.map((_, i) => i).filter(i => study.state[i] === state && study.value[i] != null);
const keyText = (study, i) => Object.entries(study.at).map(([key, values]) => `${safe(key)}=${text(+values[i] === values[i] ? +(+values[i]).toPrecision(3) : values[i])}`).join("<br>");
const trialText = (study, i) => `${safe(study.name)}, trial ${study.number[i]}${["", ", stopped early", ", failed"][study.state[i]]}<br>validation ${score(study.value[i], 2)}<br>${keyText(study, i)}`;
const tint = (name, alpha) => { const [r, g, b] = [1, 3, 5].map(i => parseInt(colour(name).slice(i, i + 2), 16)); return `rgba(${r},${g},${b},${alpha})`; };
const validation = () => ({ title: `validation ${group.by.words}`, ...scores() });

function points(study, shown, x, more = {}) {  // the trials of a study: dots, a cross where one was stopped early, a ring around the best
  const found = [...ended(study, COMPLETE), ...ended(study, PRUNED)], big = found.length > 200;
  return { type: "scatter", mode: "markers", name: safe(study.name), legendgroup: study.name, showlegend: shown, x: found.map(x), y: found.map(i => study.value[i]), text: found.map(i => trialText(study, i)), hovertemplate: "%{text}<extra></extra>",
    marker: { color: colour(study.series), symbol: found.map(i => study.state[i] === PRUNED ? "x-thin-open" : symbol(study.series)), size: big ? 5 : 7, opacity: big ? .5 : .75, line: { width: 1.2, color: colour(study.series) } }, ...more };
}

function ring(study, x, more = {}) {
  const i = study.best;
  return i == null || study.value[i] == null ? [] : [{ type: "scatter", mode: "markers", legendgroup: study.name, showlegend: false, hoverinfo: "skip", x: [x(i)], y: [study.value[i]], marker: { size: 15, symbol: "circle-open", color: colour(study.series), line: { width: 2 } }, ...more }];
}

function soFar(study) {  // the best complete trial up to each
  const numbers = [], values = [];
  for (const i of ended(study, COMPLETE)) if (!values.length || better(study.value[i], values.at(-1))) { numbers.push(study.number[i]); values.push(study.value[i]); }
  return [[...numbers, study.number.at(-1)], [...values, values.at(-1)]];
}

function drawHistory() {
  const { studies } = group.search, end = Math.max(...studies.map(study => study.number.at(-1)));
  const traces = studies.flatMap((study, n) => {
    const [x, y] = soFar(study), fresh = study.fresh, name = safe(study.name);
    const line = { type: "scatter", mode: "lines", legendgroup: study.name, name, x, y, line: { shape: "hv", color: colour(study.series), width: 2.4 }, hoverinfo: "skip" };
    const after = end + Math.max(1, end * .03) * (1 + n * .6);
    return [points(study, false, i => study.number[i]), line, ...(fresh ? [{ type: "scatter", mode: "markers", legendgroup: study.name, showlegend: false, x: [after], y: [fresh[0]], marker: { color: colour(study.series), symbol: "diamond", size: 12 },
      error_y: { type: "data", symmetric: false, thickness: 1.6, width: 5, array: [fresh[1] == null ? 0 : fresh[2] - fresh[0]], arrayminus: [fresh[1] == null ? 0 : fresh[0] - fresh[1]] },
      hovertemplate: `${name}: ${fresh[3]} fresh seed${fresh[3] === 1 ? "" : "s"} of the best<br>validation ${score(fresh[0], 2)}<extra></extra>` }] : [])];
  });
  return [traces, { xaxis: { title: "trial", ...(end <= 20 ? { tickvals: [...Array(end + 1).keys()] } : {}), range: [-.02 * end - .3, end * 1.02 + Math.max(1, end * .03) * (1 + .6 * studies.length)] }, yaxis: validation() }];
}

const MOST_TRIALS = 60;  // curves of a cell that can be told apart
function drawEpochs() {
  const metric = `val/${group.by.name}`, traces = group.search.studies.flatMap(study => {
    const [lines, ends] = [{ x: [], y: [] }, { x: [], y: [], text: [] }], step = Math.ceil(study.run.length / MOST_TRIALS);
    study.run.forEach((run, i) => {
      if (i % step && i !== study.best) return;
      const { epoch, [metric]: values } = D.curves[run];
      lines.x.push(...epoch, null); lines.y.push(...values, null);
      if (study.state[i] === PRUNED) { ends.x.push(epoch.at(-1)); ends.y.push(values.at(-1)); ends.text.push(trialText(study, i)); }
    });
    const common = { type: "scatter", legendgroup: study.name };
    return [{ ...common, mode: "lines", name: safe(study.name), ...lines, opacity: study.run.length > 50 ? .35 : .6, line: { color: colour(study.series), width: 1.4 }, hoverinfo: "skip" },
      { ...common, mode: "markers", showlegend: false, ...ends, marker: { color: colour(study.series), symbol: "x-thin-open", size: 8, line: { width: 1.8 } }, hovertemplate: "%{text}<extra></extra>" }];
  });
  return [traces, { xaxis: { title: "epoch", ...(Math.max(...traces.flatMap(one => one.x)) <= 12 ? { dtick: 1 } : {}) }, yaxis: validation() }];
}

const scale = (key, from = group.search.keys[key]) => from.choices ? { type: "category", categoryorder: "array", categoryarray: from.choices.map(String) } : from.log ? { type: "log", dtick: 1, exponentformat: "power" } : { type: "linear" };
const put = (study, key) => i => group.search.keys[key].choices ? safe(String(study.at[key][i])) : study.at[key][i];

function drawSlices(node) {
  const { keys, studies } = group.search, names = Object.keys(keys), columns = Math.min(names.length, node.clientWidth < 560 ? 1 : node.clientWidth < 1000 ? 2 : 3), rows = Math.ceil(names.length / columns);
  node.style.height = `${rows * 300 + 40}px`;
  const layout = { grid: { rows, columns, pattern: "independent", xgap: .07, ygap: .28 }, shapes: [] };
  const traces = names.flatMap((key, n) => {
    const [x, y] = ["x", "y"].map(axis => axis + (n ? n + 1 : "")), on = { xaxis: x, yaxis: y };
    layout[`xaxis${x.slice(1)}`] = { title: safe(key === "lr" ? "learning rate" : key), ...scale(key) };
    layout[`yaxis${y.slice(1)}`] = { ...(n % columns ? { ...scores(), showticklabels: false } : validation()), ...(n ? { matches: "y" } : {}) };
    const own = studies.filter(study => study.at[key]);
    for (const study of own) {
      const span = study.as_good[key];
      if (span && !keys[key].choices) layout.shapes.push({ type: "rect", xref: x, yref: `${y} domain`, x0: span[0], x1: span[1], y0: 0, y1: 1, fillcolor: tint(study.series, .13), line: { width: 0 }, layer: "below" });
      if (span && study.least != null) layout.shapes.push({ type: "line", xref: `${x} domain`, yref: y, x0: 0, x1: 1, y0: study.least, y1: study.least, line: { color: colour(study.series), width: 1, dash: "dot" }, layer: "below" });
    }
    return own.flatMap(study => [points(study, !n, put(study, key), on), ...ring(study, put(study, key), on)]);
  });
  return [traces, layout];
}

function drawImportances() {
  const { keys, studies } = group.search, names = Object.keys(keys).reverse();  // the first one on top
  const known = studies.filter(study => Object.keys(study.importances).length);
  return [known.toReversed().map(study => ({ type: "bar", orientation: "h", name: safe(study.name), y: names.map(safe), x: names.map(key => study.importances[key] ?? null), marker: { color: colour(study.series) }, hovertemplate: "%{y}: %{x:.0%}<extra>" + safe(study.name) + "</extra>" })),
    { barmode: "group", bargap: .3, legend: { orientation: "h", y: 1.01, yanchor: "bottom", x: 0, traceorder: "reversed", font: { color: ink("--ink") } }, xaxis: { title: "importance", rangemode: "tozero", ...percents }, yaxis: { type: "category" } }];
}

const two = { study: null, x: null, y: null };
function drawTwo(node) {
  const { x, y } = two, study = two.study, numbers = group.search.keys, known = study.maps.find(map => (map.x === x && map.y === y) || (map.x === y && map.y === x));
  const turned = known && known.x !== x, field = known && (turned ? known.z[0].map((_, i) => known.z.map(row => row[i])) : known.z);
  const complete = ended(study, COMPLETE), pruned = ended(study, PRUNED), all = [...complete, ...pruned];
  const values = all.map(i => study.value[i]), ranked = [...values].sort((a, b) => group.by.sign * (a - b)), [low, high] = [ranked[Math.floor(ranked.length / 4)], ranked.at(-1)].sort((a, b) => a - b);  // the worst quarter in one colour
  const colours = { colorscale: "Cividis", reversescale: group.by.sign < 0 }, bar = { ...scores(), thickness: 12, outlinewidth: 0, ...(node.clientWidth < 560 ? {} : { title: { text: `validation ${group.by.words}`, side: "right" } }) };
  return [[...(known ? [{ type: "contour", x: turned ? known.ys : known.xs, y: turned ? known.xs : known.ys, z: field, zmin: low, zmax: high, ncontours: 12, opacity: .8, showscale: false, hoverinfo: "skip", line: { width: .6, color: ink("--paper") }, ...colours }] : []),
    { type: "scatter", mode: "markers", showlegend: false, x: all.map(put(study, x)), y: all.map(put(study, y)), text: all.map(i => trialText(study, i)), hovertemplate: "%{text}<extra></extra>",
      marker: { color: values, cmin: low, cmax: high, ...colours, size: 9, symbol: all.map(i => study.state[i] === PRUNED ? "x" : "circle"), line: { width: 1.2, color: "#fff" }, colorbar: bar } },
    ...(study.best == null ? [] : [{ type: "scatter", mode: "markers", showlegend: false, hoverinfo: "skip", x: [put(study, x)(study.best)], y: [put(study, y)(study.best)], marker: { size: 18, symbol: "circle-open", color: ink("--ink"), line: { width: 2 } } }])],
  { xaxis: { title: safe(x), ...scale(x, numbers[x]) }, yaxis: { title: safe(y), ...scale(y, numbers[y]) } }];
}

function twoSection(root) {
  const known = group.search.studies.filter(study => Object.keys(study.at).length > 1);
  root.hidden = !known.length;
  if (root.hidden) return;
  const node = $(".chart", root);
  const choose = study => { two.study = study; [two.x, two.y] = Object.keys(study.at); };
  choose(known[0]);
  const controls = () => {
    const options = Object.keys(two.study.at).map(key => [key, key]);
    $(".controls", root).replaceChildren(
      ...(known.length > 1 ? [select("cell", known.map((study, i) => [String(i), study.name]), String(known.indexOf(two.study)), value => { choose(known[+value]); controls(); paint(node); })] : []),
      ...["x", "y"].map(axis => select(axis === "x" ? "across" : "up", options, two[axis], value => {
        const other = axis === "x" ? "y" : "x";
        if (two[other] === value) two[other] = two[axis];
        two[axis] = value; controls(); paint(node);
      })));
  };
  controls();
  chart(node, () => drawTwo(node));
  $(".note", root).textContent = "Each point is a trial, coloured by its score (the worst quarter in one colour); the best is ringed." + (known.some(study => study.maps.length) ? " The background is interpolated between them." : "");
}

const weighed = { x: 1 };
function drawFront() {
  const { objectives, points } = group.search.front, studies = new Map(group.search.studies.map(study => [study.name, study]));
  const [y, x] = [0, weighed.x].map(n => ({ ...objectives[n], of: point => point[3 + n] }));
  const axis = one => { const values = points.map(one.of), log = !one.share && isLog(values); return { title: one.words, ...(one.share ? percents : log ? { type: "log", ...logTicks(values) } : {}) }; };
  const hover = ([name, run]) => { const study = studies.get(name); return trialText(study, study.run.indexOf(run)); }, drawn = (found, more) => ({ type: "scatter", x: found.map(x.of), y: found.map(y.of), ...more });
  const best = points.filter(point => point[2]).sort((a, b) => x.of(a) - x.of(b));
  const line = objectives.length > 2 ? [] : [drawn(best, { mode: "lines", name: "Pareto front", hoverinfo: "skip", line: { shape: x.sign < 0 ? "hv" : "vh", color: ink("--quiet"), width: 1.2, dash: "dot" } })];
  return [[...line, drawn(best, { mode: "markers", name: objectives.length > 2 ? "Pareto front" : "", showlegend: objectives.length > 2, hoverinfo: "skip", marker: { size: 17, symbol: "circle-open", color: ink("--quiet"), line: { width: 1.6 } } }),
    ...group.search.studies.map(study => { const own = points.filter(point => point[0] === study.name); return drawn(own, { mode: "markers", name: safe(study.name), text: own.map(hover), hovertemplate: `%{text}<br>${safe(x.words)} %{x:.4s}<extra></extra>`,
      marker: { color: colour(study.series), symbol: symbol(study.series), size: own.length > 200 ? 6 : 9, opacity: .8 } }); })],
  { xaxis: axis(x), yaxis: axis(y) }];
}

const drawVolume = () => [group.search.studies.filter(study => group.search.front.hypervolume[study.name]).map(study => ({ type: "scatter", mode: "lines", name: safe(study.name), x: ended(study, COMPLETE).map(i => study.number[i]), y: group.search.front.hypervolume[study.name], line: { shape: "hv", color: colour(study.series), width: 2.4 }, hovertemplate: "after trial %{x}: %{y:.3f}<extra>" + safe(study.name) + "</extra>" })),
  { xaxis: { title: "trial", range: ((end) => [-.02 * end - .3, end * 1.03 + .3])(Math.max(...group.search.studies.map(study => study.number.at(-1)))) }, yaxis: { title: "hypervolume", range: [0, 1.03] } }];

function searchSection() {
  const root = $("#search"), found = group.search;
  root.hidden = !found || !found.studies.some(study => study.value.some(value => value != null));
  if (root.hidden) return;
  const pruned = found.studies.some(study => study.state.includes(PRUNED)), crosses = pruned ? " Crosses: stopped early." : "";
  const part = (name, note, draw) => { const box = $(`.${name}`, root), node = $(".chart", box); box.hidden = false; $(".note", box).textContent = note; chart(node, () => draw(node)); };
  if (found.front) {
    const { objectives } = found.front, box = $(".front", root);
    weighed.x = 1;
    if (objectives.length > 2) $(".controls", box).replaceChildren(select("across", objectives.slice(1).map((one, n) => [String(n + 1), one.words]), "1", value => { weighed.x = +value; paint($(".chart", box)); }));
    part("front", "Each point is a complete trial. Ringed: no other trial is better in one objective and as good in all.", drawFront);
    part("volume", "The fraction that the trials so far dominate of the box between a point beyond the worst trial and the best value of each objective.", drawVolume);
  }
  part("history", `Line: the best trial so far.${crosses}` + (found.studies.some(study => study.fresh) ? " Diamonds: fresh seeds of the best trial, with 95% interval; their distance below the line is chance." : ""), drawHistory);
  if (pruned) part("epochs", "Each line is a trial. Crosses: stopped early." + (found.studies.some(study => study.run.length > MOST_TRIALS) ? " If there are many trials, only some are drawn, evenly over the search." : ""), drawEpochs);
  part("slices", `Each point is a trial; the best is ringed.${crosses}` + (found.studies.some(study => study.least != null) ? " Dotted: one standard error from the best; shaded: the range of trials that reach it." : ""), drawSlices);
  const important = found.studies.some(study => Object.keys(study.importances).length);
  if (important) {
    $(".importances .chart", root).style.height = `${90 + 26 * Object.keys(found.keys).length * found.studies.length}px`;
    part("importances", "The importance of a key for being among the best trials (PED-ANOVA, Watanabe et al. 2023). Unreliable with few trials.", drawImportances);
  }
  twoSection($(".two", root));
}

SECTIONS.unshift(searchSection);
