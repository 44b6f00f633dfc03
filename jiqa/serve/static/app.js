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
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

const words = (key) => key.replaceAll("_", " ");

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
  try {
    about = await (await fetch("/api/about")).json();
  } catch {
    return fail("The server does not answer. Is it still running? Reload this page when it is.");
  }
  $("model").textContent = `${about.model} · ${scaleText()}`;
  $("limits").textContent =
    `Up to ${number(about.limits.file_bytes / 2 ** 20)} MiB and ${number(about.limits.pixels / 1e6)} megapixels each.`;
  addFacts($("card"), [["scale", scaleText()], ...Object.entries(about.card)]);
  $("show-map").hidden = !about.saliency;
}

function fail(message) {
  $("fatal").textContent = message;
  $("fatal").hidden = false;
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
    const item = { file, name, state: "waiting", result: null, element, again: true };
    element.querySelector(".name").textContent = name;
    element.querySelector(".name").title = name;
    element.querySelector("canvas").setAttribute("aria-label", name);
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
    canvas.remove();
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
  item.result = await request(item).catch((error) => ({ error: error.message }));
  item.state = item.result.error === null ? "scored" : "failed";
}

async function request(item) {
  if (item.file.size > about.limits.file_bytes) {
    throw new Error(`larger than ${number(about.limits.file_bytes / 2 ** 20)} MiB; save the image smaller`);
  }
  const body = new FormData();
  body.append("files", item.file, item.name);
  for (;;) {
    let answer;
    try {
      answer = await fetch(`/api/score?saliency=${about.saliency}`, { method: "POST", body });
    } catch {
      throw new Error("the server does not answer, or the file has changed since it was chosen");
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
  if (state === "failed") part(".error").textContent = result.error;
  if (state !== "scored") return;
  const { low, high } = about.scale;
  part("output").textContent = number(result.score);
  part("small").textContent = low === null ? "" : `of ${number(low)} to ${number(high)}`;
  const meter = part("meter");
  meter.hidden = low === null;
  if (low !== null) Object.assign(meter, { min: low, max: high, value: result.score });
  meter.setAttribute("aria-label", scaleText());
  const facts = [...Object.entries(result.columns).filter(([, value]) => value !== null), ["size", `${result.width} × ${result.height}`]];
  part(".facts").replaceChildren();
  addFacts(part(".facts"), facts);
  if (result.saliency) placeMap(part("canvas"), part(".map"), result.saliency);
}

function placeMap(canvas, map, source) {
  if (!canvas) return;
  map.src = source;
  map.hidden = !$("map").checked;
  // The map has a shape of its own: it is stretched over the image.
  const fit = () => Object.assign(map.style, { width: `${canvas.clientWidth}px`, height: `${canvas.clientHeight}px` });
  new ResizeObserver(fit).observe(canvas);
}

function summarise() {
  const scored = items.filter((item) => item.state === "scored"), failed = items.filter((item) => item.state === "failed");
  const waiting = items.length - scored.length - failed.length;
  const mean = scored.reduce((sum, item) => sum + item.result.score, 0) / scored.length;
  const parts = [`${plural(scored.length, "image")} scored`];
  if (scored.length) parts.push(`mean ${number(mean)}`);
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
$("map").addEventListener("change", (event) => {
  for (const map of document.querySelectorAll(".map[src]")) map.hidden = !event.target.checked;
});
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
  $("list").replaceChildren();
  $("results").hidden = true;
});
start();
