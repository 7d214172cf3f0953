// The gallery of the report: filters, a grid that holds visible tiles only, a viewer, and marks.
// Text reaches the page through textContent alone, so that no name is ever read as HTML.
"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const samples = data.samples;
const $ = (selector) => document.querySelector(selector);
const GAP = 10, CAPTION = 38, SHEETS_KEPT = 48;

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in node) node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}
const number = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const percent = (share) => `${number(100 * share, share < 0.001 ? 3 : share < 0.1 ? 2 : 1)}%`;
const count = (n) => n.toLocaleString("en");

// --- pictures ----------------------------------------------------------------------------------------------------

const sheets = new Map(); // id -> promise of its image; the last ones used
function load(id) {
  const sheet = sheets.get(id) ?? (() => {
    const image = new Image();
    image.src = document.getElementById(id).textContent;
    return image.decode().then(() => image);
  })();
  sheets.delete(id);
  sheets.set(id, sheet);
  if (sheets.size > SHEETS_KEPT) sheets.delete(sheets.keys().next().value);
  return sheet;
}

const overlay = () => ($("#overlay").checked ? Number($("#opacity").value) : 0);

// Where picture `index` lies: {sheet, x, y, height, width}. Training images have a sheet each and their own size.
function locate(kind, index) {
  if (kind === "train") {
    const [height, width] = data.train[index].shown;
    return { sheet: index, x: 0, y: 0, height, width };
  }
  const { size: [height, width], cell, sheet: [rows, columns] } = data.album;
  const sheet = Math.floor(index / (rows * columns)), k = index % (rows * columns);
  return { sheet, height, width, x: (k % columns) * cell[1], y: Math.floor(k / columns) * cell[0] };
}

// A canvas with picture `index`, or the part {x, y, height, width, flip} of it, in pixels of the picture.
function picture(kind, index, label, part) {
  const at = locate(kind, index);
  const { x, y, width, height, flip } = { x: 0, y: 0, flip: "none", width: at.width, height: at.height, ...part };
  const canvas = element("canvas", { width, height, role: "img", "aria-label": label });
  canvas.repaint = async () => {
    const [image, mask] = await Promise.all(["image", "mask"].map((of) => load(`${kind}-${of}-${at.sheet}`)));
    const context = canvas.getContext("2d");
    canvas.width = width; // clears it
    if (flip.includes("h")) context.transform(-1, 0, 0, 1, width, 0);
    if (flip.includes("v")) context.transform(1, 0, 0, -1, 0, height);
    context.translate(-x, -y);
    context.imageSmoothingEnabled = false;
    for (const [source, alpha] of [[image, 1], [mask, overlay()]]) {
      context.globalAlpha = alpha;
      context.drawImage(source, at.x, at.y, at.width, at.height, 0, 0, at.width, at.height);
    }
    canvas.dataset.painted = String(overlay());
  };
  canvas.repaint();
  return canvas;
}

function repaint() {
  for (const canvas of document.querySelectorAll("canvas")) canvas.repaint();
}

// --- marks -------------------------------------------------------------------------------------------------------

const storageKey = `defect-gen-report:${data.id}`;
let marks = new Map(); // name -> "keep" or "drop"
const undoable = []; // former marks, one Map for each change

// Some browsers deny localStorage to pages from disk. The tab's history entry then keeps marks over a reload.
function readMarks() {
  try {
    return JSON.parse(localStorage.getItem(storageKey) ?? "{}");
  } catch {
    return history.state?.[storageKey] ?? {};
  }
}
function storeMarks() {
  const plain = Object.fromEntries(marks);
  try {
    localStorage.setItem(storageKey, JSON.stringify(plain));
  } catch {
    history.replaceState({ [storageKey]: plain }, "");
    say("This browser keeps marks for this tab only: export them before closing it.");
  }
}

function toggleMark(mark) {
  const { name } = samples[shown[cursor]];
  const next = new Map(marks);
  if (!next.delete(name) || marks.get(name) !== mark) next.set(name, mark);
  undoable.push(marks);
  changeMarks(next);
}
function undo() {
  if (undoable.length) changeMarks(undoable.pop());
}
function changeMarks(next) {
  const inGrid = grid.contains(document.activeElement);
  marks = next;
  say("");
  storeMarks();
  showCount();
  if ($("#filters").elements.mark.value) applyFilters();
  else for (const [position, tile] of tiles) markTile(tile, shown[position]);
  if (inGrid && shown.length) moveTo(cursor);
  if ($("#viewer").open) {
    if (shown.length) showViewer();
    else $("#viewer").close();
  }
}

