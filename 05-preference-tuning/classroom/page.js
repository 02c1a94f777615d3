"use strict";
// The page of the lab. First the closed forms, which are tested against the functions of the
// lessons; then one part for each section of the page. Texts of files and answers reach the page
// as text nodes only.

// --- Closed forms ---

const sum = (values) => values.reduce((total, value) => total + value, 0);
const dot = (weights, values) => sum(weights.map((weight, i) => weight * values[i]));
const sigmoid = (x) => 1 / (1 + Math.exp(-x));

/** pi_ref exp(r / beta) / Z: the policy that maximises E[r] - beta KL(pi || pi_ref). */
function klRegularizedOptimum(refProbs, rewards, beta) {
  const best = Math.max(...rewards.filter((_, i) => refProbs[i] > 0));
  const weights = refProbs.map((p, i) => (p > 0 ? p * Math.exp((rewards[i] - best) / beta) : 0));
  const total = sum(weights);
  return weights.map((weight) => weight / total);
}

/** KL(p || q) in nats. */
function klDivergence(p, q) {
  return sum(p.map((value, i) => (value > 0 ? value * Math.log(value / q[i]) : 0)));
}

/** The chance that the i-th smallest of a pool is the best of n: C(i-1, n-1) / C(size, n). */
function bestOfNWeights(size, n) {
  const logFactorial = [0];
  for (let k = 1; k <= size; k++) logFactorial.push(logFactorial[k - 1] + Math.log(k));
  const logChoose = (a, b) => logFactorial[a] - logFactorial[b] - logFactorial[a - b];
  const weights = new Array(size).fill(0);
  for (let i = n - 1; i < size; i++) {
    weights[i] = Math.exp(logChoose(i, n - 1) - logChoose(size, n));
  }
  return weights;
}

/** Unbiased estimate of the expected value of the best of n by reward; ties count equally. */
function expectedBestOfN(rewards, n, values = rewards) {
  const groups = new Map(); // reward -> its values
  rewards.forEach((reward, i) => {
    groups.set(reward, [...(groups.get(reward) ?? []), values[i]]);
  });
  const inOrder = [...groups.keys()].sort((a, b) => a - b);
  const means = inOrder.flatMap((reward) => {
    const tied = groups.get(reward);
    return tied.map(() => sum(tied) / tied.length);
  });
  return dot(bestOfNWeights(rewards.length, n), means);
}

/** Upper bound of KL(best-of-n || reference) in nats. */
const bestOfNKlBound = (n) => Math.log(n) - (n - 1) / n;

/** min(ratio A, clip(ratio, 1 - epsilon, 1 + epsilon) A). */
function clippedSurrogate(ratio, advantage, epsilon) {
  const clipped = Math.min(Math.max(ratio, 1 - epsilon), 1 + epsilon);
  return Math.min(ratio * advantage, clipped * advantage);
}

/** Whether the gradient of the clipped surrogate is zero: moved far enough in the right way. */
function isClipped(ratio, advantage, epsilon) {
  if (advantage > 0) return ratio > 1 + epsilon;
  return advantage === 0 || ratio < 1 - epsilon;
}

/** A_t = sum_l (gamma lambda)^l delta_(t+l), delta_t = r_t + gamma V_(t+1) - V_t; V_T = 0. */
function generalizedAdvantageEstimate(rewards, values, gamma, lambda) {
  const advantages = new Array(rewards.length);
  let later = 0;
  for (let t = rewards.length - 1; t >= 0; t--) {
    const delta = rewards[t] + gamma * (values[t + 1] ?? 0) - values[t];
    later = delta + gamma * lambda * later;
    advantages[t] = later;
  }
  return advantages;
}

/** 95 % Wilson interval of k of n. */
function wilson(k, n) {
  const z = 1.96;
  const share = k / n;
  const centre = (share + z ** 2 / (2 * n)) / (1 + z ** 2 / n);
  const half =
    (z * Math.sqrt((share * (1 - share)) / n + z ** 2 / (4 * n ** 2))) / (1 + z ** 2 / n);
  return [Math.max(0, centre - half), Math.min(1, centre + half)];
}

/** Mean squared error of probabilities of what happened (1) or did not (0). */
function brierScore(probabilities, outcomes) {
  return sum(probabilities.map((p, i) => (p - outcomes[i]) ** 2)) / probabilities.length;
}

// --- Files of pairs ---

/** Rows of a CSV text as objects: quotes may hold commas, line breaks and doubled quotes. */
function parseCsv(text) {
  const rows = [];
  let row = [];
  let cell = "";
  let quoted = false;
  const endCell = () => {
    row.push(cell);
    cell = "";
  };
  const endRow = () => {
    endCell();
    if (row.length > 1 || row[0] !== "") rows.push(row);
    row = [];
  };
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (quoted && c === '"' && text[i + 1] === '"') cell += text[i++];
    else if (c === '"' && (quoted || cell === "")) quoted = !quoted;
    else if (!quoted && c === ",") endCell();
    else if (!quoted && c === "\n") endRow();
    else if (quoted || c !== "\r") cell += c;
  }
  if (quoted) throw new Error("a quote is not closed");
  endRow();
  const [header = [], ...cells] = rows;
  return cells.map((values, k) => {
    if (values.length !== header.length) {
      throw new Error(`row ${k + 1}: ${values.length} cells for ${header.length} columns`);
    }
    return Object.fromEntries(header.map((name, i) => [name.trim(), values[i]]));
  });
}

/** Rows of a JSON file (a list, or {"data": a list}) or of JSON lines. */
function parseJson(text, isLines) {
  if (!isLines) {
    const content = JSON.parse(text);
    const rows = Array.isArray(content) ? content : content?.data;
    if (!Array.isArray(rows)) throw new Error("no list of rows");
    return rows;
  }
  const rows = [];
  text.split("\n").forEach((line, k) => {
    if (line.trim() === "") return;
    try {
      rows.push(JSON.parse(line));
    } catch {
      throw new Error(`line ${k + 1} is not JSON`);
    }
  });
  return rows;
}

/** A text, or what a list of messages says, as one text. */
function plainText(value) {
  if (typeof value === "string") return value.trim();
  const isMessages = Array.isArray(value) && value.every((m) => typeof m?.content === "string");
  if (!isMessages) return null;
  return value.map((message) => message.content.trim()).join("\n");
}

const SIDES = [
  ["chosen", "rejected"],
  ["a", "b"],
  ["response_a", "response_b"],
];

/** Pairs {prompt, texts, row, names, labelled} of a file; an Error says which row lacks what. */
function readPairs(name, text) {
  const clean = text.replace(/^\uFEFF/, "");
  const ending = name.toLowerCase().split(".").pop();
  if (!["jsonl", "json", "csv"].includes(ending)) {
    throw new Error("the name of the file must end in .jsonl, .json or .csv");
  }
  const rows = ending === "csv" ? parseCsv(clean) : parseJson(clean, ending === "jsonl");
  if (rows.length === 0) throw new Error("there are no rows");
  return rows.map((row, k) => readPair(row, k + 1));
}

