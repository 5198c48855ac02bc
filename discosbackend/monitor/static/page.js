// Shows the events of /events on the page. page.html says which value is shown where:
//   data-text="path|format"   the text of the element         data-show="path" or "!path"   hidden, unless it is true
//   data-is="path|format"     a word for the style sheet      data-points="path|zero"       the line of a small history
//   data-each="path"          the element's template, once for each item; paths in it begin at the item, "." is it
// page_template.py fills the same page on the server. A format has the same name and result in both.
"use strict";

const $ = id => document.getElementById(id);
let now = 0;  // the server's time, Unix seconds
let clockDifference = 0;  // of the server's clock and performance.now(), s
let latest = null;  // the last status document

// -- formats ------------------------------------------------------------------------------------------

const iso = t => t >= 0 && t < 253402300800 ? new Date(Math.floor(t) * 1000).toISOString() : null;
const date = t => iso(t)?.slice(0, 10) ?? "–";
const time = t => iso(t)?.slice(11, 19) ?? "–";
const integer = n => String(Math.round(n)).replace(/\B(?=(\d{3})+$)/g, "\u202f");

// toFixed() and Python round ties differently, so both use this.
const fixed = (x, decimals) => (Math.floor(x * 10 ** decimals + 0.5) / 10 ** decimals).toFixed(decimals);

function age(seconds) {
  const s = Math.max(0, Math.floor(seconds)), [m, h, d] = [60, 3600, 86400].map(unit => Math.floor(s / unit));
  return d ? `${d} d ${h % 24} h` : h ? `${h} h ${m % 60} min` : m ? `${m} min ${s % 60} s` : `${s} s`;
}

function seconds(s) {
  if (s < 0) return "−" + seconds(-s);
  if (s < 1e-3) return `${fixed(s * 1e6, 0)} µs`;
  if (s < 1) return `${fixed(s * 1e3, s < 0.01 ? 1 : 0)} ms`;
  return s < 60 ? `${fixed(s, 1)} s` : age(s);
}

function bytes(n) {
  if (n < 1000) return `${n} B`;
  let unit = -1;
  do { n /= 1000; unit += 1; } while (n >= 999.95 && unit < 4);
  return `${fixed(n, 1)} ${["kB", "MB", "GB", "TB", "PB"][unit]}`;
}

function value(v) {
  if (typeof v !== "number") return v === true ? "yes" : v === false ? "no" : String(v);
  const size = Math.abs(v);
  if (size && (size < 1e-3 || size >= 1e7)) return v.toExponential(3).replace("e+", "e");
  const decimals = size >= 1 ? Math.max(0, 4 - Math.floor(Math.log10(size))) : 4;
  const text = fixed(v, decimals);
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

const FORMATS = {
  text: String, integer, bytes, seconds, value, date,
  now: time,
  clock: t => date(t) === date(now) ? time(t) : `${date(t)} ${time(t)}`,
  moment: t => iso(t) ? `${FORMATS.clock(t)}.${String(Math.floor(t * 1000) % 1000).padStart(3, "0")}` : "–",
  age: t => age(now - t),
  until: t => t - now < 60 ? `${fixed(Math.max(0, t - now), 1)} s` : age(t - now),
  synchronised: v => v ? "synchronised" : "not synchronised",
  lane: overdue => overdue ? "overdue" : "running",
  count: n => n ? "some" : "none",
};
const WITHOUT = { synchronised: "synchronisation unknown" };  // for null, instead of a dash

// -- filling the page ---------------------------------------------------------------------------------

const at = (item, path) => path === "." ? item : path.split(".").reduce((value, key) => value?.[key] ?? null, item);
const isShown = value => Array.isArray(value) ? value.length > 0 : Boolean(value);
const textOf = (value, format) => value === null ? WITHOUT[format] ?? "–" : FORMATS[format](value);
const word = text => /^[a-z]{1,16}$/.test(text) ? text : "other";
const wordOf = (value, format) => value === null ? "unknown" : word(FORMATS[format](value));

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;  // an unchanged text keeps its selection
}

