"use strict";
// Asks the server anew whenever the reference, the description or a box changes; texts are set as text, never as HTML.

const byId = (id) => document.getElementById(id);
const state = { name: null, upload: null, shown: 0, maps: [], maxUpload: 0 };
const PAUSE = 250; // ms without typing before the server is asked

function element(tag, properties = {}, children = []) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function tile(src, caption, title) {
  const picture = element("img", { src, alt: caption, loading: "lazy" });
  return element("figure", { title: title || caption }, [picture, element("figcaption", { textContent: caption })]);
}

async function ask(url, options = {}) {
  const response = await fetch(url, { ...options, headers: { "X-Context-I2W": "1" } });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error || response.statusText);
  return answer;
}

function fail(error) {
  if (error.name === "AbortError") return;
  byId("error").textContent = error.message;
  byId("error").hidden = false;
  waiting(false);
}

function waiting(on) {
  byId("results").classList.toggle("waiting", on);
  byId("maps").classList.toggle("waiting", on);
}

let current = null;
async function search() {
  if (state.name === null && state.upload === null) return;
  if (current) current.abort();
  const mine = (current = new AbortController());
  waiting(true);
  const compare = byId("compare").checked;
  const question = { description: byId("description").value, compare, k: compare ? 7 : 14 };
  Object.assign(question, state.upload === null ? { name: state.name } : { upload: state.upload });
  try {
    const answer = await ask("/search", { method: "POST", body: JSON.stringify(question), signal: mine.signal });
    if (mine === current) show(answer);
  } catch (error) {
    if (mine === current) fail(error);
  }
}

function show(answer) {
  byId("error").hidden = true;
  byId("prompt").textContent = "composed as: " + answer.prompt;
  byId("results").replaceChildren(...answer.rows.flatMap((row) => [
    element("h2", { textContent: row.title }),
    element("div", { className: "tiles" }, row.hits.map((hit) =>
      tile(hit.picture, `${hit.rank}. ${hit.score.toFixed(3)}`, hit.label))),
  ]));
  state.maps = answer.maps;
  showMaps();
  byId("words").replaceChildren(element("h2", { textContent: "Words of CLIP nearest to the pseudo-word token" }),
    ...answer.words.map(({ title, words }) => element("p", {}, [
      element("b", { textContent: title }),
      words.map(([word, cosine]) => `${word} ${cosine.toFixed(2)}`).join(", "),
    ])));
  waiting(false);
  document.body.dataset.answers = Number(document.body.dataset.answers || 0) + 1;
}

function showMaps() {
  const change = byId("change").checked;
  byId("looking").hidden = state.maps.length === 0;
  byId("maps").replaceChildren(...state.maps.map((heat) =>
    tile(change ? heat.change : heat.now, `${heat.title}: ${heat.note}`)));
}

function choose(reference, picture, label) {
  Object.assign(state, { name: null, upload: null }, reference);
  byId("reference").src = picture;
  byId("reference").hidden = false;
  byId("invitation").hidden = true;
  byId("reference-name").textContent = label;
  for (const button of byId("gallery").children) {
    button.setAttribute("aria-pressed", String(button.dataset.name === state.name));
  }
  search();
}

async function upload(file) {
  if (!file) return;
  try {
    if (file.size > state.maxUpload) throw new Error(`${file.name} is over ${state.maxUpload >> 20} MiB`);
    const taken = await ask("/upload", { method: "POST", body: file });
    choose({ upload: taken.upload }, taken.picture, file.name);
  } catch (error) {
    fail(error);
  }
}

async function more() {
  const page = await ask(`/images?offset=${state.shown}`);
  for (const { name, label, picture } of page.images) {
    const image = element("img", { src: picture, alt: label, loading: "lazy" });
    const button = element("button", { type: "button", title: label }, [image]);
    button.dataset.name = name;
    button.addEventListener("click", () => choose({ name }, picture, label));
    byId("gallery").append(button);
  }
  state.maxUpload = page.max_upload;
  if (state.shown === 0) {
    byId("examples").replaceChildren(...page.examples.map((text) => {
      const button = element("button", { type: "button", textContent: text });
      button.addEventListener("click", () => { byId("description").value = text; search(); });
      return button;
    }));
    if (page.images.length) byId("gallery").firstChild.click();
  }
  state.shown += page.images.length;
  byId("total").textContent = `${state.shown} of ${page.total}`;
  byId("more").hidden = state.shown >= page.total;
}

let typing = null;
byId("description").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(search, PAUSE); });
byId("compare").addEventListener("change", search);
byId("change").addEventListener("change", showMaps);
byId("file").addEventListener("change", (event) => upload(event.target.files[0]));
byId("more").addEventListener("click", () => more().catch(fail));
const drop = byId("drop");
for (const kind of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.toggle("over", kind === "dragover"); });
}
drop.addEventListener("drop", (event) => upload(event.dataTransfer.files[0]));
more().catch(fail);