function readPair(row, number) {
  const names = SIDES.find((pair) => pair.every((name) => row?.[name] !== undefined));
  if (!names) throw new Error(`row ${number}: no chosen and rejected, and no a and b`);
  let texts = names.map((name) => plainText(row[name]));
  let prompt = plainText(row.prompt ?? "");
  if (prompt === null || texts.includes(null)) {
    throw new Error(`row ${number}: a text, or a list of messages, was expected`);
  }
  if (names.every((name) => Array.isArray(row[name]))) {
    const last = names.map((name) => row[name].at(-1)?.content?.trim() ?? "");
    if (prompt === "") prompt = plainText(row[names[0]].slice(0, -1));
    texts = last;
  }
  if (prompt === "") throw new Error(`row ${number}: no prompt`);
  return { prompt, texts, row, names, labelled: names[0] === "chosen" };
}

/** Trials of a file: sides at random, and four in every twelve pairs again, exchanged. */
function trialsOf(pairs, random = Math.random) {
  const trials = [];
  for (let start = 0; start < pairs.length; start += 12) {
    const block = pairs.slice(start, start + 12).map((_, k) => {
      return { pair: start + k, exchanged: random() < 0.5 };
    });
    const again = block.length < 8 ? [] : block.slice(0, 4);
    trials.push(...block, ...again.map((trial) => ({ ...trial, exchanged: !trial.exchanged })));
  }
  return trials;
}

/** The row that a label makes: prompt as it was, the preferred answer as chosen. */
function labelledRow(pair, picked) {
  if (!pair.row)
    return { prompt: pair.prompt, chosen: pair.texts[picked], rejected: pair.texts[1 - picked] };
  const rest = Object.fromEntries(
    Object.entries(pair.row).filter(([key]) => !pair.names.includes(key)),
  );
  const [chosen, rejected] = [pair.names[picked], pair.names[1 - picked]];
  return { ...rest, chosen: pair.row[chosen], rejected: pair.row[rejected] };
}

// --- What labels say ---

const wordsIn = (text) => text.split(/\s+/).filter(Boolean).length;

/**
 * What labels {pair, side, picked} say: counts {k, n}, and how often each group's taste agrees.
 * `pair` is a place in `pairs`, `side` 0 for left and 1 for right, `picked` the preferred text's.
 */
function describeLabels(pairs, labels) {
  const firstOf = new Map();
  for (const label of labels) if (!firstOf.has(label.pair)) firstOf.set(label.pair, label);
  const first = [...firstOf.values()];
  const again = labels.filter((label) => firstOf.get(label.pair) !== label);
  const count = (some, test) => ({ k: some.filter(test).length, n: some.length });
  const longer = ({ pair }) => {
    const [a, b] = pairs[pair].texts.map(wordsIn);
    return a === b ? null : Number(b > a);
  };
  const uneven = first.filter((label) => longer(label) !== null);
  const found = {
    left: count(labels, (label) => label.side === 0),
    itself: count(again, (label) => label.picked === firstOf.get(label.pair).picked),
    longer: count(uneven, (label) => label.picked === longer(label)),
  };
  if (pairs[0].labelled) found.file = count(first, (label) => label.picked === 0);
  if (pairs[0].utilities) {
    const decided = first.filter(({ pair }) => {
      const [better, other] = pairs[pair].utilities.human; // the first text is never the worse one
      return better > other;
    });
    found.gold = count(decided, (label) => label.picked === 0);
    found.goldLonger = count(
      decided.filter((label) => longer(label) !== null),
      (l) => longer(l) === 0,
    );
    found.groups = Object.keys(pairs[0].utilities).map((group) => {
      return { group, count: agreement(pairs, first, group) };
    });
  }
  return found;
}

/** How often the answer that a group of annotators likes better is the chosen one; ties aside. */
function agreement(pairs, labels, group) {
  const likes = labels.map(({ pair, picked }) => {
    const utilities = pairs[pair].utilities[group];
    return utilities[picked] - utilities[1 - picked];
  });
  return { k: likes.filter((u) => u > 0).length, n: likes.filter((u) => u !== 0).length };
}

// --- Building the page ---

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes; children are elements or texts. */
function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

const number = (value, digits = 2) => value.toFixed(digits).replace("-", "−");
const signed = (value, digits = 2) => (value >= 0 ? "+" : "") + number(value, digits);
const percent = (share) => `${Math.round(100 * share)} %`;

/** A quantity in words: 0.88 [0.85, 0.90]. */
function interval(measured, digits = 2) {
  if (!measured.ci95) return number(measured.mean, digits);
  const [low, high] = measured.ci95.map((end) => number(end, digits));
  return `${number(measured.mean, digits)} [${low}, ${high}]`;
}

/** 1 label, 2 labels. */
const counted = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;

/** k of n with its Wilson interval in words. */
function share({ k, n }) {
  if (n === 0) return "–";
  const [low, high] = wilson(k, n);
  return `${k} of ${n}: ${percent(k / n)} [${Math.round(100 * low)}, ${Math.round(100 * high)}]`;
}

function fillSelect(select, options) {
  select.replaceChildren(...options.map(([value, text]) => el("option", { value }, text)));
}

/**
 * A table; cells are texts, or {content, kind} as `right` and `longText` make them. The first cell
 * of a row heads it. On a phone rows become blocks (style.css), so the roles are said again.
 */
function table(caption, head, rows) {
  const headCells = head.map((text, i) => {
    const kind = rows[0]?.cells[i]?.kind ?? null;
    return el("th", { scope: "col", role: "columnheader", class: kind }, text);
  });
  const body = rows.map((row) => {
    const cells = row.cells.map((cell, i) => {
      const about = { class: cell.kind ?? null, "data-head": head[i] };
      const content = cell.content ?? cell;
      if (i > 0) return el("td", { ...about, role: "cell" }, content);
      return el("th", { ...about, role: "rowheader", scope: "row" }, content);
    });
    return el("tr", { role: "row", class: row.now ? "now" : null }, cells);
  });
  return el(
    "table",
    { role: "table", class: "stacks" },
    el("caption", {}, caption),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, headCells)),
    el("tbody", { role: "rowgroup" }, body),
  );
}

const right = (content) => ({ content, kind: "number" });
const together = (content) => ({ content, kind: "together" }); // on one line
const longText = (...content) => ({ content: content.flat(), kind: "text" });

/** The marks of an answer, coloured by whether it is right. */
function markSpan(marks) {
  const kind = marks.startsWith("right") ? "right" : "wrong";
  return el("span", { class: `marks ${kind}` }, marks);
}

// --- Charts ---

const HEIGHT = 260;
const MARGIN = { left: 46, right: 12, top: 22, bottom: 40 };
const MARKERS = {
  o: "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0",
  s: "M-4.5,-4.5h9v9h-9z",
  v: "M-5.5,-4.5h11l-5.5,10z",
  "^": "M-5.5,4.5h11l-5.5,-10z",
  D: "M0,-6l6,6l-6,6l-6,-6z",
  P: "M-2,-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
  x: "M-5,-5l10,10M-5,5l10,-10",
};