function points(values, base) {
  const known = values.filter(value => typeof value === "number");
  const low = Math.min(...known, ...(base === "zero" ? [0] : [])), high = Math.max(...known);
  const step = 100 / Math.max(1, values.length - 1);
  // Divided by the size first, because a difference of two large numbers need not be finite.
  const size = Math.max(Math.abs(low), Math.abs(high));
  const share = value => (value / size - low / size) / (high / size - low / size);
  const y = value => high > low ? 19 - 18 * share(value) : base === "zero" ? 19 : 10;
  return values.flatMap((v, i) => typeof v === "number" ? [`${fixed(i * step, 1)},${fixed(y(v), 1)}`] : []).join(" ");
}

function compile(root) {
  const steps = [];
  for (const element of [root, ...root.querySelectorAll("*")]) {
    const { show, text, is, each, points: line } = element.dataset ?? {};
    if (show) {
      const wanted = !show.startsWith("!"), path = show.replace("!", "");
      steps.push(item => { element.hidden = isShown(at(item, path)) !== wanted; });
    }
    if (text) {
      const [path, format = "text"] = text.split("|");
      steps.push(item => { element.moment = at(item, path); put(element, textOf(element.moment, format)); });
    }
    if (is) {
      const [path, format = "text"] = is.split("|");
      steps.push(item => { element.dataset.state = wordOf(at(item, path), format); });
    }
    if (line) {
      const [path, base] = line.split("|");
      steps.push(item => element.setAttribute("points", points(at(item, path) ?? [], base)));
    }
    if (each) steps.push(item => fillList(element, at(item, each) ?? []));
  }
  return item => steps.forEach(step => step(item));
}

function fillList(list, items) {
  list.shown ??= [];
  while (list.shown.length > items.length) list.shown.pop().element.remove();
  while (list.shown.length < items.length) {
    const element = list.firstElementChild.content.firstElementChild.cloneNode(true);
    list.shown.push({ element, fill: compile(element) });
    list.append(element);
  }
  items.forEach((item, index) => list.shown[index].fill(item));
}

// What the server has filled is removed: only the template of a list stays.
for (const list of document.querySelectorAll("[data-each]")) list.replaceChildren(list.firstElementChild);
const fillPage = compile(document.documentElement);

// -- status, and the small histories ------------------------------------------------------------------

const STEP = 10;  // s, of a sensor's history
let sensorHistories = {};
let lastStep = 0;
const clientHistories = new Map();

function addHistories(status) {
  const step = Math.floor(status.time / STEP);
  for (const sensor of status.sensors ?? []) {
    const history = sensorHistories[sensor.name] ??= [];
    const number = typeof sensor.value === "boolean" ? Number(sensor.value) : sensor.value;
    if (step !== lastStep && history.push(number) > 3600 / STEP) history.shift();
    sensor.history = history;
  }
  lastStep = step;
  // The document has the most active ones first; on the page each keeps its place.
  status.clients.sort((one, other) => one.connection - other.connection);
  const known = new Set(status.clients.map(client => client.connection));
  for (const number of clientHistories.keys()) if (!known.has(number)) clientHistories.delete(number);
  for (const client of status.clients) {
    const before = clientHistories.get(client.connection) ?? { requests: client.requests, history: Array(60).fill(0) };
    before.history.push(client.requests - before.requests);
    before.history.shift();
    clientHistories.set(client.connection, { requests: client.requests, history: before.history });
    client.history = before.history;
  }
}

function showStatus(status) {
  now = status.time;
  clockDifference = now - performance.now() / 1000;
  addHistories(status);
  status.exchanges = latest?.exchanges ?? [];
  status.filter = latest?.filter ?? "";
  if (!latest) showExchangesSoon();  // those of the history, which is the event before
  latest = status;
  show();
}

function show() {
  fillPage(latest);
  showTitle();
}

function showTitle() {
  // Without news from the server, the last known state says nothing about the present one.
  const mark = silence() > LONGEST_SILENCE || !latest ? "?" : !latest.health.ok ? "✕"
    : (latest.status?.text ?? "ok") === "ok" ? "✓" : "▲";
  const title = `${mark} ${document.querySelector("h1").textContent}`;
  if (document.title !== title) document.title = title;
}

