"use strict";
// Everything that comes from outside (file names, the card, errors) reaches the page as textContent only.

const PARALLEL = 4;        // requests at a time, one image each: every image answers for itself
const THUMBNAIL = 480;     // pixels of the longer side
const $ = (id) => document.getElementById(id);

let about = null;
let items = [];            // {file, name, state: waiting|scored|failed, result, element, again}
let running = 0;

const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));
const number = (value) => value.toLocaleString("en", { maximumSignificantDigits: 4, useGrouping: false });
const percent = (share) => `${Math.round(100 * share)} %`;
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const words = (key) => key.replaceAll("_", " ");

// All scores of a page have as many decimals as their range needs: 71.4 of 100, 3.72 of 5.
function scoreText(value) {
  const { low, high } = about.scale;
  return value.toFixed(low === null ? 3 : Math.max(0, 3 - Math.ceil(Math.log10(high - low))));
}

// Half of the range in which 90 % of the human scores are meant to lie.
const give = (result) => (result.columns.score_std === undefined ? null : 1.645 * result.columns.score_std);
const valueText = (result) => scoreText(result.score) + (give(result) === null ? "" : ` ± ${scoreText(give(result))}`);

function describe(value) {
  if (value === null || value === undefined) return "";
  if (Array.isArray(value)) return value.map(describe).join(value.some((one) => typeof one === "object") ? "\n\n" : ", ");
  if (typeof value === "object") return Object.entries(value).map(([k, v]) => `${words(k)}: ${describe(v)}`).join("\n");
  return String(value);
}

function addFacts(list, facts) {
  for (const [key, value] of facts) {
    const term = document.createElement("dt"), text = document.createElement("dd");
    term.textContent = words(key);
    text.textContent = typeof value === "number" ? number(value) : describe(value);
    list.append(term, text);
  }
}

function scaleText() {
  const { low, high, higher_is_better: up } = about.scale;
  const range = low === null ? "no fixed range" : `${number(low)} to ${number(high)}`;
  return `${range}, ${up ? "higher" : "lower"} is better`;
}

async function start() {
  about = await fetchAbout();
  $("model").textContent = `${about.model} · ${scaleText()}`;
  $("limits").textContent =
    `Up to ${number(about.limits.file_bytes / 2 ** 20)} MiB and ${number(about.limits.pixels / 1e6)} megapixels each.`;
  addFacts($("card"), [["scale", scaleText()], ...Object.entries(about.card)]);
  for (const text of meaning(about.card)) {
    const paragraph = document.createElement("p");
    paragraph.textContent = text;
    $("meaning").append(paragraph);
  }
}

// What the card says, for people.
function* meaning({ score, weights }) {
  const test = score?.head?.test ?? score?.test, facts = score?.head ?? test;
  yield `A score predicts how people would rate the technical quality of a photograph on average: ${scaleText()}.`;
  if (test?.within_90_percent_intervals) {
    yield `± is meant to hold the human score of 90 % of images; of the test images it held that of ${percent(test.within_90_percent_intervals)}.`;
  }
  const pairs = Object.entries(test?.pairs_ordered_alike_by_points ?? {});
  if (pairs.length) {
    const text = pairs.map(([points, share]) => `${plural(Number(points), "point")}: ${percent(share)}`).join(", ");
    yield `How often people prefer the image with the higher score, by the difference of the two scores: ${text}.`;
  }
  yield test
    ? `Measured on ${test.images} images of ${facts.database} that it has not seen: SRCC ${test.srcc.toFixed(3)}, PLCC ${test.plcc.toFixed(3)}; 1 would be the order that people see.`
    : "How good it is has not been measured, as far as its card knows.";
  for (const network of weights ?? []) {
    yield `Trained on ${network.trained_on}. Licence: ${network.licence}.`;
    yield* network.notes ?? [];
  }
  yield `Images are sent to ${location.host}, scored there in memory, and not stored.`;
}

// ---- the server comes and goes

let lost = null;           // while the server does not answer: a promise of its return

function banner(text) {
  $("banner").textContent = text;
  $("banner").hidden = !text;
}

const answers = () => fetch("/livez", { signal: AbortSignal.timeout(5000) }).then((answer) => answer.ok, () => false);

async function fetchAbout() {
  for (;;) {
    try {
      return await (await fetch("/api/about")).json();
    } catch {
      await returned();
    }
  }
}

function returned() {
  lost ??= (async () => {
    banner("The server does not answer. Is it still running? Nothing on this page is lost; scoring goes on when the server is back.");
    while (!(await answers())) await pause(2);
    lost = null;
    if (about && JSON.stringify(await fetchAbout()) !== JSON.stringify(about)) {
      banner("The server now has another model. Save the table, then reload this page: scores of two models cannot be compared.");
      throw new Error("the server has another model now; reload this page");
    }
    banner("");
  })();
  return lost;
}