/** Axes that map values to pixels: {node, x, y}. Ticks are values; scale bends the x axis. */
function makeAxes(place, { xTicks, yTicks, xRange, yRange, xLabel, yLabel, scale, height, says }) {
  const bend = scale ?? ((value) => value);
  const width = Math.max(300, Math.min(900, place.clientWidth || 700));
  const tall = height ?? HEIGHT;
  const [x0, x1] = xRange.map(bend);
  const inner = {
    width: width - MARGIN.left - MARGIN.right,
    height: tall - MARGIN.top - MARGIN.bottom,
  };
  const x = (value) => MARGIN.left + (inner.width * (bend(value) - x0)) / (x1 - x0);
  const y = (value) => MARGIN.top + (inner.height * (yRange[1] - value)) / (yRange[1] - yRange[0]);
  const bottom = tall - MARGIN.bottom;
  const node = svg("svg", {
    viewBox: `0 0 ${width} ${tall}`,
    width,
    height: tall,
    role: "img",
    "aria-label": says,
  });
  for (const tick of yTicks) {
    node.append(
      svg("line", {
        class: "grid",
        x1: MARGIN.left,
        x2: width - MARGIN.right,
        y1: y(tick),
        y2: y(tick),
      }),
      svg("text", { x: MARGIN.left - 6, y: y(tick) + 4, "text-anchor": "end" }, plain(tick)),
    );
  }
  for (const tick of xTicks) {
    node.append(
      svg("line", { class: "axis", x1: x(tick), x2: x(tick), y1: bottom, y2: bottom + 4 }),
      svg("text", { x: x(tick), y: bottom + 17, "text-anchor": "middle" }, plain(tick)),
    );
  }
  node.append(
    svg("line", {
      class: "axis",
      x1: MARGIN.left,
      x2: width - MARGIN.right,
      y1: bottom,
      y2: bottom,
    }),
    svg("text", { x: MARGIN.left + inner.width / 2, y: tall - 6, "text-anchor": "middle" }, xLabel),
    svg("text", { x: 2, y: 12 }, yLabel),
  );
  place.replaceChildren(node);
  return { node, x, y };
}

const plain = (tick) => String(Math.round(tick * 100) / 100).replace("-", "−");

