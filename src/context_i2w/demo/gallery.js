// Pictures of the gallery to choose a reference from: one Tab stop, arrow keys within, a filter by name, more on demand.

import { ask, button, byId, later, picture, roving } from "./dom.js";

let choose = null;
let selected = [];
let asked = 0;
let watch = null;

async function load(offset) {
  const mine = (asked += 1);
  const page = await ask(`/images?offset=${offset}&filter=${encodeURIComponent(byId("filter").value)}`);
  if (mine !== asked) return null; // the filter has changed meanwhile
  const gallery = byId("gallery");
  if (!offset) gallery.replaceChildren();
  gallery.append(...page.images.map(option));
  byId("more").hidden = gallery.children.length >= page.total;
  byId("total").textContent = `${gallery.children.length} of ${page.total.toLocaleString("en")}`;
  drawGallery(selected);
  watch.unobserve(byId("more"));
  watch.observe(byId("more")); // says at once if it is still in sight
  return page.images[0];
}

function option({ name, label, picture: src }) {
  const image = picture(src, label, { loading: "lazy" });
  const made = button(() => choose({ name, label, picture: src }), { role: "option", title: label }, [image]);
  made.dataset.name = name;
  return made;
}

// names: those of the references.
export function drawGallery(names) {
  selected = names;
  const options = [...byId("gallery").children];
  for (const one of options) {
    one.ariaSelected = String(names.includes(one.dataset.name));
    one.tabIndex = -1;
  }
  const stop = options.find((one) => one.ariaSelected === "true") ?? options[0];
  if (stop) stop.tabIndex = 0;
}

// Resolves to the first picture.
export async function openGallery(onChoose, fail) {
  choose = onChoose;
  const more = () => load(byId("gallery").children.length).catch(fail);
  byId("more").addEventListener("click", more);
  watch = new IntersectionObserver(([end]) => { if (end.isIntersecting) more(); });
  byId("filter").addEventListener("input", later(() => load(0).catch(fail)));
  roving(byId("gallery"));
  return load(0);
}
