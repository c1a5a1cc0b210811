// The query and its answer. The query lives in the address: reload, back and a copied address show the same results.
// Texts are set as text, never as HTML.

import { ask, button, byId, element, later, picture, roving } from "./dom.js";
import { drawGallery, openGallery } from "./gallery.js";
import { takePictures } from "./reference.js";
import { openViewer, viewResult } from "./viewer.js";

const START = { references: [], description: "", mix: "", follow: 100, k: 12, compare: false };
const state = { ...START };
const limits = { upload: 0, references: 1 };
let maps = [];
let lastKind = "";

// The address

function readAddress() {
  const query = new URLSearchParams(location.search);
  Object.assign(state, START, {
    description: query.get("q") ?? "",
    mix: query.get("mix") ?? START.mix,
    follow: Number(query.get("follow") ?? START.follow),
    k: Number(query.get("k") ?? START.k),
    compare: query.has("compare"),
  });
  state.references = query.getAll("ref").map((ref) => {
    const [, kind, key] = ref.match(/^(name|upload):(.*)$/s) ?? [, "name", ref];
    return { [kind]: key, label: kind === "name" ? key : "", picture: `/thumbnail?${kind}=${encodeURIComponent(key)}` };
  });
}

function writeAddress(kind) {
  const query = new URLSearchParams();
  for (const { name, upload } of state.references) query.append("ref", upload ? `upload:${upload}` : `name:${name}`);
  if (state.description) query.set("q", state.description);
  for (const key of ["mix", "follow", "k"]) if (state[key] !== START[key]) query.set(key, state[key]);
  if (state.compare) query.set("compare", "1");
  const address = `?${query}`;
  if (address === location.search) return;
  const again = kind === "start" || (kind === lastKind && ["description", "follow"].includes(kind)); // one step back
  history[again ? "replaceState" : "pushState"](null, "", address);
  lastKind = kind;
}

// The question

function changed(kind) {
  writeAddress(kind);
  drawQuery();
  search();
}

function drawQuery() {
  if (byId("description").value !== state.description) byId("description").value = state.description;
  for (const key of ["mix", "follow", "k"]) byId(key).value = state[key];
  byId("compare").checked = state.compare;
  const several = state.references.length > 1;
  byId("references").replaceChildren(...state.references.map((reference, number) => {
    const mark = several ? `[*${number + 1}] ` : "";
    const label = reference.label || "uploaded picture";
    const remove = button(() => {
      refer(state.references.filter((other) => other !== reference));
      byId("description").focus();
    }, { textContent: "×", ariaLabel: `Remove ${label}` });
    return element("li", { title: label }, [picture(reference.picture, label), remove, mark + label]);
  }));
  drawGallery(state.references.map(({ name }) => name));
}

function choose(reference, join = false) {
  const added = join || byId("add").ariaPressed === "true";
  byId("add").ariaPressed = "false";
  refer(added ? [...state.references, reference].slice(-limits.references) : [reference]);
}

// The description goes along with the number of references: "[*] at night" becomes "[*1] and [*2] at night", and back.
function refer(references) {
  const [before, now] = [marks(state.references.length), marks(references.length)];
  const text = state.description;
  if (references.length && text.includes(before)) state.description = text.replaceAll(before, now);
  else if (references.length > 1 && !text.includes("[*")) state.description = `a photo of ${now}${text && ` , ${text}`}`;
  state.references = references;
  changed("reference");
}

function marks(count) {
  return count < 2 ? "[*]" : Array.from({ length: count }, (_, number) => `[*${number + 1}]`).join(" and ");
}

let current = null;
async function search() {
  current?.abort();
  const mine = (current = new AbortController());
  if (!state.references.length && !state.description.trim()) {
    clear();
    return say("Choose a reference, write a description, or both.");
  }
  say("Searching…", true);
  const { description, mix, k, compare } = state;
  const references = state.references.map(({ name, upload }) => (upload ? { upload } : { name }));
  const question = { references, description, k, compare, mix, weight: 1 - state.follow / 100, explain: byId("looking").open };
  try {
    const answer = await ask("/search", { method: "POST", body: JSON.stringify(question), signal: mine.signal });
    if (mine === current) show(answer);
  } catch (error) {
    if (mine !== current) return;
    clear(); // results of another query than the one that is shown would contradict it
    fail(error);
  }
}

// The answer

function say(text, busy = false) {
  byId("answer").ariaBusy = String(busy);
  byId("status").textContent = text;
}