/** A line through points (x, y) in data units. */
function drawLine({ node, x, y }, points, color, extra = {}) {
  const path = points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)},${y(b).toFixed(1)}`);
  const look = { fill: "none", stroke: `var(--${color})`, "stroke-width": 2, ...extra };
  node.append(svg("path", { d: path.join(""), ...look }));
}

function drawDot({ node, x, y }, a, b, color) {
  node.append(svg("circle", { cx: x(a), cy: y(b), r: 5, fill: `var(--${color})` }));
}

/** Names of the lines of a chart, below it. */
function drawKey(place, entries) {
  const items = entries.map(([name, color]) => {
    const line = svg("line", {
      x1: 0,
      x2: 22,
      y1: 6,
      y2: 6,
      stroke: `var(--${color})`,
      "stroke-width": 3,
    });
    return el(
      "li",
      {},
      svg("svg", { width: 24, height: 12, "aria-hidden": "true" }, line),
      ` ${name} `,
    );
  });
  place.append(el("ul", { class: "legend" }, items));
}

/** About five round ticks between two values. */
function niceTicks(low, high) {
  const rough = (high - low) / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const ticks = [];
  for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + 1e-9; tick += step)
    ticks.push(tick);
  return ticks;
}

/** The range of values with a little room. */
function rangeOf(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = 0.06 * (high - low || 1);
  return [low - room, high + room];
}

// --- Label ---

function startLabel(task) {
  let pairs = task.pairs;
  let trials = task.trials;
  let choices = []; // the side of each trial: 0 left, 1 right, null cannot tell
  let unsaved = false;

  const isOwn = () => pairs !== task.pairs;
  const sidesOf = (trial) => {
    const { texts } = pairs[trial.pair];
    return trial.exchanged ? [texts[1], texts[0]] : texts;
  };
  const judged = () => {
    const labels = choices.map((side, i) => {
      const trial = trials[i];
      return { pair: trial.pair, side, picked: trial.exchanged ? 1 - side : side };
    });
    return labels.filter((label) => label.side !== null);
  };

  function show(focus = true) {
    const done = choices.length;
    if (done === trials.length) return showResults();
    $("trial").hidden = false;
    $("judged").hidden = true;
    const pair = pairs[trials[done].pair];
    const sides = sidesOf(trials[done]);
    $("trial-count").textContent = `Pair ${done + 1} of ${trials.length}`;
    $("trial-progress").max = trials.length;
    $("trial-progress").value = done;
    $("trial-prompt").textContent = pair.prompt;
    $("trial-left").textContent = sides[0];
    $("trial-right").textContent = sides[1];
    $("trial-back").disabled = done === 0;
    $("trial-stop").disabled = done === 0;
    $("trial-fact").hidden = !pair.fact;
    $("trial-fact").open = false;
    $("trial-fact").lastElementChild.textContent = pair.fact
      ? `The right answer is: ${pair.fact}.`
      : "";
    if (focus) $("trial-prompt").focus(); // not a side: what has the focus is easily chosen
  }

  function choose(side) {
    choices.push(side);
    unsaved = isOwn();
    show();
  }

  function back() {
    choices.pop();
    show();
  }

  function showResults() {
    $("trial").hidden = true;
    $("judged").hidden = false;
    const labels = judged();
    const skipped = choices.length - labels.length;
    $("judged-download").disabled = labels.length === 0;
    $("judged-on").hidden = choices.length === trials.length;
    $("judged-table").replaceChildren(
      labels.length ? labelTable(pairs, labels) : "Nothing was chosen.",
    );
    const left = skipped ? ` ${skipped} left out, as you could not tell.` : "";
    const given = counted(labels.length, "label");
    $("judged-note").textContent = `${given}.${left} ${nearestGroup(pairs, labels)}`;
    $("judged").focus();
  }

  function load(newPairs, newTrials) {
    pairs = newPairs;
    trials = newTrials;
    choices = [];
    unsaved = false;
    $("own-world").hidden = !isOwn();
    show();
  }

  function download() {
    const rows = judged().map(({ pair, picked }) => labelledRow(pairs[pair], picked));
    const lines = rows.map((row) => JSON.stringify(row));
    const blob = new Blob([lines.join("\n") + "\n"], { type: "application/jsonl" });
    const link = el("a", { href: URL.createObjectURL(blob), download: "pairs.jsonl" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    unsaved = false;
  }

  async function readFile(file) {
    $("own-message").textContent = "";
    try {
      const own = readPairs(file.name, await file.text());
      load(own, trialsOf(own));
      const count = `${counted(own.length, "pair")} of ${file.name}`;
      $("own-message").textContent = `${count}; nothing of them leaves this page.`;
    } catch (error) {
      $("own-message").textContent = `${file.name}: ${error.message}`;
    }
  }

  $("trial-left").addEventListener("click", () => choose(0));
  $("trial-right").addEventListener("click", () => choose(1));
  $("trial-skip").addEventListener("click", () => choose(null));
  $("trial-back").addEventListener("click", back);
  $("trial-stop").addEventListener("click", showResults);
  $("judged-on").addEventListener("click", () => show());
  $("judged-again").addEventListener("click", () => load(pairs, trials));
  $("judged-download").addEventListener("click", download);
  $("own-world").addEventListener("click", () => load(task.pairs, task.trials));
  $("own-file").addEventListener("change", (event) => {
    if (event.target.files.length) readFile(event.target.files[0]);
  });
  $("trial").addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const act = { ArrowLeft: () => choose(0), ArrowRight: () => choose(1), s: () => choose(null) };
    if (choices.length) act.Backspace = back;
    if (!act[event.key]) return;
    event.preventDefault();
    act[event.key]();
  });
  for (const kind of ["dragover", "drop", "dragleave"]) {
    $("drop").addEventListener(kind, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) readFile(event.dataTransfer.files[0]);
    });
  }
  window.addEventListener("beforeunload", (event) => {
    if (unsaved) event.preventDefault();
  });
  show(false);
}

const GROUP_NAMES = {
  human: "unbiased annotators",
  length: "annotators who prefer long answers",
  style: "annotators who prefer an expert's tone",
  agreement: "annotators who prefer agreement",
};

function labelTable(pairs, labels) {
  const found = describeLabels(pairs, labels);
  const rows = [];
  const add = (name, you, meaning) => rows.push({ cells: [name, together(you), meaning] });
  const gold = "Agreement with gold (unbiased annotators)";
  if (found.gold) add(gold, share(found.gold), "pairs in which gold differs");
  if (found.file) add("Agreement with the file", share(found.file), "each pair once");
  add("Agreement with yourself", share(found.itself), "pairs that came again, sides exchanged");
  const balanced = found.gold
    ? "the better answer was there in half of the sixteen"
    : "50 % is no bias";
  add("Position: left (or upper) chosen", share(found.left), balanced);
  const { k, n } = found.goldLonger ?? {};
  const byGold = found.goldLonger ? `gold: ${k} of ${n}` : "pairs of unequal length";
  add("Length: longer chosen", share(found.longer), byGold);
  for (const { group, count } of (found.groups ?? []).slice(1)) {
    add(`Agreement with ${GROUP_NAMES[group]}`, share(count), "you chose what they like better");
  }
  return table(
    "Shares with 95 % intervals: wide, since these are few labels",
    ["", "you", ""],
    rows,
  );
}

/** Whose taste your labels agree with most often, in a sentence. */
function nearestGroup(pairs, labels) {
  const groups = labels.length ? (describeLabels(pairs, labels).groups ?? []) : [];
  const shareOf = ({ count: { k, n } }) => (n ? k / n : 0);
  const most = Math.max(...groups.map(shareOf));
  const nearest = groups.filter((group) => shareOf(group) === most);
  if (groups.length === 0) return "";
  const names = nearest.map(({ group }) => GROUP_NAMES[group]).join(" and ");
  return `They agree most often with ${names}: ${share(nearest[0].count)} (95 % interval).`;
}

// --- Move ---

const JUDGES = {
  reward: "reward model of unbiased annotators",
  length_reward: "reward model of annotators who prefer long answers",
};

/** A slider with its value beside it; `say` puts the value in words, `then` redraws. */
function bindSlider(id, say, then) {
  const update = () => {
    const text = say(Number($(id).value));
    $(`${id}-value`).textContent = text;
    $(id).setAttribute("aria-valuetext", text);
    then();
  };
  $(id).addEventListener("input", update);
  const text = say(Number($(id).value));
  $(`${id}-value`).textContent = text;
  $(id).setAttribute("aria-valuetext", text);
}

function startMove(pools) {
  startEpsilon();
  startLambda();
  if (pools.length === 0) {
    for (const id of ["move-pool", "move-beta", "move-n"]) $(id).hidden = true;
    $("move-missing").hidden = false;
    $("move-missing").textContent =
      "No study has kept pools of candidates yet, so beta and n cannot be moved: " +
      "run studies/best_of_n_and_the_limit.py, then page.py.";
    return;
  }
  fillSelect(
    $("pool"),
    pools.map((pool, k) => [k, pool.prompt]),
  );
  fillSelect($("judge"), Object.entries(JUDGES));
  // Open where something goes wrong: the flawed reward, and the pool that loses most by it.
  $("judge").value = "length_reward";
  const lost = pools.map((pool) => lostTo(pool, "length_reward"));
  $("pool").value = String(lost.indexOf(Math.max(...lost)));
  const current = () => ({ pool: pools[Number($("pool").value)], judge: $("judge").value });
  const drawBeta = () => moveBeta(current());
  const drawN = () => moveN(current());
  bindSlider("beta", (value) => number(10 ** value), drawBeta);
  bindSlider("n", (value) => String(value), drawN);
  const both = () => {
    const size = current().pool.drawn.length;
    $("n").max = Math.min(64, size);
    $("n-value").textContent = $("n").value;
    drawBeta();
    drawN();
  };
  $("pool").addEventListener("change", both);
  $("judge").addEventListener("change", both);
  onResize(both);
  both();
}

/** Gold utility that the best of n loses from its peak to the largest n, by a judge's reward. */
function lostTo(pool, judge) {
  const { rewards, gold } = drawnValues(pool, judge);
  const most = Math.min(64, gold.length);
  const curve = Array.from({ length: most }, (_, k) => expectedBestOfN(rewards, k + 1, gold));
  return Math.max(...curve) - curve.at(-1);
}

/** Reference probabilities of a pool's texts, and what they hold of all probability. */
function referenceOf(pool) {
  const probs = pool.logp.map(Math.exp);
  const mass = sum(probs);
  return { probs: probs.map((p) => p / mass), mass };
}

/** KL (nats), reward and gold of the optimum at a beta. */
function readOptimum(pool, judge, beta) {
  const { probs } = referenceOf(pool);
  const optimum = klRegularizedOptimum(probs, pool[judge], beta);
  const kl = klDivergence(optimum, probs);
  return { probs: optimum, kl, reward: dot(optimum, pool[judge]), gold: dot(optimum, pool.gold) };
}

function moveBeta({ pool, judge }) {
  const beta = 10 ** Number($("beta").value);
  const reference = referenceOf(pool);
  const start = {
    reward: dot(reference.probs, pool[judge]),
    gold: dot(reference.probs, pool.gold),
  };
  const now = readOptimum(pool, judge, beta);
  const [rewardGained, goldGained] = [now.reward - start.reward, now.gold - start.gold].map((x) =>
    signed(x),
  );
  $("beta-says").textContent =
    `The optimum lies ${number(now.kl)} nats from the SFT model: ` +
    `reward ${number(now.reward)} (${rewardGained}), gold utility ${number(now.gold)} ` +
    `(${goldGained}). The ${pool.texts.length} answers of the pool hold ` +
    `${percent(reference.mass)} of the SFT model's probability; they count as all of it.`;
  drawBetaChart(pool, judge, now, start);
  const order = pool.texts.map((_, i) => i);
  order.sort(
    (a, b) =>
      Math.max(now.probs[b], reference.probs[b]) - Math.max(now.probs[a], reference.probs[a]),
  );
  const rows = order.slice(0, 8).map((i) => {
    const bars = [
      [reference.probs[i], "sft"],
      [now.probs[i], "dpo"],
    ].map(([p, color]) => {
      return el("span", {
        class: "bar",
        style: `width:${(100 * p).toFixed(1)}%;background:var(--${color})`,
      });
    });
    const both = `${percent(reference.probs[i])} → ${percent(now.probs[i])}`;
    const text = longText(pool.texts[i], " ", markSpan(pool.marks[i]), bars);
    return {
      cells: [text, right(both), right(number(pool[judge][i])), right(number(pool.gold[i]))],
    };
  });
  const caption = "The likeliest answers; grey the SFT model, blue the optimum";
  $("beta-table").replaceChildren(
    table(caption, ["answer", "probability", "reward", "gold"], rows),
  );
}

