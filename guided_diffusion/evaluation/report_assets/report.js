// The gallery of the report: filters, a viewer, and marks.
// Text reaches the page through textContent alone, so that no name is ever read as HTML.
"use strict";
(() => {
const $ = (selector) => document.querySelector(selector);
const data = JSON.parse($("#data").textContent);
const samples = data.samples;
const grid = $("#grid"), filters = $("#filters"), viewer = $("#viewer");
const tiles = [...grid.children]; // in the order of the samples
let shown = []; // indices of the samples that pass the filters, in order
let cursor = 0; // the place in `shown` that has the focus, or had it last

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}
const number = (value, digits = 3) => value?.toFixed(digits) ?? "–";
const percent = (share) => `${number(100 * share, share < 0.1 ? 2 : 1)}%`;
const say = (text) => { $("#message").textContent = text; };

// --- filters -----------------------------------------------------------------------------------------------------

const MEASURES = [
  ["area", "defect area, % of image", (s) => 100 * Object.values(s.types).reduce((sum, type) => sum + type.share, 0)],
  ["agreement", "agreement with a segmenter (IoU)", (s) => s.agreement],
  ["distance", "distance to nearest training image", (s) => s.nearest_train?.distance],
].map(([key, label, of]) => ({ key, label, values: samples.map((sample) => of(sample) ?? null) }))
  .filter((measure) => measure.values.some((value) => value !== null));

const STATES = [
  ["", "all", () => true],
  ["kept", "kept", (s) => s.kept === true],
  ["dropped", "dropped", (s) => s.kept === false],
  ["copy", "near-copies of training images", (s) => s.nearest_train?.copy],
  ["duplicate", "near-duplicates of other samples", (s) => s.nearest_sample?.duplicate],
  ["empty", "empty masks", (s) => s.empty],
  ["speck", "masks of specks alone", (s) => s.speck],
].filter(([key, , test]) => !key || samples.some(test));

function buildFilters() {
  for (const { key, label } of MEASURES) {
    const [min, max] = ["min", "max"].map((end) =>
      element("input", { type: "number", step: "any", name: `${key}-${end}`, ariaLabel: `${label}, ${end}` }));
    $("#ranges").append(element("span", { className: "range" }, label, min, "to", max));
    filters.elements.sort.append(element("option", { value: key }, label));
  }
  for (const [value, label, test] of STATES) {
    filters.elements.status.append(element("option", { value }, `${label} (${samples.filter(test).length})`));
  }
}

function applyFilters() {
  const form = new FormData(filters);
  const name = form.get("name").trim().toLowerCase(), type = form.get("type");
  const state = STATES.find(([key]) => key === form.get("status"))[2];
  const ranges = MEASURES.map(({ key, values }) => [values, form.get(`${key}-min`), form.get(`${key}-max`)])
    .filter(([, min, max]) => min || max);
  const current = shown[cursor];
  shown = [...samples.keys()].filter((k) => {
    const sample = samples[k];
    return sample.name.toLowerCase().includes(name) && state(sample)
      && (!type || Object.hasOwn(sample.types, type))
      && (!form.get("mark") || (marks.get(sample.name) ?? "none") === form.get("mark"))
      && ranges.every(([values, min, max]) =>
        values[k] !== null && values[k] >= (min || -Infinity) && values[k] <= (max || Infinity));
  });
  const by = MEASURES.find(({ key }) => key === form.get("sort"))?.values ?? samples.map((_, k) => k);
  const sign = form.has("descending") ? -1 : 1;
  shown.sort((a, b) => (by[a] === null) - (by[b] === null) || sign * (by[a] - by[b]) || a - b); // unknown ones last
  grid.replaceChildren(...shown.map((k) => tiles[k]));
  const place = shown.indexOf(current);
  moveTo(place >= 0 ? place : cursor, false);
  showCount();
}

function showCount() {
  const count = (mark) => [...marks.values()].filter((value) => value === mark).length;
  $("#count").textContent = `${shown.length.toLocaleString("en")} of ${samples.length.toLocaleString("en")} samples, `
    + `${count("keep")} marked keep, ${count("drop")} marked drop.`;
}

function moveTo(place, focus = true) {
  for (const tile of grid.querySelectorAll("[tabindex='0']")) tile.tabIndex = -1;
  cursor = Math.max(0, Math.min(place, shown.length - 1));
  const tile = tiles[shown[cursor]];
  if (tile) tile.tabIndex = 0;
  if (focus) tile?.focus();
}

// --- marks -------------------------------------------------------------------------------------------------------

const storageKey = `defect-gen-report:${data.id}`;
let marks = new Map(); // name -> "keep" or "drop"

function changeMarks(next) {
  const inGrid = grid.contains(document.activeElement);
  marks = next;
  say("");
  try {
    localStorage.setItem(storageKey, JSON.stringify([...marks]));
  } catch { // some browsers deny it to pages from disk
    say("This browser does not keep marks: export them before closing the page.");
  }
  tiles.forEach(showMark);
  if (filters.elements.mark.value) applyFilters();
  showCount();
  if (inGrid) moveTo(cursor);
  if (viewer.open) shown.length ? showViewer() : viewer.close();
}
function showMark(tile, k) {
  const sample = samples[k], mark = marks.get(sample.name) ?? "";
  tile.dataset.mark = mark;
  tile.lastChild.textContent = { keep: "✓ keep", drop: "✕ drop" }[mark] ?? "";
  tile.classList.toggle("dropped", sample.kept === false);
  tile.title = sample.kept === false ? `dropped: ${sample.reason}` : sample.name;
}
function toggleMark(mark) {
  if (!shown.length) return;
  const { name } = samples[shown[cursor]];
  const next = new Map(marks);
  if (!next.delete(name) || marks.get(name) !== mark) next.set(name, mark);
  changeMarks(next);
}
function exportMarks() {
  const marked = (mark) => samples.map(({ name }) => name).filter((name) => marks.get(name) === mark);
  const text = JSON.stringify({ keep: marked("keep"), drop: marked("drop") }, null, 1) + "\n";
  const href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  element("a", { href, download: "marks.json" }).click();
  say("Exported: pass the file to curate.py --list.");
}
async function importMarks(file) {
  const next = new Map();
  let unknown = 0;
  try {
    const content = JSON.parse(await file.text());
    if (!("keep" in content || "drop" in content)) throw new TypeError();
    for (const mark of ["keep", "drop"]) {
      const names = content[mark] ?? [];
      if (!Array.isArray(names) || names.some((name) => typeof name !== "string")) throw new TypeError();
      for (const name of names) {
        if (samples.some((sample) => sample.name === name)) next.set(name, mark);
        else unknown += 1;
      }
    }
  } catch {
    say(`${file.name} was not imported: it should hold {"keep": [names], "drop": [names]}.`);
    return;
  }
  changeMarks(next);
  say(`Imported ${next.size} marks` + (unknown ? `; ${unknown} names are not in this report.` : "."));
}

// --- viewer and events -------------------------------------------------------------------------------------------

function showViewer() {
  const k = shown[cursor], sample = samples[k], near = sample.nearest_train, other = sample.nearest_sample;
  $("#viewer-title").textContent = sample.name;
  $("#viewer-place").textContent = `${cursor + 1} of ${shown.length}`;
  for (const button of viewer.querySelectorAll("[aria-pressed]")) {
    button.ariaPressed = String(marks.get(sample.name) === button.dataset.act);
  }
  $("#viewer-picture").replaceChildren(tiles[k].querySelector(".frame").cloneNode(true));
  const types = Object.entries(sample.types).map(([name, { share, pixels }]) => `${name}: ${percent(share)}, ${pixels} px`);
  const rows = [
    ["Types", types.join("; ") || "no defect"],
    ["Agreement (IoU)", sample.agreement !== null && number(sample.agreement, 2)],
    ["Nearest training image", near && `${near.name}${near.copy ? " (near-copy)" : ""}, ${number(near.distance)}`],
    ["Nearest sample", other && `${other.name}${other.duplicate ? " (near-duplicate)" : ""}, ${number(other.distance)}`],
    ["Pixels clipped beyond real images", sample.clipped && percent(sample.clipped)],
    ["Curation", sample.kept !== null && (sample.kept ? "kept" : `dropped: ${sample.reason}`)],
  ].filter(([, text]) => text);
  $("#viewer-details").replaceChildren(
    ...rows.flatMap(([term, text]) => [element("dt", {}, term), element("dd", {}, text)]));
  if (!viewer.open) viewer.showModal();
}

const ACTIONS = {
  previous: () => { moveTo(cursor - 1, false); showViewer(); },
  next: () => { moveTo(cursor + 1, false); showViewer(); },
  keep: () => toggleMark("keep"),
  drop: () => toggleMark("drop"),
  close: () => viewer.close(),
};
function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("select, input:not([type=checkbox])")) return;
  const columns = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
  const inViewer = { ArrowLeft: ACTIONS.previous, ArrowRight: ACTIONS.next, k: ACTIONS.keep, d: ACTIONS.drop };
  const inGrid = {
    ArrowLeft: () => moveTo(cursor - 1), ArrowRight: () => moveTo(cursor + 1),
    ArrowUp: () => moveTo(cursor < columns ? cursor : cursor - columns), ArrowDown: () => moveTo(cursor + columns),
    Home: () => moveTo(0), End: () => moveTo(shown.length - 1), k: ACTIONS.keep, d: ACTIONS.drop,
  };
  const here = viewer.open ? inViewer : { "/": () => filters.elements.name.focus(),
    ...(grid.contains(event.target) ? inGrid : {}) };
  const action = { m: () => $("#overlay").click(), ...here }[event.key];
  if (action) event.preventDefault();
  action?.();
}
document.addEventListener("keydown", onKey);
grid.addEventListener("click", ({ target }) => {
  const tile = target.closest(".tile");
  if (!tile) return;
  moveTo(shown.indexOf(tiles.indexOf(tile)), false);
  showViewer();
});
viewer.addEventListener("click", ({ target }) => ACTIONS[target.closest("[data-act]")?.dataset.act]?.());
viewer.addEventListener("close", () => moveTo(cursor));
filters.addEventListener("input", applyFilters);
filters.addEventListener("reset", () => setTimeout(applyFilters));
filters.addEventListener("submit", (event) => event.preventDefault());
$("#overlay").addEventListener("input", ({ target }) => document.body.classList.toggle("plain", !target.checked));
$("#export").addEventListener("click", exportMarks);
$("#import").addEventListener("change", async ({ target }) => {
  if (target.files.length) await importMarks(target.files[0]);
  target.value = "";
});
try {
  marks = new Map(JSON.parse(localStorage.getItem(storageKey) ?? "[]"));
} catch {} // as above
tiles.forEach(showMark);
buildFilters();
applyFilters();
})();