function fail(error) {
  say("");
  byId("error").textContent = error.message;
  byId("error").hidden = false;
}

function clear() {
  maps = [];
  for (const id of ["results", "maps", "words", "prompt"]) byId(id).replaceChildren();
  byId("error").hidden = byId("looking").hidden = true;
}

function show(answer) {
  byId("error").hidden = true;
  state.references = answer.references;
  drawQuery();
  byId("prompt").textContent = `composed as: ${answer.prompt}`;
  const className = state.compare ? "results line" : "results"; // one line each, to be compared
  byId("results").replaceChildren(...answer.rows.flatMap(({ title, hits }) => [
    element("h2", { textContent: title }),
    element("ol", { className }, hits.map((hit, number) => result(hits, number))),
  ]));
  maps = answer.maps;
  drawMaps();
  byId("words").replaceChildren(...answer.words.map(({ title, words }) => element("p", {}, [
    element("b", { textContent: `${title}: ` }), words.map(([word, cosine]) => `${word} ${cosine.toFixed(2)}`).join(", "),
  ])));
  byId("looking").hidden = state.references.length === 0;
  const count = answer.rows.at(-1)?.hits.length ?? 0;
  say(`${count} results in ${(1000 * answer.seconds).toFixed(0)} ms ·`);
  document.body.dataset.answers = Number(document.body.dataset.answers || 0) + 1;
}

function result(hits, number) {
  const { label, rank, score, picture: src } = hits[number];
  const caption = element("span", { textContent: `${rank} · ${score.toFixed(3)} · ${label}` });
  return element("li", {}, [button(() => viewResult(hits, number), { title: label }, [picture(src, ""), caption])]);
}

function drawMaps() {
  const change = byId("change").checked;
  byId("changing").hidden = maps.length === 0;
  byId("maps").replaceChildren(...maps.map((heat) => element("figure", {}, [
    element("img", { src: change ? heat.change : heat.now, alt: heat.title }),
    element("figcaption", { textContent: `${heat.title}: ${heat.note}` }),
  ])));
}

// What a person does

async function upload(file, join = false) {
  try {
    if (file.size > limits.upload) throw new Error(`${file.name} is over ${limits.upload >> 20} MiB`);
    say(`Reading ${file.name}…`, true);
    const name = encodeURIComponent(file.name.toWellFormed?.() ?? file.name);
    choose(await ask(`/upload?name=${name}`, { method: "POST", body: file }), join);
  } catch (error) {
    fail(error); // what is shown still answers the reference that is shown
  }
}

function bind(id, event, key, value) {
  byId(id).addEventListener(event, () => { state[key] = value(byId(id)); changed(key); });
}

async function start() {
  const about = await ask("/about");
  Object.assign(limits, { upload: about.max_upload, references: about.max_references });
  byId("about").textContent = `${about.gallery} · CLIP ${about.clip} · ${about.mappers.join(", ")}`;
  byId("mix").replaceChildren(...Object.entries(about.mixes).map(([value, text]) => new Option(text, value)));
  Object.assign(START, { mix: about.mix, follow: about.follow });
  const take = (description) => { Object.assign(state, { description }); changed("example"); };
  byId("description").placeholder = about.examples[0];
  byId("examples").replaceChildren(...about.examples.map((text) => button(() => take(text), { textContent: text })));
  const first = await openGallery((reference) => choose(reference), fail);
  readAddress();
  if (!location.search && first) state.references = [first];
  changed("start");
}

const typed = later(() => changed("description"));
byId("description").addEventListener("input", () => { state.description = byId("description").value; typed(); });
byId("ask").addEventListener("submit", (event) => event.preventDefault());
bind("follow", "input", "follow", (slider) => Number(slider.value));
bind("mix", "change", "mix", (list) => list.value);
bind("k", "change", "k", (list) => Number(list.value));
bind("compare", "change", "compare", (box) => box.checked);
byId("change").addEventListener("change", drawMaps);
byId("looking").addEventListener("toggle", () => { if (byId("looking").open) search(); });
byId("add").addEventListener("click", () => { byId("add").ariaPressed = String(byId("add").ariaPressed !== "true"); });
addEventListener("popstate", () => { lastKind = ""; readAddress(); drawQuery(); search(); });
addEventListener("keydown", (event) => {
  if (event.key !== "/" || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) || document.querySelector("dialog[open]")) return;
  event.preventDefault();
  byId("description").focus();
});
roving(byId("results"));
openViewer(choose);
takePictures(upload, fail);
start().catch(fail);