async function check() {
  if (about && !lost && !document.hidden && !(await answers())) returned().catch(() => {});
}

// ---- images in

async function walk(entry, path) {
  if (entry.isFile) {
    const file = await new Promise((done, failed) => entry.file(done, failed));
    return [{ file, name: path + file.name }];
  }
  const reader = entry.createReader(), found = [];
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) break;
    for (const inside of some) found.push(...(await walk(inside, `${path}${entry.name}/`)));
  }
  // Whatever else lies in a folder is left alone; a file that was dropped itself is always tried.
  return found.filter(({ file }) => file.type.startsWith("image/") || /\.(jp2|tiff?|p[gp]m)$/i.test(file.name));
}

async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return add([...transfer.files].map((file) => ({ file, name: file.name })));
  for (const entry of entries) add(await walk(entry, ""));
}

function add(found) {
  if (!about) return;
  for (const { file, name } of found) {
    const element = $("row").content.firstElementChild.cloneNode(true);
    const item = { file, name, state: "waiting", result: null, map: null, element, again: true };
    element.querySelector(".name").textContent = name;
    element.querySelector(".name").title = name;
    element.querySelector("canvas").setAttribute("aria-label", name);
    element.querySelector(".frame").addEventListener("click", () => openViewer([item]));
    element.querySelector(".where").addEventListener("click", () => toggleMap(item));
    element.querySelector(".pick").addEventListener("click", () => pick(item));
    items.push(item);
    $("list").append(element);
    show(item);
  }
  $("results").hidden = items.length === 0;
  summarise();
  work();
}

async function drawThumbnail({ file, element }) {
  const canvas = element.querySelector("canvas");
  try {
    // As the model sees it: without the rotation that a camera notes beside the pixels.
    const whole = await createImageBitmap(file, { imageOrientation: "none" });
    const shrink = Math.min(1, THUMBNAIL / Math.max(whole.width, whole.height));
    canvas.width = Math.max(1, Math.round(whole.width * shrink));
    canvas.height = Math.max(1, Math.round(whole.height * shrink));
    canvas.getContext("2d").drawImage(whole, 0, 0, canvas.width, canvas.height);
    whole.close();
  } catch {
    // A format that the browser cannot show, such as TIFF; the server may read it all the same.
    canvas.parentNode.hidden = true;
    element.querySelector(".blind").hidden = false;
  }
}

// ---- scores

function work() {
  while (running < PARALLEL) {
    const item = items.find((one) => one.again);
    if (!item) break;
    item.again = false;
    item.state = "waiting";
    running += 1;
    Promise.all([item.result ? null : drawThumbnail(item), score(item)]).finally(() => {
      running -= 1;
      if (items.includes(item)) show(item);
      summarise();
      work();
    });
  }
}

async function score(item) {
  item.result = await request(item, false).catch((error) => ({ error: error.message }));
  item.state = item.result.error === null ? "scored" : "failed";
}

async function request(item, saliency) {
  if (item.file.size > about.limits.file_bytes) {
    throw new Error(`larger than ${number(about.limits.file_bytes / 2 ** 20)} MiB; save the image smaller`);
  }
  const body = new FormData();
  body.append("files", item.file, item.name);
  for (;;) {
    let answer;
    try {
      answer = await fetch(`/api/score?saliency=${saliency}`, { method: "POST", body });
    } catch {
      if (await answers()) throw new Error("could not be sent; has the file changed since it was chosen?");
      await returned();
      continue;
    }
    if (answer.status === 503) {
      await pause(Number(answer.headers.get("Retry-After")) || 1);
      continue;
    }
    const told = await answer.json().catch(() => ({ error: `the server failed (${answer.status})` }));
    if (!answer.ok) throw new Error(told.error ?? `the server failed (${answer.status})`);
    return told.results[0];
  }
}

function show({ element, state, result }) {
  const part = (selector) => element.querySelector(selector);
  part(".score").classList.toggle("pending", state === "waiting");
  part(".score").hidden = state === "failed";
  part(".error").hidden = state !== "failed";
  part(".actions").hidden = state !== "scored";
  if (state === "failed") part(".error").textContent = result.error;
  if (state !== "scored") return;
  part("output").textContent = scoreText(result.score);
  part(".give").textContent = valueText(result).slice(part("output").textContent.length);
  part(".where").hidden = !about.saliency;
  drawRange(part(".range"), result);
  part(".facts").replaceChildren();
  addFacts(part(".facts"), facts(result));
}