function drawBetaChart(pool, judge, now, start) {
  const steps = Array.from({ length: 47 }, (_, k) =>
    readOptimum(pool, judge, 10 ** (1 - k * 0.05)),
  );
  const line = (name) => steps.map((step) => [step.kl, step[name] - start[name]]);
  const values = ["reward", "gold"].flatMap((name) => line(name).map((point) => point[1]));
  const yRange = rangeOf([0, ...values]);
  const most = Math.max(...steps.map((step) => step.kl), 0.1);
  const axes = makeAxes($("beta-chart"), {
    xTicks: niceTicks(0, most),
    yTicks: niceTicks(...yRange),
    xRange: [0, most],
    yRange,
    xLabel: "KL from the SFT model, nats",
    yLabel: "gained, log-odds",
    says: "Reward and gold utility gained by the optimum, against its KL",
  });
  drawGains($("beta-chart"), axes, line, (name) => [now.kl, now[name] - start[name]]);
}

/** Reward and gold as lines `line(name)` of points, each with a dot at the point `now(name)`. */
function drawGains(place, axes, line, now) {
  const colors = { reward: "proxy", gold: "gold" };
  for (const [name, color] of Object.entries(colors)) {
    drawLine(axes, line(name), color);
    drawDot(axes, ...now(name), color);
  }
  drawKey(place, Object.entries({ reward: colors.reward, "gold utility": colors.gold }));
}

/** Of the first n candidates: the reward's favourite, and the best by gold; indices of texts. */
function favourites(pool, judge, n) {
  const seen = pool.drawn.slice(0, n);
  const best = (scores) => seen.reduce((top, i) => (scores[i] > scores[top] ? i : top), seen[0]);
  return { favourite: best(pool[judge]), best: best(pool.gold) };
}

/** The candidates in the order drawn, as lists of reward and gold. */
function drawnValues(pool, judge) {
  return {
    rewards: pool.drawn.map((i) => pool[judge][i]),
    gold: pool.drawn.map((i) => pool.gold[i]),
  };
}

function moveN({ pool, judge }) {
  const n = Number($("n").value);
  const most = Number($("n").max);
  const { favourite, best } = favourites(pool, judge, n);
  const { rewards, gold } = drawnValues(pool, judge);
  const sizes = Array.from({ length: most }, (_, k) => k + 1);
  const curves = {
    reward: sizes.map((k) => expectedBestOfN(rewards, k)),
    gold: sizes.map((k) => expectedBestOfN(rewards, k, gold)),
  };
  const isBest = pool.gold[favourite] >= pool.gold[best];
  const first = sizes.find((k) => {
    const seen = favourites(pool, judge, k);
    return pool.gold[seen.favourite] < pool.gold[seen.best];
  });
  const peak = curves.gold.indexOf(Math.max(...curves.gold));
  const better = `By gold "${pool.texts[best]}" is better (${number(pool.gold[best])}).`;
  const since = `The favourite is not the best for the first time at n = ${first}.`;
  $("n-says").textContent = [
    `Of the first ${n}, the reward chooses "${pool.texts[favourite]}"`,
    `(gold ${number(pool.gold[favourite])}).`,
    isBest ? "None of them is better by gold." : better,
    first ? since : "Up to the end the favourite is always among the best.",
    `Over all orders, best of ${n} has reward ${number(curves.reward[n - 1])} and gold`,
    `${number(curves.gold[n - 1])}, at a KL of at most ${number(bestOfNKlBound(n))} nats;`,
    `gold is highest at n = ${peak + 1} (${number(curves.gold[peak])}).`,
  ].join(" ");
  drawNChart(sizes, curves, n);
  $("n-table").replaceChildren(candidateTable(pool, judge, n, favourite));
}

function drawNChart(sizes, curves, n) {
  const line = (name) => sizes.map((k) => [k, curves[name][k - 1] - curves[name][0]]);
  const yRange = rangeOf([...line("reward"), ...line("gold")].map((point) => point[1]));
  const most = sizes.at(-1);
  const axes = makeAxes($("n-chart"), {
    xTicks: [1, 2, 4, 8, 16, 32, 64].filter((k) => k <= most),
    yTicks: niceTicks(...yRange),
    xRange: [1, Math.max(2, most)],
    yRange,
    scale: Math.log2,
    xLabel: "n, doubling",
    yLabel: "gained over one sample, log-odds",
    says: "Expected reward and gold utility of the best of n, against n",
  });
  drawGains($("n-chart"), axes, line, (name) => line(name)[n - 1]);
}

function candidateTable(pool, judge, n, favourite) {
  const seen = pool.drawn.slice(0, n);
  const distinct = [...new Set(seen)].sort((a, b) => pool[judge][b] - pool[judge][a]);
  const rows = distinct.slice(0, 8).map((i) => {
    const times = seen.filter((j) => j === i).length;
    const chosen = i === favourite ? "→ " : "";
    const text = longText(chosen, pool.texts[i], " ", markSpan(pool.marks[i]));
    const cells = [
      text,
      right(String(times)),
      right(number(pool[judge][i])),
      right(number(pool.gold[i])),
    ];
    return { cells, now: i === favourite };
  });
  const rest = distinct.length > 8 ? `; the 8 of most reward of ${distinct.length} texts` : "";
  const caption = `The first ${n} candidates, by reward${rest}`;
  return table(caption, ["candidate", "drawn", "reward", "gold"], rows);
}

function startEpsilon() {
  const draw = () => {
    const [epsilon, ratio, advantage] = ["epsilon", "ratio", "advantage"].map((id) =>
      Number($(id).value),
    );
    const value = clippedSurrogate(ratio, advantage, epsilon);
    const says = isClipped(ratio, advantage, epsilon)
      ? "the gradient is zero: nothing pushes further."
      : `the gradient with respect to the ratio is ${number(advantage)}.`;
    $("epsilon-says").textContent = `The objective is ${number(value, 3)}, and ${says}`;
    const ratios = [0, 1 - epsilon, 1, 1 + epsilon, 2];
    const line = ratios.map((r) => [r, clippedSurrogate(r, advantage, epsilon)]);
    const yRange = rangeOf([-1, 1, ...line.map((point) => point[1]), 2 * advantage]);
    const axes = makeAxes($("epsilon-chart"), {
      xTicks: [0, 0.5, 1, 1.5, 2],
      yTicks: niceTicks(...yRange),
      xRange: [0, 2],
      yRange,
      xLabel: "ratio of new to old probability",
      yLabel: "objective",
      says: "The clipped surrogate against the ratio",
    });
    drawLine(
      axes,
      [
        [0, 0],
        [2, 2 * advantage],
      ],
      "sft",
      { "stroke-dasharray": "4 4" },
    );
    drawLine(axes, line, "dpo");
    drawDot(axes, ratio, value, "proxy");
    drawKey($("epsilon-chart"), [
      ["clipped", "dpo"],
      ["not clipped", "sft"],
    ]);
  };
  bindSlider("epsilon", (value) => number(value), draw);
  bindSlider("ratio", (value) => number(value), draw);
  bindSlider("advantage", (value) => signed(value), draw);
  onResize(draw);
  draw();
}

