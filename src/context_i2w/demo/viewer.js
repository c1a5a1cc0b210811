// A result is a door: the picture at full size, and what can be done with it.

import { byId } from "./dom.js";

let hits = [];
let place = 0;

export function viewResult(all, number) {
  [hits, place] = [all, number];
  draw();
  if (!byId("viewer").open) byId("viewer").showModal();
}

function draw() {
  const { label, rank, score, path, picture } = hits[place];
  const full = picture.replace("/thumbnail?", "/picture?");
  const image = byId("full");
  image.alt = label;
  image.onload = () => image.classList.toggle("small", image.naturalWidth < 320);
  image.onerror = () => { image.onerror = null; image.src = picture; say("its file can't be read any more"); };
  image.src = full;
  byId("viewed").textContent = label;
  byId("score").textContent = `rank ${rank}, score ${score.toFixed(3)}`;
  byId("path").textContent = path;
  byId("download").href = `${full}&download=1`;
  byId("previous").disabled = place === 0;
  byId("next").disabled = place === hits.length - 1;
  say("");
}

const say = (text) => { byId("said").textContent = text; };

function move(step) {
  if (!hits[place + step]) return;
  place += step;
  draw();
}

async function copy() {
  try {
    await navigator.clipboard.writeText(hits[place].path);
    say("path copied");
  } catch {
    getSelection().selectAllChildren(byId("path"));
    say("press Ctrl+C to copy the path");
  }
}

export function openViewer(choose) {
  const viewer = byId("viewer");
  const take = (join) => {
    const { name, label, picture } = hits[place];
    viewer.close();
    choose({ name, label, picture }, join);
    byId("description").focus();
  };
  byId("use").addEventListener("click", () => take(false));
  byId("join").addEventListener("click", () => take(true));
  byId("copy").addEventListener("click", copy);
  byId("previous").addEventListener("click", () => move(-1));
  byId("next").addEventListener("click", () => move(1));
  byId("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("keydown", ({ key }) => move({ ArrowLeft: -1, ArrowRight: 1 }[key] ?? NaN));
}
