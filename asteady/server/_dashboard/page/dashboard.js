import { Chart, element, table } from "./charts.js";

const EVERY_MS = 2000;
const TIMEOUT_MS = 10000;
const NONE = "–";
const BUCKETS = 60;
const SPANS_S = [[120, "2 minutes"], [300, "5 minutes"], [900, "15 minutes"], [3600, "hour"]];
const KINDS = { generation: "Answers", embedding: "Embeddings" };

// -- texts ----------------------------------------------------------------------------------------

const known = (value) => typeof value === "number" && Number.isFinite(value);
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

const count = (value) => (known(value) ? (value < 100000 ? whole : short).format(value) : NONE);
const percent = (share) => (known(share) ? `${(100 * share).toFixed(share > 0 && share < 1 ? 1 : 0)} %` : NONE);

function rate(value) {
  if (!known(value)) return NONE;
  return value >= 100 ? count(value) : value.toFixed(value < 10 && value % 1 ? 1 : 0);
}

function bytes(value) {
  if (!known(value)) return NONE;
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (value >= 1000 && at < units.length - 1) {
    value /= 1024;
    at++;
  }
  return `${value.toFixed(at && value < 10 ? 1 : 0)} ${units[at]}`;
}

/* The largest unit of which there is at least one, with the next one where it says something. */
function duration(seconds) {
  if (!known(seconds)) return NONE;
  if (seconds < 0.0005) return "0 s";
  if (seconds < 1) return `${(1000 * seconds).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 && seconds % 1 ? 1 : 0)} s`;
  const minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60), days = Math.floor(hours / 24);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${days} d ${hours % 24} h`;
}

/* In one unit, for axes and large letters. */
function brief(seconds) {
  if (!known(seconds) || seconds < 60) return duration(seconds);
  const [size, unit] = [[172800, "d"], [3600, "h"], [60, "min"]].find(([each]) => seconds >= each);
  const value = seconds / (unit === "d" ? 86400 : size);
  return `${value.toFixed(value < 10 && value % 1 ? 1 : 0)} ${unit}`;
}

/* One unit is enough for a time ago. */
function ago(seconds) {
  if (!known(seconds)) return NONE;
  if (seconds < 1) return "now";
  const [size, unit] = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]].find(([each]) => seconds >= each);
  return `${Math.floor(seconds / size)} ${unit} ago`;
}

const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const clockExact = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const time = (at_s, exact) => (exact ? clockExact : clock).format(at_s * 1000);
const fileName = (reference) => reference.split(/[\\/]/).pop();
const ratio = (hits, misses) => (hits + misses ? hits / (hits + misses) : null);

/* `value` is what the text says, unrounded. */
function show(name, text, value) {
  const place = document.querySelector(`[data-show="${name}"]`);
  if (place.textContent !== text) place.textContent = text;
  if (value === undefined || value === null) delete place.dataset.value;
  else place.dataset.value = value;
  return place;
}

/* What may be long and have no spaces. */
function named(text, title = text) {
  return element("span", text === title ? { class: "name" } : { class: "name", title }, text);
}

// -- what is known --------------------------------------------------------------------------------

let history = {};
let lost_s = null;

function remember(found) {
  // Samples of a server before its restart stay: each has the numbers of its interval alone. Those
  // of a clock that was put back would keep newer ones away.
  if (history.at_s?.at(-1) > found.now_s) history = {};
  const oldest_s = found.now_s - 3600;
  for (const [name, values] of Object.entries(found.history.samples)) {
    history[name] = (history[name] ?? []).concat(values);
  }
  const late = history.at_s.findIndex((at_s) => at_s > oldest_s);
  const drop = late < 0 ? history.at_s.length : late;
  if (drop) for (const name of Object.keys(history)) history[name].splice(0, drop);
}

/* The samples in equal buckets up to now; `of` makes a number of each bucket's samples, or null. */
function buckets(span_s, now_s, period_s) {
  const number = Math.min(BUCKETS, Math.floor(span_s / period_s));
  const wide_s = span_s / number;
  const end_s = Math.ceil(now_s / wide_s) * wide_s;
  const start_s = end_s - span_s;
  const members = Array.from({ length: number }, () => []);
  history.at_s.forEach((at_s, index) => {
    // A sample ends at its time: it belongs where its middle is.
    const bucket = Math.floor((at_s - period_s / 2 - start_s) / wide_s);
    members[bucket]?.push(index);
  });
  const sum = (name, at) => at.reduce((total, index) => total + history[name][index], 0);
  const most = (name, at) => Math.max(...at.map((index) => history[name][index]));
  const of = (fn) => members.map((at) => (at.length ? fn(at) : null));
  return { xs: members.map((_, at) => start_s + (at + 0.5) * wide_s), from: start_s, to: end_s, of, sum, most };
}

// -- charts ---------------------------------------------------------------------------------------

const figure = (name) => document.getElementById(`chart-${name}`);
const where = (x) => time(x, true);
const TIME_STEPS = [1, 2, 4, 10, 20, 40, 60, 120, 240, 600, 1200, 2400, 3600, 7200, 14400, 36000, 72000, 172800];
const charts = {
  hits: new Chart(figure("hits"), { title: "Hit ratio", where, most: 1, show: (value, exact) => (exact ? percent(value) : `${Math.round(100 * value)} %`) }),
  saved: new Chart(figure("saved"), { title: "Time saved", where, bars: true, show: (value, exact) => (exact ? duration : brief)(value), steps: TIME_STEPS }),
  tokens: new Chart(figure("tokens"), { title: "Tokens a second", where, show: rate, least: 10 }),
  requests: new Chart(figure("requests"), { title: "Requests", where, show: count, least: 4 }),
  curve: new Chart(figure("curve"), {
    title: "Miss ratio by size of the cache",
    where: (x) => plural(x, "entry", "entries"),
    most: 1,
    show: (value, exact) => (exact ? percent(value) : `${Math.round(100 * value)} %`),
  }),
};
charts.curve.place = "Entries";

function drawHistory(found) {
  const { now_s, history: { period_s } } = found;
  const began_s = history.at_s[0] ?? now_s;
  const [span_s, spanName] = SPANS_S.find(([each]) => now_s - began_s <= each) ?? SPANS_S.at(-1);
  show("span", spanName);
  const over = buckets(span_s, now_s, period_s);
  const { xs, from, to, of, sum, most } = over;
  const step_s = Math.max(60, span_s / 5);
  const ticks = [];
  for (let at = Math.ceil(from / step_s) * step_s; at <= to; at += step_s) ticks.push([at, time(at)]);
  const frame = { xs, from, to, ticks };
  const all = history.at_s.map((_, index) => index);
  const saved = sum("saved_s", all);
  const hits = sum("hits", all), misses = sum("misses", all);
  charts.hits.update({
    ...frame,
    summary: percent(ratio(hits, misses)),
    series: [{ name: "Hit ratio", values: of((at) => ratio(sum("hits", at), sum("misses", at))) }],
  });
  charts.saved.update({
    ...frame,
    summary: `${duration(saved)} in all`,
    series: [{ name: "Time saved", values: of((at) => sum("saved_s", at)) }],
  });
  charts.tokens.update({
    ...frame,
    summary: `${count(sum("tokens", all))} tokens`,
    series: [{ name: "Tokens a second", values: of((at) => sum("tokens", at) / (at.length * period_s)) }],
  });
  charts.requests.update({
    ...frame,
    summary: `${count(Math.max(0, ...history.pending))} waiting at most`,
    series: [
      { name: "computing", values: of((at) => most("running", at)) },
      { name: "waiting", values: of((at) => most("pending", at)) },
    ],
  });
}

function drawCurve(found) {
  // Of the two caches that one whose curve says more.
  const kinds = Object.keys(KINDS).filter((kind) => found.curves[kind]);
  const kind = kinds.sort((a, b) => found.curves[b].accesses - found.curves[a].accesses)[0] ?? "generation";
  const curve = found.curves[kind];
  const capacity = found.caches[kind].capacity;
  const last = Math.max(10, curve?.capacities.at(-1) ?? capacity);
  const ticks = [];
  for (let x = 1; x <= last; x *= 10) ticks.push([x, short.format(x)]);
  charts.curve.update({
    from: 1,
    to: last,
    scale: Math.log10,
    ticks,
    xs: curve?.capacities ?? [],
    mark: { x: capacity, text: `now ${count(capacity)}` },
    summary: curve ? `${KINDS[kind].toLowerCase()}: ${percent(curve.now)} now, ${percent(curve.best)} at best` : "",
    series: [{ name: "Miss ratio", values: curve?.miss_ratios ?? [] }],
  });
}

// -- numbers --------------------------------------------------------------------------------------

function drawTiles(found) {
  const caches = Object.values(found.caches), pools = Object.values(found.session.pools);
  const sum = (records, name) => records.reduce((total, record) => total + record[name], 0);
  const hits = sum(caches, "hits"), misses = sum(caches, "misses");
  const hitRatio = ratio(hits, misses);
  show("hit-ratio", percent(hitRatio), hitRatio);
  show("lookups", `${plural(hits, "hit")}, ${plural(misses, "miss", "misses")}`);
  show("saved", brief(sum(caches, "seconds_saved")), sum(caches, "seconds_saved"));
  show("saved-all", `${duration(sum(caches, "all_seconds_saved"))} in all runs`);

  const recent = history.at_s.flatMap((at_s, index) => (at_s > found.now_s - 60 ? [index] : []));
  const tokens = recent.reduce((total, index) => total + history.tokens[index], 0);
  const tokenRate = recent.length ? tokens / (recent.length * found.history.period_s) : null;
  show("token-rate", rate(tokenRate), tokenRate);
  show("tokens", pools.length ? `${count(sum(pools, "answer_tokens"))} written, ${count(sum(pools, "prompt_tokens"))} read` : "in the last minute");

  const running = sum(pools, "running"), pending = sum(pools, "pending");
  show("running", pools.length ? count(running) : NONE, pools.length ? running : null);
  show("pending", pools.length ? `${count(pending)} waiting` : "no model is loaded", pending);

  const refused = sum(pools, "refused"), failed = sum(pools, "failed"), store = sum(caches, "errors");
  const errors = failed + refused + store;
  show("errors", count(errors), errors).classList.toggle("alarming", errors > 0);
  show("error-kinds", [[failed, "failed"], [refused, "refused"], [store, "of the store"]].flatMap(([number, what]) => (number ? [`${count(number)} ${what}`] : [])).join(", ") || "none so far");
}

function meter(name, value, of, { show: text = count, alarming = false } = {}) {
  const full = alarming && of > 0 && value >= of;
  const fill = element("div", { class: full ? "fill full" : "fill" });
  fill.style.width = `${of > 0 ? Math.min(100, (100 * value) / of) : 0}%`;
  return element(
    "div",
    { class: "meter", "data-name": name, "data-value": value, "data-of": of },
    element("span", {}, name),
    element("span", { class: "value" }, `${text(value)} of ${text(of)}`),
    element("div", { class: "track", "aria-hidden": "true" }, fill),
  );
}

const poolName = (name) => {
  const [kind, ...reference] = name.split(":");
  return { kind, reference: reference.join(":") };
};

function drawMachine(found) {
  const { pools, machine } = found.session;
  const meters = [];
  for (const [name, pool] of Object.entries(pools)) {
    const { kind, reference } = poolName(name);
    const model = `${fileName(reference)}, ${KINDS[kind].toLowerCase()}`;
    meters.push(meter(`Queue of ${model}`, pool.pending, pool.max_pending, { alarming: true }));
    meters.push(meter(`Busy workers of ${model}`, pool.busy, pool.workers));
  }
  if (machine) {
    const used = Math.min(machine.cores, machine.busy_workers * machine.threads);
    meters.push(meter("Cores in use", used, machine.cores));
    meters.push(meter("Memory of contexts", machine.context_bytes, machine.max_context_bytes, { show: bytes }));
  }
  document.getElementById("meters").replaceChildren(...meters);
  document.getElementById("no-meters").hidden = meters.length > 0;
}

function list(place, rows, empty, columns, options) {
  document.getElementById(place).replaceChildren(
    rows.length ? table(columns, rows, options) : element("p", { class: "empty" }, empty),
  );
}

function drawFlights(found) {
  const activities = found.session.activities.map((each) => ({
    what: { downloading: "Downloading", identifying: "Reading", loading: "Loading", prompt: "Reading a prompt", waiting: "Waiting for another process" }[each.phase] ?? each.phase,
    model: each.subject,
    age_s: each.seconds,
    waiters: null,
    parts: each.total ? percent(each.done / each.total) : NONE,
  }));
  const flights = found.flights.map((each) => ({
    ...each,
    what: found.show_prompts ? named(each.prompt ?? NONE) : each.kind === "generation" ? "Answer" : "Embedding",
    parts: count(each.chunks),
  }));
  list("flights", [...flights, ...activities], "Nothing is computed now.", [
    { name: "What", show: (row) => row.what },
    { name: "Model", show: (row) => named(fileName(row.model), row.model) },
    { name: "Age", number: true, show: (row) => duration(row.age_s) },
    { name: "Waiting", number: true, show: (row) => count(row.waiters) },
    { name: "Pieces", number: true, show: (row) => row.parts },
  ], { caption: "Computations in progress", wide: true });
}

function drawContents(found) {
  const rows = [
    ["Entries", (cache) => `${count(cache.size)} of ${count(cache.capacity)}`],
    ["Size", (cache) => `${bytes(cache.total_size_bytes)} of ${bytes(cache.max_size_bytes)}`],
    ["Hit ratio", (cache) => percent(ratio(cache.hits, cache.misses))],
    ["Hits", (cache) => count(cache.hits)],
    ["Misses", (cache) => count(cache.misses)],
    ["Coalesced", (cache) => count(cache.coalesced)],
    ["Time saved", (cache) => duration(cache.seconds_saved)],
    ["Evictions", (cache) => count(cache.evictions)],
    ["Damaged", (cache) => count(cache.damaged)],
    ["Errors of the store", (cache) => count(cache.errors)],
  ];
  const shared = (cache) => cache.shared_hits + cache.shared_misses;
  if (Object.values(found.caches).some((cache) => shared(cache) + cache.shared_errors)) {
    rows.push(
      ["Found in the shared cache", (cache) => `${count(cache.shared_hits)} of ${count(shared(cache))}`],
      ["Errors of the shared cache", (cache) => count(cache.shared_errors)],
    );
  }
  list("contents", rows, "", [
    { name: "", show: ([name]) => name },
    ...Object.entries(KINDS).map(([kind, name]) => ({ name, number: true, show: ([, text]) => text(found.caches[kind]) })),
  ], { caption: "What the caches hold and did" });
}

function drawEntries(found) {
  const saving = found.entries.filter((entry) => entry.saved_s > 0);
  list("entries", saving, "No entry has been used a second time yet.", [
    {
      name: found.show_prompts ? "Prompt" : "Key",
      show: (row) => (found.show_prompts ? named(row.prompt ?? NONE) : element("code", { title: row.key }, row.key.slice(0, 12))),
    },
    { name: "Kind", show: (row) => KINDS[row.kind].replace(/s$/, "") },
    { name: "Saved", number: true, show: (row) => duration(row.saved_s) },
    { name: "Uses", number: true, show: (row) => count(row.touches) },
    { name: "Cost", number: true, show: (row) => duration(row.cost_s) },
    { name: "Size", number: true, show: (row) => bytes(row.size_bytes) },
    { name: "Last used", number: true, show: (row) => ago(found.now_s - row.last_used_s) },
  ], { caption: "Entries by the time they have saved", wide: true });
}

function drawModels(found) {
  list("pools", Object.entries(found.session.pools), "No model is loaded: the first request loads it.", [
    { name: "Model", show: ([name]) => named(fileName(poolName(name).reference), poolName(name).reference) },
    { name: "For", show: ([name]) => KINDS[poolName(name).kind].toLowerCase() },
    { name: "Weights", number: true, show: ([, pool]) => bytes(pool.weights_bytes) },
    { name: "Workers", number: true, show: ([, pool]) => count(pool.workers) },
    { name: "Batch width", number: true, show: ([, pool]) => count(pool.width) },
    { name: "Answered", number: true, show: ([, pool]) => count(pool.finished) },
    { name: "Cancelled", number: true, show: ([, pool]) => count(pool.cancelled) },
    { name: "Failed", number: true, show: ([, pool]) => count(pool.failed) },
    { name: "Prompt reused", number: true, show: ([, pool]) => (pool.prompt_tokens ? percent(pool.reused_tokens / pool.prompt_tokens) : NONE) },
  ], { caption: "Loaded models", wide: true });
}

function draw(found) {
  remember(found);
  show("state", found.session.state);
  show("uptime", `for ${duration(Math.max(1, Math.round(found.now_s - found.opened_s)))}`);
  drawTiles(found);
  drawHistory(found);
  drawMachine(found);
  drawFlights(found);
  drawContents(found);
  drawCurve(found);
  drawEntries(found);
  drawModels(found);
}

// -- asking ---------------------------------------------------------------------------------------

const banner = document.getElementById("banner");
const dot = document.querySelector(".dot");

function reached() {
  dot.dataset.state = "open";
  if (lost_s === null) return;
  lost_s = null;
  banner.classList.remove("shown");
  banner.textContent = "";
}

function lose(reason) {
  dot.dataset.state = "lost";
  lost_s ??= Date.now() / 1000;
  const text = `${reason} The numbers are those of ${time(lost_s, true)}; trying again.`;
  if (banner.textContent !== text) banner.textContent = text;
  banner.classList.add("shown");
  show("state", "no connection");
}

// Browsers do not fetch by an address with the name and the password that the page's may have.
const here = location.origin + location.pathname;

async function ask() {
  const since_s = history.at_s?.at(-1) ?? 0;
  try {
    const response = await fetch(new URL(`data?since=${since_s}`, here), { signal: AbortSignal.timeout(TIMEOUT_MS), cache: "no-store" });
    if (!response.ok) {
      const said = await response.json().then((body) => body.error?.message ?? body.error).catch(() => null);
      return lose(`The server answered with ${response.status}${said ? `: ${said}` : ""}.`);
    }
    draw(await response.json());
    reached();
  } catch (error) {
    if (error instanceof TypeError || error.name === "TimeoutError" || error instanceof SyntaxError) {
      lose("The server cannot be reached.");
    } else throw error;
  }
}

async function poll() {
  for (;;) {
    if (!document.hidden) await ask();
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

// -- theme ----------------------------------------------------------------------------------------

const themes = ["system", "light", "dark"];
const root = document.documentElement;

function nameTheme() {
  document.getElementById("theme-name").textContent = root.dataset.theme ?? "system";
}

document.getElementById("theme").addEventListener("click", () => {
  const next = themes[(themes.indexOf(root.dataset.theme ?? "system") + 1) % themes.length];
  if (next === "system") delete root.dataset.theme;
  else root.dataset.theme = next;
  try {
    localStorage.setItem("asteady-theme", next);
  } catch {
    // It holds for this page only.
  }
  nameTheme();
});
nameTheme();
poll();