function startLambda() {
  const start = { rewards: [0, 0, 1], values: [0.5, 0.6, 0.7] };
  const field = (name, t) => {
    const label = `${name === "rewards" ? "reward" : "value"} of token ${t + 1}`;
    const value = start[name][t];
    return el("input", {
      type: "number",
      step: 0.1,
      value,
      id: `${name}-${t}`,
      "aria-label": label,
      input: () => draw(),
    });
  };
  const read = (name) => [0, 1, 2].map((t) => Number($(`${name}-${t}`).value) || 0);
  const row = (title, cells) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, title),
      cells.map((cell) => el("td", {}, cell)),
    );
  const tokens = [0, 1, 2];
  $("gae").append(
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        el("td", {}),
        tokens.map((t) => el("th", { scope: "col" }, `token ${t + 1}`)),
      ),
    ),
    el(
      "tbody",
      {},
      row(
        "reward",
        tokens.map((t) => field("rewards", t)),
      ),
      row(
        "value",
        tokens.map((t) => field("values", t)),
      ),
      row(
        "advantage",
        tokens.map((t) => el("output", { id: `advantage-${t}`, "aria-live": "off" })),
      ),
    ),
  );
  const draw = () => {
    const [lambda, gamma] = ["lambda", "gamma"].map((id) => Number($(id).value));
    const [rewards, values] = [read("rewards"), read("values")];
    const advantages = generalizedAdvantageEstimate(rewards, values, gamma, lambda);
    advantages.forEach((advantage, t) => ($(`advantage-${t}`).textContent = number(advantage, 4)));
    $("lambda-says").textContent = `Advantages ${advantages.map((a) => number(a, 3)).join(", ")}.`;
    const steps = Array.from({ length: 21 }, (_, k) => k / 20);
    const rows = steps.map((l) => generalizedAdvantageEstimate(rewards, values, gamma, l));
    const yRange = rangeOf([0, ...rows.flat()]);
    const axes = makeAxes($("lambda-chart"), {
      xTicks: [0, 0.25, 0.5, 0.75, 1],
      yTicks: niceTicks(...yRange),
      xRange: [0, 1],
      yRange,
      xLabel: "lambda",
      yLabel: "advantage",
      says: "Advantages of the three tokens against lambda",
    });
    const colors = ["dpo", "best", "both"];
    tokens.forEach((t) => {
      drawLine(
        axes,
        steps.map((l, k) => [l, rows[k][t]]),
        colors[t],
      );
      drawDot(axes, lambda, advantages[t], colors[t]);
    });
    drawKey(
      $("lambda-chart"),
      tokens.map((t) => [`token ${t + 1}`, colors[t]]),
    );
  };
  bindSlider("lambda", (value) => number(value), draw);
  bindSlider("gamma", (value) => number(value), draw);
  onResize(draw);
  draw();
}

// --- Answers ---

/**
 * What is known of the answer of a point to a prompt, beside SFT's answer to it. `rose` is how much
 * the reward rose that trained or chose it, where there was one; an answer is hacked where that
 * went up while gold utility went down.
 */
function readAnswer(data, answers, k, base) {
  const row = (name) => {
    const [text, gold, good, marks] = data.answers[data.places[name][k]];
    return { text, gold, good, marks };
  };
  const [mine, before] = [row(answers), row(base)];
  const own = data.rewards[answers];
  const rose = own ? own.after[k] - own.before[k] : null;
  const worse = mine.gold < before.gold;
  return {
    ...mine,
    changed: mine.text !== before.text,
    worse,
    hacked: worse && rose !== null && rose > 0,
    from: before.gold,
    reward: own ? [own.before[k], own.after[k]] : null,
    rose,
  };
}

function goldCell(answer, isBase) {
  if (isBase) return right(number(answer.gold));
  const change = answer.gold - answer.from;
  const kind = change > 0 ? "up" : "down";
  const note = change === 0 ? "" : el("span", { class: kind }, ` (${signed(change)})`);
  return right([number(answer.gold), note]);
}

// --- Browse ---

function startBrowse(data) {
  const base = data.policies[0]?.answers;
  if (!base) {
    $("browse-body").hidden = true;
    $("browse-missing").hidden = false;
    $("browse-missing").textContent =
      "No study has kept answers yet: run studies/too_much_dpo.py, then page.py.";
    return;
  }
  const others = data.policies.slice(1);
  fillSelect($("browse-policy"), [["", "all policies"], ...others.map(({ name }, i) => [i, name])]);
  const read = (policy, k) => readAnswer(data, policy.answers, k, base);
  let page = 0;

  /** The questions with the policies whose answers pass the filter. */
  function matches() {
    const chosen = $("browse-policy").value;
    const asked = chosen === "" ? others : [others[Number(chosen)]];
    const test = $("browse-filter").value;
    const found = data.prompts.map((_, k) => {
      return { k, policies: asked.filter((policy) => test === "all" || read(policy, k)[test]) };
    });
    return found.filter(({ policies }) => policies.length);
  }

  function card({ k, policies }) {
    const rows = [data.policies[0], ...policies].map((policy, i) => {
      const answer = read(policy, k);
      const reward = answer.reward
        ? answer.reward.map((value) => number(value)).join(" → ")
        : "–";
      const text = longText(answer.text, " ", markSpan(answer.marks));
      const tag = answer.hacked && i > 0 ? el("strong", { class: "down" }, " hacked") : "";
      const name = { content: [policy.name, tag] };
      return { cells: [name, text, goldCell(answer, i === 0), right(reward)] };
    });
    const caption = `Answers to: ${data.prompts[k]}`;
    const answers = table(caption, ["policy", "answer", "gold", "its own reward"], rows);
    answers.caption.className = "prompt";
    return el("div", { class: "card scroll" }, answers);
  }

  function show() {
    const found = matches();
    const size = $("browse-policy").value === "" ? 1 : 6;
    const pages = Math.max(1, Math.ceil(found.length / size));
    page = Math.min(Math.max(page, 0), pages - 1);
    const answers = sum(found.map(({ policies }) => policies.length));
    const part = found.length ? `, part ${page + 1} of ${pages}` : "";
    const count = `${counted(answers, "answer")} to ${counted(found.length, "question")}`;
    $("browse-count").textContent = `${count}${part}.`;
    $("browse-list").replaceChildren(...found.slice(page * size, (page + 1) * size).map(card));
    $("browse-previous").disabled = page === 0;
    $("browse-next").disabled = page === pages - 1;
  }

  function turn(by) {
    page += by;
    show();
  }

  for (const id of ["browse-policy", "browse-filter"]) {
    $(id).addEventListener("change", () => {
      page = 0;
      show();
    });
  }
  $("browse-previous").addEventListener("click", () => turn(-1));
  $("browse-next").addEventListener("click", () => turn(1));
  $("browse-table").append(policyTable(data, read));
  // Open where something is to be seen: DPO's answer got better, and another one is hacked.
  const isTelling = (k) =>
    others.some((policy) => read(policy, k).hacked) && read(others[0], k).gold > read(others[0], k).from;
  page = Math.max(
    0,
    data.prompts.findIndex((_, k) => others.length && isTelling(k)),
  );
  show();
}

function policyTable(data, read) {
  const rows = data.policies.map((policy) => {
    const answers = data.prompts.map((_, k) => read(policy, k));
    const count = (test) => right(String(answers.filter((answer) => answer[test]).length));
    const gold = sum(answers.map((answer) => answer.gold)) / answers.length;
    const rises = answers.map((answer) => answer.rose).filter((rose) => rose !== null);
    const reward = rises.length ? signed(sum(rises) / rises.length) : "–";
    return {
      cells: [
        policy.name,
        policy.about,
        count("changed"),
        count("worse"),
        count("hacked"),
        count("good"),
        right(number(gold)),
        right(reward),
      ],
    };
  });
  const head = ["policy", "what it is", "changed", "worse", "hacked", "good", "gold", "own reward"];
  return table(`One answer to each of ${data.prompts.length} questions`, head, rows);
}