// -- exchanges ----------------------------------------------------------------------------------------

const KINDS = { changes: 100, failures: 50, reads: 50 };  // how many of each are shown
const exchanges = {};  // of each kind separately, so that refused requests and polling do not displace the changes
for (const kind in KINDS) exchanges[kind] = [];
let isDrawing = false;

function addExchange(exchange) {
  const list = exchanges[exchange.code !== "ok" ? "failures" : exchange.changes ? "changes" : "reads"];
  if (list.push(exchange) > 500) list.shift();
}

function showExchanges() {
  isDrawing = false;
  if ($("hold").checked || !latest) return;
  const wanted = $("filter").value.toLowerCase();
  const isWanted = each => `${each.peer} ${each.q} ${each.a ?? ""}`.toLowerCase().includes(wanted);
  latest.exchanges = Object.entries(KINDS)
    .filter(([kind]) => kind !== "reads" || $("reads").checked)
    .flatMap(([kind, most]) => exchanges[kind].filter(isWanted).slice(-most))
    .sort((one, other) => other.t - one.t);
  latest.filter = wanted;
  show();
}

function showExchangesSoon() {
  if (!isDrawing) requestAnimationFrame(showExchanges);
  isDrawing = true;
}

for (const id of ["filter", "reads", "hold"]) $(id).addEventListener("input", showExchangesSoon);

// -- quick look ---------------------------------------------------------------------------------------

const MINUTES = 5;
const RAMP = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]];
let look = null;  // the last quick look
let spectra = [];  // of the last minutes, the newest first

const COLOURS = Array.from({ length: 256 }, (_, level) => {  // like cividis: its lightness alone shows the value
  const x = level / 256 * (RAMP.length - 1), i = Math.floor(x);
  return RAMP[i].map((low, channel) => low + (x - i) * (RAMP[i + 1][channel] - low));
});

function limits(rows, share) {  // the range without the outer `share` of the values: a spur does not decide the scale
  const some = Math.ceil(rows.length * rows[0].length / 20000);
  const sorted = Float64Array.from(rows.flatMap((row, y) => row.filter((v, x) => v !== null && (x + y) % some === 0))).sort();
  if (!sorted.length) return [0, 1];
  const last = sorted.length - 1;
  const low = sorted[Math.floor(last * share)], high = sorted[Math.ceil(last * (1 - share))];
  return high > low ? [low, high] : [low - 1, low + 1];
}

function canvasOf(id) {
  const canvas = $(id), scale = devicePixelRatio || 1, { width, height } = canvas.getBoundingClientRect();
  [canvas.width, canvas.height] = [width * scale, height * scale];
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  context.font = "12px system-ui, sans-serif";
  return { context, width, height: height - 20, style: getComputedStyle(canvas) };
}

function drawFrequencies({ context, width, height, style }) {
  context.fillStyle = style.getPropertyValue("--quiet");
  ["left", "center", "right"].forEach((align, i) => {
    context.textAlign = align;
    context.fillText(`${value(look.start_mhz + look.width_mhz * i / 2)} MHz`, width * i / 2, height + 15);
  });
}

function drawSpectrum(input) {
  const picture = canvasOf("spectrum"), { context, width, height, style } = picture;
  const [low, high] = limits(look.spectra, 0.002), top = high + 0.08 * (high - low), bottom = Math.min(low, 0);
  const y = v => height - height * (Math.min(v, top) - bottom) / (top - bottom);
  const order = look.spectra.map((_, i) => i).filter(i => i !== input).concat(input);
  for (const i of order) {
    const spectrum = look.spectra[i];
    context.strokeStyle = style.getPropertyValue(i === input ? "--trace" : "--faint");
    context.lineWidth = i === input ? 1.5 : 1;
    context.beginPath();
    const line = spectrum.length > 1 ? spectrum : [spectrum[0], spectrum[0]];  // a single bin is a level
    line.forEach((v, bin) => v !== null && context.lineTo(width * bin / (line.length - 1), y(v)));
    context.stroke();
  }
  context.fillStyle = style.getPropertyValue("--quiet");
  context.fillText(value(Number(high.toPrecision(3))), 0, 12);
  drawFrequencies(picture);
}

