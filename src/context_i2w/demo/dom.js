// What every part of the page needs.

export const byId = (id) => document.getElementById(id);

export function element(tag, properties = {}, children = []) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function button(action, properties = {}, children = []) {
  const made = element("button", { type: "button", ...properties }, children);
  made.addEventListener("click", action);
  return made;
}

const SMALL = 100; // pixels below which a picture is enlarged without smoothing

export function picture(src, alt, properties = {}) {
  const image = element("img", { alt, ...properties });
  image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < SMALL));
  image.src = src;
  return image;
}

export async function ask(url, options = {}) {
  const response = await fetch(url, { ...options, headers: { "X-Context-I2W": "1" } });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error || response.statusText);
  return answer;
}

const PAUSE = 250; // ms without typing before the server is asked

export function later(work) {
  let timer = null;
  return () => { clearTimeout(timer); timer = setTimeout(work, PAUSE); };
}

const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

// Arrow keys, Home and End move among a container's buttons.
export function roving(container) {
  container.addEventListener("keydown", (event) => {
    const buttons = [...container.querySelectorAll("button")];
    const place = buttons.indexOf(event.target);
    const to = { Home: 0, End: buttons.length - 1 }[event.key] ?? place + (STEPS[event.key] ?? NaN);
    if (place < 0 || !buttons[to]) return;
    event.preventDefault();
    buttons[to].focus();
  });
}