// --- Predict ---

/** 1 where a verdict says that the claim holds, 0 where not, null where nothing was decided. */
function outcomeOf(verdict) {
  if (verdict === "undecided") return null;
  return verdict === "holds" ? 1 : 0;
}

/** Your Brier score beside that of always saying "holds"; null before anything was decided. */
function scorePredictions(predictions) {
  const scored = predictions.filter(({ outcome }) => outcome !== null);
  if (scored.length === 0) return null;
  const outcomes = scored.map(({ outcome }) => outcome);
  const yours = brierScore(
    scored.map(({ probability }) => probability),
    outcomes,
  );
  const sure = scored.filter(({ probability }) => Math.abs(probability - 0.5) >= 0.3);
  const hits = sure.filter(
    ({ probability, outcome }) => probability > 0.5 === (outcome === 1),
  ).length;
  return {
    count: scored.length,
    yours,
    always: brierScore(
      outcomes.map(() => 1),
      outcomes,
    ),
    sure: sure.length,
    hits,
  };
}

function startPredict(claims) {
  const predictions = new Map(); // claim -> {probability, outcome}
  if (claims.length === 0) {
    for (const id of ["claim", "predict-fields"]) $(id).hidden = true;
    $("score").textContent = "No study was run yet: run run_all.py --studies, then page.py.";
    return;
  }
  const studies = [...new Set(claims.map((claim) => claim.study))];
  fillSelect($("predict-study"), [
    ["", "all, in the order of the tutorial"],
    ...studies.map((study) => [study, study]),
  ]);
  let listed = claims;
  let place = 0;

  function show(focus = true) {
    const claim = listed[place];
    const told = predictions.get(claim);
    $("claim-count").textContent = `Claim ${place + 1} of ${listed.length}: ${claim.study}`;
    $("claim-says").textContent = `${claim.says[0].toUpperCase()}${claim.says.slice(1)}.`;
    $("claim-measured").textContent =
      `Measured: ${claim.measured}. It holds where the interval is ${regionOf(claim)}.`;
    for (const input of document.querySelectorAll("#claim input")) input.disabled = Boolean(told);
    if (!told) for (const id of ["expect-holds", "expect-not"]) $(id).checked = false;
    $("claim-answer").replaceChildren(...(told ? answerTo(claim, told) : []));
    $("claim-show").disabled = Boolean(told);
    $("claim-next").textContent = place === listed.length - 1 ? "To the first" : "Next";
    if (focus) $("claim-says").focus();
  }

  function reveal() {
    const expected = document.querySelector('input[name="expect"]:checked');
    if (!expected) {
      $("claim-answer").replaceChildren(el("p", {}, "Say first what you expect."));
      return $("expect-holds").focus();
    }
    const sure = Number($("sure").value) / 100;
    const claim = listed[place];
    const probability = expected.value === "holds" ? sure : 1 - sure;
    predictions.set(claim, { probability, outcome: outcomeOf(claim.verdict) });
    show(false);
    $("claim-next").focus();
    showScore();
  }

  function showScore() {
    const score = scorePredictions([...predictions.values()]);
    if (!score) return $("score").replaceChildren();
    const sure = score.sure
      ? ` Where you were at least 80 % sure, you were right in ${score.hits} of ${score.sure}.`
      : "";
    const always = `always saying "holds" ${number(score.always, 3)}; a coin 0.250.`;
    const yours = `Brier score of ${counted(score.count, "decided claim")}: you ${number(score.yours, 3)}`;
    $("score").replaceChildren(el("p", {}, `${yours}; ${always}${sure}`));
  }

  bindSlider(
    "sure",
    (value) => `${value} %`,
    () => {},
  );
  $("claim-show").addEventListener("click", reveal);
  $("claim-next").addEventListener("click", () => {
    place = (place + 1) % listed.length;
    show();
  });
  $("predict-study").addEventListener("change", () => {
    const study = $("predict-study").value;
    listed = claims.filter((claim) => study === "" || claim.study === study);
    place = 0;
    show(false);
  });
  show(false);
}

function regionOf({ true: [low, high] }) {
  if (low === null) return `below ${plain(high)}`;
  return high === null ? `above ${plain(low)}` : `between ${plain(low)} and ${plain(high)}`;
}

function answerTo(claim, { probability, outcome }) {
  const digits = Math.abs(claim.mean) < 10 ? 2 : 1;
  const [low, high] = [claim.true[0] ?? -Infinity, claim.true[1] ?? Infinity];
  const inside = claim.by_seed.filter((value) => low < value && value < high).length;
  const seeds = claim.by_seed.length;
  const alike = seeds > 1 ? ` ${inside} of ${seeds} seeds lie ${regionOf(claim)}.` : "";
  const you = `You gave it ${percent(probability)}`;
  const penalty =
    outcome === null
      ? `${you}; an undecided claim is not scored.`
      : `${you}: a squared error of ${number((probability - outcome) ** 2, 3)}.`;
  return [
    el(
      "p",
      {},
      el("strong", {}, `${claim.verdict[0].toUpperCase()}${claim.verdict.slice(1)}`),
      `: ${interval(claim, digits)}.${alike}`,
    ),
    drawInterval(claim),
    el("p", {}, penalty),
    el("p", {}, `We expected: ${claim.predicted}. Published: ${claim.published || "nothing found"}.`),
  ];
}

/** The interval of a claim beside the region in which it is true. */
function drawInterval(claim) {
  const [width, height, y] = [340, 54, 22];
  const borders = claim.true.filter((border) => border !== null);
  const [low, high] = rangeOf([...(claim.ci95 ?? []), ...claim.by_seed, claim.mean, ...borders]);
  const x = (value) => 10 + ((width - 20) * (value - low)) / (high - low);
  const [from, to] = [claim.true[0] ?? low, claim.true[1] ?? high].map(x);
  const ends = (claim.ci95 ?? [claim.mean, claim.mean]).map(x);
  const says = `${interval(claim)}; true ${regionOf(claim)}`;
  const marks = borders.map((border) => {
    return svg("text", { x: x(border), y: height - 4, "text-anchor": "middle" }, plain(border));
  });
  return el(
    "div",
    { class: "chart" },
    svg(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": says },
      svg("rect", {
        x: from,
        width: Math.max(0, to - from),
        y: 4,
        height: 36,
        fill: "var(--good)",
        opacity: 0.2,
      }),
      svg("line", {
        x1: ends[0],
        x2: ends[1],
        y1: y,
        y2: y,
        stroke: "var(--text)",
        "stroke-width": 3,
      }),
      claim.by_seed.map((value) =>
        svg("circle", { cx: x(value), cy: y + 11, r: 2.5, fill: "var(--quiet)" }),
      ),
      svg("circle", { cx: x(claim.mean), cy: y, r: 5, fill: "var(--text)" }),
      marks,
    ),
  );
}

// --- The frontier ---