function drawWaterfall(input) {
  const picture = canvasOf("waterfall"), { context, width, height, style } = picture;
  const rows = spectra.map(each => each[input]), bins = rows[0].length;
  const mean = rows[0].map((_, bin) => rows.reduce((sum, row) => sum + row[bin], 0) / rows.length);
  const isChange = $("scale").value === "change";
  const shown = rows.map(row => isChange ? row.map((v, bin) => v !== null && mean[bin] ? v / mean[bin] - 1 : null) : row);
  const [low, high] = limits(shown, 0.005);
  const image = new ImageData(bins, rows.length);
  shown.forEach((row, y) => row.forEach((v, x) => {
    if (v === null) return;
    const level = Math.floor(255 * Math.min(Math.max((v - low) / (high - low), 0), 1)), first = 4 * (y * bins + x);
    image.data.set(COLOURS[level], first);
    image.data[first + 3] = 255;
  }));
  const small = new OffscreenCanvas(bins, rows.length);
  small.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = false;
  const most = Math.max(60, rows.length);
  context.drawImage(small, 0, 0, width, height * rows.length / most);
  context.strokeStyle = style.getPropertyValue("--line");
  context.strokeRect(0.5, 0.5, width - 1, height - 1);
  drawFrequencies(picture);
  const level = v => isChange ? `${(100 * v).toFixed(1)} %` : value(Number(v.toPrecision(3)));
  put($("period"), `${age(most)} to the bottom`);
  put($("low"), level(low));
  put($("high"), level(high));
}

function drawLook() {
  if (!look?.spectra.length) return;
  const input = Math.max(0, $("input").selectedIndex);
  drawSpectrum(input);
  drawWaterfall(input);
}

function showLook(next) {
  const form = each => JSON.stringify([each.start_mhz, each.width_mhz, each.names, each.spectra.map(one => one.length)]);
  if (!look || form(look) !== form(next)) {
    spectra = [];
    $("input").replaceChildren(...next.names.map(name => new Option(name)));
  }
  look = next;
  spectra = [next.spectra, ...spectra].slice(0, 60 * MINUTES);
  $("picture").hidden = !next.spectra.length;
  drawLook();
}

for (const id of ["input", "scale"]) $(id).addEventListener("input", drawLook);
addEventListener("resize", drawLook);

// -- events -------------------------------------------------------------------------------------------

const EVENTS = {
  history: history => {
    sensorHistories = history.sensors;
    clientHistories.clear();
    for (const kind in KINDS) exchanges[kind] = [];
    history.exchanges.forEach(addExchange);
    showExchangesSoon();
  },
  status: showStatus,
  exchange: exchange => { addExchange(exchange); showExchangesSoon(); },
  missed: missed => put($("missed"), `${integer(missed.total)} left out: too many to show`),
  quick_look: showLook,
};
const LONGEST_SILENCE = 5;  // s
let heard = performance.now();
const silence = () => (performance.now() - heard) / 1000;

function listen() {
  const events = new EventSource("/events");
  for (const [name, show] of Object.entries(EVENTS)) {
    events.addEventListener(name, event => { heard = performance.now(); show(JSON.parse(event.data)); });
  }
  // The browser connects again by itself, except after a response such as 503: too many pages are open.
  events.onerror = () => { if (events.readyState === EventSource.CLOSED) setTimeout(listen, 10000); };
}

function tick() {
  const silent = silence(), isLost = silent > LONGEST_SILENCE;
  document.body.classList.toggle("stale", isLost);
  $("lost").hidden = !isLost;
  if (isLost) showTitle();
  put($("lost"), `Nothing heard from the server for ${age(silent)}: it is blocked or gone, or the network is. Below is the last known state.`);
  if (!latest || isLost) return;
  now = clockDifference + performance.now() / 1000;
  put(document.querySelector("[data-text='time|now']"), time(now));
  for (const element of document.querySelectorAll("[data-text$='|age'], [data-text$='|until']")) {
    put(element, textOf(element.moment, element.dataset.text.split("|")[1]));
  }
}

document.body.classList.add("live");
$("controls").hidden = false;
listen();
setInterval(tick, 250);