const marked = (mark) => samples.map((sample) => sample.name).filter((name) => marks.get(name) === mark);

function exportMarks() {
  const text = JSON.stringify({ keep: marked("keep"), drop: marked("drop") }, null, 1) + "\n";
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  element("a", { href: url, download: "marks.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
  say("Exported: pass the file to scripts/curate.py --list.");
}
async function importMarks(file) {
  let lists;
  try {
    const content = JSON.parse(await file.text());
    lists = ["keep", "drop"].map((mark) => content[mark] ?? []);
    if (!("keep" in content || "drop" in content)) throw new TypeError();
    const isNames = (list) => Array.isArray(list) && list.every((name) => typeof name === "string");
    if (!lists.every(isNames)) throw new TypeError();
  } catch {
    say(`${file.name} was not imported: it should hold {"keep": [names], "drop": [names]}.`);
    return;
  }
  const known = new Set(samples.map((sample) => sample.name));
  const next = new Map();
  let unknown = 0;
  for (const [k, name] of lists.flatMap((list, k) => list.map((name) => [k, name]))) {
    if (known.has(name)) next.set(name, ["keep", "drop"][k]);
    else unknown += 1;
  }
  undoable.push(marks);
  changeMarks(next);
  say(`Imported ${count(next.size)} marks` + (unknown ? `; ${count(unknown)} names are not in this report.` : "."));
}

// --- filters -----------------------------------------------------------------------------------------------------

const MEASURES = [
  ["area", "Defect area, % of image", (s) => 100 * Object.values(s.types).reduce((sum, type) => sum + type.share, 0)],
  ["agreement", "Agreement with a segmenter (IoU)", (s) => s.agreement],
  ["distance", "Distance to nearest training image", (s) => s.nearest_train?.distance],
  ["feature_distance", "The same in feature space", (s) => s.nearest_train?.feature_distance],
].map(([key, label, of]) => ({ key, label, values: samples.map((sample) => of(sample) ?? null) }))
  .filter((measure) => measure.values.some((value) => value !== null));

const STATES = [
  ["", "all", () => true],
  ["kept", "kept", (s) => s.kept === true],
  ["dropped", "dropped", (s) => s.kept === false],
  ...[...new Set(samples.filter((s) => s.kept === false).map((s) => s.rule))].sort()
    .map((rule) => [`dropped:${rule}`, `dropped: ${rule}`, (s) => s.kept === false && s.rule === rule]),
  ["copy", "near-copies of training images", (s) => s.nearest_train?.copy === true],
  ["duplicate", "near-duplicates of other samples", (s) => s.nearest_sample?.duplicate === true],
  ["empty", "empty masks", (s) => s.empty],
  ["speck", "masks of specks alone", (s) => s.speck === true],
].map(([key, label, test]) => ({ key, label, test, number: samples.filter(test).length }))
  .filter((state) => state.key === "" || state.number);

let shown = []; // indices of the samples that pass, in order
let cursor = 0; // the place in `shown` that has the focus, or had it last

function buildFilters() {
  for (const [k, name] of data.class_names.entries()) {
    const number = samples.filter((sample) => Object.hasOwn(sample.types, name)).length;
    const box = element("input", { type: "checkbox", name: "type", value: String(k) });
    $("#types").append(element("label", {}, box, swatch(k), element("span", { className: "name" }, name),
      element("span", { className: "number" }, count(number))));
  }
  $("#sort").append(element("option", { value: "" }, "Name"));
  for (const { key, label, values } of MEASURES) {
    const known = values.filter((value) => value !== null);
    const inputs = ["min", "max"].map((end) => element("input", {
      type: "number", step: "any", name: `${key}-${end}`, "aria-label": `${label}, ${end}`,
      placeholder: known.reduce((a, b) => Math[end](a, b)).toFixed(2),
    }));
    $("#ranges").append(element("div", { className: "range" }, element("span", {}, label), inputs[0], "to", inputs[1]));
    $("#sort").append(element("option", { value: key }, label));
  }
  for (const { key, label, number } of STATES) {
    $("#status").append(element("option", { value: key }, `${label} (${count(number)})`));
  }
}

function swatch(k) {
  const node = element("span", { className: "swatch" });
  node.style.background = data.colours[k];
  return node;
}

function applyFilters() {
  const form = new FormData($("#filters"));
  const types = form.getAll("type").map((k) => data.class_names[k]);
  const name = form.get("name").trim().toLowerCase();
  const state = STATES.find(({ key }) => key === form.get("status"));
  const mark = form.get("mark");
  const limit = (field, none) => (form.get(field) === "" ? none : Number(form.get(field)));
  const ranges = MEASURES
    .map(({ key, values }) => ({ values, low: limit(`${key}-min`, -Infinity), high: limit(`${key}-max`, Infinity) }))
    .filter(({ low, high }) => low !== -Infinity || high !== Infinity);
  shown = [...samples.keys()].filter((i) => {
    const sample = samples[i];
    return (!types.length || types.some((type) => Object.hasOwn(sample.types, type)))
      && sample.name.toLowerCase().includes(name)
      && state.test(sample)
      && (!mark || (marks.get(sample.name) ?? "none") === mark)
      && ranges.every(({ values, low, high }) => values[i] !== null && values[i] >= low && values[i] <= high);
  });
  const by = MEASURES.find(({ key }) => key === $("#sort").value)?.values;
  const sign = $("#descending").checked ? -1 : 1;
  if (by) shown.sort((a, b) => (by[a] === null) - (by[b] === null) || sign * (by[a] - by[b]) || a - b);
  else if (sign < 0) shown.reverse();
  cursor = Math.max(0, Math.min(cursor, shown.length - 1));
  for (const tile of tiles.values()) tile.remove();
  tiles.clear();
  showCount();
  layOut();
}

function showCount() {
  $("#count").textContent = `${count(shown.length)} of ${count(samples.length)} samples shown · `
    + `${count(marked("keep").length)} marked keep, ${count(marked("drop").length)} marked drop`;
  $("#undo").disabled = !undoable.length;
}
function say(text) {
  $("#message").textContent = text;
}

// --- the grid: tiles of the visible rows and of the cursor, placed by their number --------------------------------

const grid = $("#grid");
const tiles = new Map(); // place in `shown` -> its tile
let columns = 1, tileWidth = 0, rowHeight = 1;

function layOut() {
  const width = grid.clientWidth;
  columns = Math.max(2, Math.floor((width + GAP) / (Number($("#size").value) + GAP)));
  tileWidth = Math.floor((width - GAP * (columns - 1)) / columns);
  rowHeight = Math.round(tileWidth * data.album.size[0] / data.album.size[1]) + CAPTION + GAP;
  grid.style.height = `${Math.ceil(shown.length / columns) * rowHeight}px`;
  $("#nothing").hidden = shown.length > 0;
  for (const [position, tile] of tiles) place(tile, position);
  showTiles();
}
function place(tile, position) {
  const left = (position % columns) * (tileWidth + GAP), top = Math.floor(position / columns) * rowHeight;
  const box = { left, top, width: tileWidth, height: rowHeight - GAP };
  for (const side in box) tile.style[side] = `${box[side]}px`;
}
function showTiles() {
  const top = -grid.getBoundingClientRect().top;
  const first = Math.max(0, Math.floor(top / rowHeight) - 1) * columns;
  const end = Math.min(shown.length, (Math.ceil((top + window.innerHeight) / rowHeight) + 1) * columns);
  for (const [position, tile] of tiles) {
    if ((position < first || position >= end) && position !== cursor) {
      tile.remove();
      tiles.delete(position);
    }
  }
  for (let position = first; position < end; position++) addTile(position);
  if (shown.length) addTile(cursor);
  for (const [position, tile] of tiles) tile.tabIndex = position === cursor ? 0 : -1;
}
function addTile(position) {
  if (tiles.has(position)) return;
  const index = shown[position];
  const sample = samples[index];
  const names = Object.keys(sample.types);
  const caption = element("span", { className: "types" },
    ...names.slice(0, 3).map((name) => swatch(data.class_names.indexOf(name))),
    names.length ? names.join(", ") : "no defect");
  const tile = element("button", { type: "button", className: "tile" }, picture("samples", index, ""),
    element("span", { className: "title" }, sample.name), caption, element("span", { className: "badge" }));
  tile.dataset.position = position;
  markTile(tile, index);
  place(tile, position);
  tiles.set(position, tile);
  grid.append(tile);
}
function markTile(tile, index) {
  const sample = samples[index];
  const mark = marks.get(sample.name);
  tile.dataset.mark = mark ?? "";
  tile.classList.toggle("dropped", sample.kept === false);
  tile.lastChild.textContent = mark === "keep" ? "✓ keep" : mark === "drop" ? "✕ drop" : "";
  const notes = [sample.name, Object.keys(sample.types).join(", ") || "no defect"];
  if (sample.kept === false) notes.push(`dropped: ${sample.reason}`);
  if (mark) notes.push(`marked ${mark}`);
  tile.setAttribute("aria-label", notes.join("; "));
  tile.title = notes.join("\n");
}
function moveTo(position, focus = true) {
  cursor = Math.max(0, Math.min(position, shown.length - 1));
  const top = grid.getBoundingClientRect().top + Math.floor(cursor / columns) * rowHeight;
  const edge = window.innerHeight - rowHeight;
  if (top < 0 || top > edge) window.scrollBy(0, top < 0 ? top - GAP : top - edge);
  showTiles();
  if (focus) tiles.get(cursor)?.focus({ preventScroll: true });
}

// --- the viewer: a sample large, beside the training image that is nearest to it ----------------------------------

function showViewer() {
  const index = shown[cursor];
  const sample = samples[index];
  $("#viewer-title").textContent = sample.name;
  $("#viewer-place").textContent = `${count(cursor + 1)} of ${count(shown.length)}`;
  for (const button of document.querySelectorAll("#viewer [aria-pressed]")) {
    button.setAttribute("aria-pressed", String(marks.get(sample.name) === button.dataset.act));
  }
  const figures = [figure("Sample", picture("samples", index, `sample ${sample.name}`))];
  const near = sample.nearest_train;
  const train = trainIndex(near);
  if (train >= 0) figures.push(...matchFigures(near, train));
  else if (near) figures.push(figure("The training images are not in this report: give --train."));
  $("#viewer-pictures").replaceChildren(...figures);
  $("#viewer-details").replaceChildren(...details(sample).flatMap(([term, value]) =>
    [element("dt", {}, term), element("dd", {}, value)]));
  if (!$("#viewer").open) {
    $("#viewer").showModal();
    $("#viewer-title").focus();
  }
}
function figure(caption, ...content) {
  return element("figure", {}, element("div", { className: "frame" }, ...content), element("figcaption", {}, caption));
}

const trainIndex = (near) => data.train.findIndex(({ name }) => name === near?.name);

// The part of training image `train` that the sample resembles, flipped as the sample shows it.
function matchedPart(near, train) {
  const { size, shown } = data.train[train];
  const scale = shown[0] / size[0];
  const [height, width] = data.match_size.map((side) => Math.round(side * scale));
  const part = { x: near.left * scale, y: near.top * scale, width, height, flip: near.flip };
  return picture("train", train, `nearest part of ${near.name}`, part);
}

// That part, unless it is the whole image as it is; and the whole image with the part's place.
function matchFigures(near, train) {
  const { name, size: [height, width] } = data.train[train];
  const [h, w] = data.match_size;
  const box = element("span", { className: "box" });
  Object.assign(box.style, {
    left: `${100 * near.left / width}%`, top: `${100 * near.top / height}%`,
    width: `${100 * w / width}%`, height: `${100 * h / height}%`,
  });
  const whole = figure(`Training image ${name}`, picture("train", train, `training image ${name}`), box);
  if (h === height && w === width && near.flip === "none") return [whole];
  const flipped = { none: "", h: ", flipped left-right", v: ", flipped upside down", hv: ", turned by 180°" };
  return [figure(`Nearest part of a training image${flipped[near.flip]}`, matchedPart(near, train)), whole];
}

function details(sample) {
  const types = Object.entries(sample.types).map(([name, { share, pixels, regions }]) =>
    `${name}: ${percent(share)}, ${count(pixels)} px` + (regions > 1 ? ` in ${regions} regions` : ""));
  const rows = [["Types", types.join("; ") || "no defect"]];
  const near = sample.nearest_train;
  if (sample.agreement !== null) rows.push(["Agreement (IoU)", number(sample.agreement, 2)]);
  if (near) {
    rows.push(["Nearest training image", near.name + (near.copy ? " (near-copy)" : "")]);
    rows.push(["Distance to it", `${number(near.distance)}; in feature space ${number(near.feature_distance)}`]);
  }
  const other = sample.nearest_sample;
  if (other) {
    const note = other.duplicate ? " (near-duplicate)" : "";
    rows.push(["Nearest sample", `${other.name}${note}, distance ${number(other.distance)}`]);
  }
  if (sample.clipped) rows.push(["Pixels clipped beyond real images", percent(sample.clipped)]);
  if (sample.kept !== null) rows.push(["Curation", sample.kept ? "kept" : `dropped: ${sample.reason}`]);
  return rows;
}

// --- events ------------------------------------------------------------------------------------------------------

const ACTIONS = {
  previous: () => { moveTo(cursor - 1, false); showViewer(); },
  next: () => { moveTo(cursor + 1, false); showViewer(); },
  keep: () => toggleMark("keep"),
  drop: () => toggleMark("drop"),
  close: () => $("#viewer").close(),
};

function onKey(event) {
  const target = event.target;
  if (event.ctrlKey || event.metaKey || event.altKey || $("#shortcuts").open) return;
  if (target.matches("select, textarea, input:not([type=checkbox]):not([type=range])")) return;
  const open = $("#viewer").open;
  const inGrid = grid.contains(target);
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const anywhere = {
    "?": () => $("#shortcuts").showModal(),
    m: () => { $("#overlay").checked = !$("#overlay").checked; repaint(); },
    u: undo,
    "/": () => { if (!open) $("#filters").elements.name.focus(); },
  };
  const inViewer = { ArrowLeft: ACTIONS.previous, ArrowRight: ACTIONS.next, k: ACTIONS.keep, d: ACTIONS.drop };
  const onTile = {
    ArrowLeft: () => moveTo(cursor - 1), ArrowRight: () => moveTo(cursor + 1),
    ArrowUp: () => moveTo(cursor < columns ? cursor : cursor - columns), ArrowDown: () => moveTo(cursor + columns),
    Home: () => moveTo(0), End: () => moveTo(shown.length - 1),
    k: ACTIONS.keep, d: ACTIONS.drop,
  };
  const action = (open ? inViewer : inGrid ? onTile : {})[key] ?? anywhere[key];
  if (!action) return;
  event.preventDefault();
  action();
}

function listen() {
  document.addEventListener("keydown", onKey);
  grid.addEventListener("click", (event) => {
    const tile = event.target.closest(".tile");
    if (!tile) return;
    moveTo(Number(tile.dataset.position));
    showViewer();
  });
  $("#viewer").addEventListener("click", (event) => ACTIONS[event.target.closest("[data-act]")?.dataset.act]?.());
  $("#viewer").addEventListener("close", () => { if (shown.length) moveTo(cursor); });
  $("#filters").addEventListener("input", applyFilters);
  $("#filters").addEventListener("reset", () => setTimeout(applyFilters));
  $("#filters").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["#sort", "#descending"]) $(id).addEventListener("change", applyFilters);
  for (const id of ["#overlay", "#opacity"]) $(id).addEventListener("input", repaint);
  $("#size").addEventListener("input", layOut);
  $("#undo").addEventListener("click", undo);
  $("#export").addEventListener("click", exportMarks);
  $("#import").addEventListener("click", () => $("#import-file").click());
  $("#import-file").addEventListener("change", async (event) => {
    if (event.target.files.length) await importMarks(event.target.files[0]);
    event.target.value = "";
  });
  $("#help").addEventListener("click", () => $("#shortcuts").showModal());
  const later = (action, queued = false) => () => {
    if (!queued) requestAnimationFrame(() => { queued = false; action(); });
    queued = true;
  };
  window.addEventListener("scroll", later(showTiles), { passive: true });
  new ResizeObserver(later(layOut)).observe(grid);
}

// The closest pairs, further up on the page.
function fillPairs() {
  for (const button of document.querySelectorAll("[data-sample]")) {
    const index = samples.findIndex(({ name }) => name === button.dataset.sample);
    const near = samples[index].nearest_train;
    button.firstChild.append(picture("samples", index, "sample"), matchedPart(near, trainIndex(near)));
    button.addEventListener("click", () => {
      if (!shown.includes(index)) $("#filters").reset(), applyFilters();
      cursor = shown.indexOf(index);
      showViewer();
    });
  }
}

marks = new Map(Object.entries(readMarks()));
if (matchMedia("(max-width: 760px)").matches) $(".filters").open = false;
buildFilters();
listen();
applyFilters();
fillPairs();
})();