const LOOKS = {
  SFT: ["sft", "s"],
  "best of n": ["best", "o"],
  DPO: ["dpo", "o"],
  IPO: ["ipo", "v"],
  KTO: ["kto", "^"],
  "AI labels": ["dpo", "P"],
  "on-policy DPO": ["dpo", "D"],
  PPO: ["rl", "o"],
  RLOO: ["rl", "D"],
  "DPO + likelihood term": ["dpo", "v"],
  "SFT on chosen": ["sft", "^"],
  "random labels": ["sft", "x"],
  "DPO + best of n": ["both", "o"],
};
const lookOf = (method) => LOOKS[method] ?? ["sft", "o"];
const ALONG_A_RUN = ["best of n", "DPO", "PPO", "DPO + best of n"];

/** A method's mark; hollow where the labels were biased. */
function markerPath(method, biased, extra = {}) {
  const [color, marker] = lookOf(method);
  const paint = `var(--${color})`;
  return svg("path", {
    d: MARKERS[marker],
    fill: biased ? "var(--page)" : paint,
    stroke: paint,
    "stroke-width": 1.5,
    ...extra,
  });
}

function startFrontier(data) {
  const { points, limit } = data;
  if (points.length === 0) {
    for (const id of ["plane-fields", "plane-legend"]) $(id).hidden = true;
    $("point-says").textContent = "No study has measured points yet: run run_all.py --studies.";
    return;
  }
  const base = data.policies[0]?.answers;
  const hidden = new Set();
  let chosen = 0;
  const nameOf = (point) =>
    `${point.method}: ${point.label}${point.biased ? ", annotators prefer long answers" : ""}`;
  fillSelect(
    $("point"),
    points.map((point, i) => [i, nameOf(point)]),
  );

  function draw() {
    const shown = points.filter((point) => !hidden.has(point.method));
    const most = Math.max(2, ...points.map((point) => point.kl.mean));
    const yRange = rangeOf([0, 4.1, ...points.map((point) => point.gold.mean)]);
    const axes = makeAxes($("plane"), {
      xTicks: [0, 0.1, 0.5, 1, 2, 4, 8, 16, 32, 64].filter((kl) => kl <= most),
      yTicks: niceTicks(...yRange),
      xRange: [0, most * 1.05],
      yRange,
      scale: Math.sqrt,
      height: 460,
      xLabel: "measured KL from SFT, nats (root axis)",
      yLabel: "gold utility, log-odds",
      says: "Gold utility against KL of every method; the list below names the points",
    });
    if (limit.length) drawLine(axes, limit, "limit", { "stroke-width": 3 });
    drawRuns(axes, shown);
    points.forEach((point, i) => {
      if (!hidden.has(point.method) && i !== chosen) drawPoint(axes, point, i);
    });
    drawPoint(axes, points[chosen], chosen); // above the others
  }

  function drawPoint({ node, x, y }, point, i) {
    const [left, top] = [x(Math.max(0, point.kl.mean)), y(point.gold.mean)].map((v) =>
      v.toFixed(1),
    );
    const at = `translate(${left},${top})`;
    const ring =
      i === chosen
        ? svg("circle", { r: 10, fill: "none", stroke: "var(--text)", "stroke-width": 2 })
        : null;
    const target = svg("circle", { r: 11, fill: "transparent" });
    const title = svg("title", {}, nameOf(point));
    const group = svg(
      "g",
      { class: "point", transform: at, click: () => choose(i) },
      title,
      target,
      markerPath(point.method, point.biased),
      ring,
    );
    if (i === chosen && point.gold.ci95) {
      const [low, high] = point.gold.ci95.map(y);
      const middle = x(Math.max(0, point.kl.mean));
      node.append(
        svg("line", { x1: middle, x2: middle, y1: low, y2: high, stroke: "var(--text)" }),
      );
    }
    node.append(group);
  }

  function choose(i) {
    chosen = Math.min(Math.max(i, 0), points.length - 1);
    $("point").value = chosen;
    $("point-previous").disabled = chosen === 0;
    $("point-next").disabled = chosen === points.length - 1;
    const point = points[chosen];
    const labels = point.annotations
      ? `${point.annotations.toLocaleString("en")} labels`
      : "no labels";
    $("point-says").textContent =
      `${nameOf(point)}. KL ${interval(point.kl)} nats, gold utility ` +
      `${interval(point.gold)}, good answers ${percent(point.good.mean)}; ${labels}.`;
    const rows = point.answers && base ? answerRows(point) : null;
    const missing = el("p", {}, "The study kept no answers of this point.");
    const caption = "Its answers, one to each question";
    $("point-answers").replaceChildren(
      rows ? table(caption, ["question", "SFT", "this policy", "gold"], rows) : missing,
    );
    draw();
  }

  function answerRows(point) {
    return data.prompts.map((prompt, k) => {
      const before = readAnswer(data, base, k, base);
      const answer = readAnswer(data, point.answers, k, base);
      const same = answer.changed
        ? longText(answer.text, " ", markSpan(answer.marks))
        : longText(el("span", { class: "marks" }, "the same"));
      const sft = longText(before.text, " ", markSpan(before.marks));
      return { cells: [longText(prompt), sft, same, goldCell(answer, false)] };
    });
  }

  const legend = [...new Set(points.map((point) => point.method))];
  $("plane-legend").append(
    ...legend.map((method) => {
      const icon = svg(
        "svg",
        { width: 16, height: 16, viewBox: "-8 -8 16 16", "aria-hidden": "true" },
        markerPath(method, false),
      );
      return el(
        "li",
        {},
        el(
          "button",
          {
            type: "button",
            "aria-pressed": "true",
            click: (event) => {
              hidden[hidden.has(method) ? "delete" : "add"](method);
              event.currentTarget.setAttribute("aria-pressed", String(!hidden.has(method)));
              draw();
            },
          },
          icon,
          method,
        ),
      );
    }),
  );
  $("point").addEventListener("change", () => choose(Number($("point").value)));
  $("point-previous").addEventListener("click", () => choose(chosen - 1));
  $("point-next").addEventListener("click", () => choose(chosen + 1));
  onResize(draw);
  const first = points.findIndex((point) => point.method === "DPO" && point.series === "768");
  choose(Math.max(0, first));
}

/** Lines through the points of one run. */
function drawRuns(axes, points) {
  const runs = new Map();
  for (const point of points.filter(({ method }) => ALONG_A_RUN.includes(method))) {
    const key = `${point.method} ${point.series}`;
    runs.set(key, [...(runs.get(key) ?? []), point]);
  }
  for (const run of runs.values()) {
    const { method, biased } = run[0];
    const look = { "stroke-width": 1, "stroke-dasharray": biased ? "5 4" : null };
    drawLine(
      axes,
      run.map((point) => [Math.max(0, point.kl.mean), point.gold.mean]),
      lookOf(method)[0],
      look,
    );
  }
}

// --- All of it ---

/** Draw again when the width of the window changes. */
function onResize(draw) {
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    draw();
  });
}

function startPage() {
  const data = JSON.parse($("data").textContent);
  $("source").textContent = data.source;
  startLabel(data.label);
  startMove(data.pools);
  startBrowse(data);
  startPredict(data.claims);
  startFrontier(data);
}

const closedForms = {
  klRegularizedOptimum,
  klDivergence,
  bestOfNWeights,
  expectedBestOfN,
  bestOfNKlBound,
  clippedSurrogate,
  isClipped,
  generalizedAdvantageEstimate,
  wilson,
  brierScore,
  sigmoid,
  readPairs,
  trialsOf,
  labelledRow,
  describeLabels,
  scorePredictions,
  favourites,
  readOptimum,
};
if (typeof module === "object")
  module.exports = closedForms; // for the tests
else startPage();