// The score on its scale, with the range around it.
function drawRange(range, result) {
  const { low, high } = about.scale, half = give(result) ?? 0;
  const at = (value) => (100 * (Math.min(high, Math.max(low, value)) - low)) / (high - low);
  range.hidden = low === null;
  const [band, mark] = range.children, { score: value } = result;
  mark.style.left = `${at(value)}%`;
  Object.assign(band.style, { left: `${at(value - half)}%`, right: `${100 - at(value + half)}%` });
  for (const [name, now] of [["min", low], ["max", high], ["now", value]]) range.setAttribute(`aria-value${name}`, now);
  range.setAttribute("aria-label", scaleText());
}

function facts({ columns, width, height }) {
  const shown = [];
  for (const [key, value] of Object.entries(columns)) {
    const probability = columns[`${key}_probability`];
    if (value === null || key === "score_std" || key.endsWith("_probability")) continue;
    shown.push([key, probability === undefined ? value : `${value} (${percent(probability)})`]);
  }
  return [...shown, ["size", `${width} × ${height}`]];
}

// ---- maps and comparisons

// Puts the map of an image into an <img>, which it fetches once; returns what the map shows.
async function showMap(item, image) {
  item.map ??= request(item, true).catch((error) => ({ error: error.message }));
  const { saliency, saliency_shows: shows, error } = await item.map;
  if (error) item.map = null;
  if (saliency && image) image.src = saliency;
  return error ?? shows ?? "";
}

async function toggleMap(item) {
  const [button, map, error] = [".where", ".map", ".error"].map((selector) => item.element.querySelector(selector));
  const pressed = () => button.getAttribute("aria-pressed") === "true";
  button.setAttribute("aria-pressed", !pressed());
  if (pressed()) button.title = await showMap(item, map);
  map.hidden = !pressed() || !map.src;
  error.hidden = !pressed() || Boolean(map.src);
  if (!error.hidden) error.textContent = button.title;
}

let picked = null;         // the image that waits for another to be compared with

function pick(item) {
  const both = picked && picked !== item ? [picked, item] : null;
  picked?.element.querySelector(".pick").setAttribute("aria-pressed", false);
  picked = both || picked === item ? null : item;
  picked?.element.querySelector(".pick").setAttribute("aria-pressed", true);
  for (const button of document.querySelectorAll(".pick")) button.textContent = picked ? "with this" : "Compare";
  if (picked) picked.element.querySelector(".pick").textContent = "Compare";
  if (both) openViewer(both);
}

function summarise() {
  const scored = items.filter((item) => item.state === "scored"), failed = items.filter((item) => item.state === "failed");
  const waiting = items.length - scored.length - failed.length;
  const mean = scored.reduce((sum, item) => sum + item.result.score, 0) / scored.length;
  const parts = [`${plural(scored.length, "image")} scored`];
  if (scored.length) parts.push(`mean ${scoreText(mean)}`);
  if (failed.length) parts.push(`${failed.length} failed`);
  if (waiting) parts.push(`${waiting} to go`);
  $("summary").textContent = parts.join(" · ");
  $("download").disabled = waiting > 0 || items.length === 0;
  $("retry").hidden = failed.length === 0;
  if (!waiting) arrange();
}

function arrange() {
  const order = $("order").value, sorted = [...items];
  const better = about.scale.higher_is_better ? 1 : -1;
  const value = (item) => (item.state === "scored" ? item.result.score * better : null);
  if (order === "name") sorted.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
  if (order === "worst" || order === "best") {
    sorted.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null);  // failures last
      return order === "worst" ? x - y : y - x;
    });
  }
  $("list").replaceChildren(...sorted.map((item) => item.element));
}

// ---- table out

function cell(value) {
  if (value === null || value === undefined) return "";
  let text = String(value);
  // A spreadsheet takes such a text for a formula and runs it.
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function table() {
  const columns = [...new Set(items.flatMap((item) => Object.keys(item.result?.columns ?? {})))];
  const rows = items.map(({ name, result }) => [
    name, result?.score, ...columns.map((column) => result?.columns?.[column]), result?.width, result?.height, result?.error,
  ]);
  const head = ["name", "score", ...columns, "width", "height", "error"];
  return [head, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
  link.download = "scores.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// ---- wiring

$("files").addEventListener("change", (event) => {
  add([...event.target.files].map((file) => ({ file, name: file.webkitRelativePath || file.name })));
  event.target.value = "";
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") dropped(event.dataTransfer);
  });
}
$("order").addEventListener("change", arrange);
$("download").addEventListener("click", download);
$("retry").addEventListener("click", () => {
  for (const item of items.filter((one) => one.state === "failed")) {
    Object.assign(item, { again: true, state: "waiting" });
    show(item);
  }
  summarise();
  work();
});
$("clear").addEventListener("click", () => {
  items = [];
  picked = null;
  $("list").replaceChildren();
  $("results").hidden = true;
});
addEventListener("focus", check);
setInterval(check, 10000);
start();
