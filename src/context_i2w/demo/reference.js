// A reference from elsewhere: a file, a drop, the clipboard, a camera.

import { byId } from "./dom.js";

export function takePictures(upload, fail) {
  const take = (file) => { if (file) upload(file); };
  for (const id of ["file", "capture"]) {
    byId(id).addEventListener("change", (event) => { take(event.target.files[0]); event.target.value = ""; });
  }
  for (const kind of ["dragover", "dragleave", "drop"]) {
    addEventListener(kind, (event) => { event.preventDefault(); document.body.classList.toggle("over", kind === "dragover"); });
  }
  addEventListener("drop", (event) => take(event.dataTransfer.files[0]));
  addEventListener("paste", (event) => take([...event.clipboardData.files].find(({ type }) => type.startsWith("image/"))));
  byId("paste").hidden = !navigator.clipboard?.read;
  byId("paste").addEventListener("click", () => pasted().then(take).catch(fail));
  byId("camera").addEventListener("click", () => openCamera().catch(({ message }) => fail(new Error(`no camera: ${message}`))));
  byId("shoot").addEventListener("click", () => shoot(take));
  byId("stop").addEventListener("click", () => byId("shooting").close());
  byId("shooting").addEventListener("close", () => byId("video").srcObject?.getTracks().forEach((track) => track.stop()));
}

async function pasted() {
  for (const item of await navigator.clipboard.read()) {
    const type = item.types.find((kind) => kind.startsWith("image/"));
    if (type) return new File([await item.getType(type)], "pasted picture", { type });
  }
  throw new Error("no picture in the clipboard");
}

// A phone's own camera takes better pictures than a video stream.
async function openCamera() {
  if (!navigator.mediaDevices?.getUserMedia || matchMedia("(pointer: coarse)").matches) return byId("capture").click();
  byId("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
  byId("shooting").showModal();
}

function shoot(take) {
  const { videoWidth: width, videoHeight: height } = byId("video");
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").drawImage(byId("video"), 0, 0);
  byId("shooting").close();
  canvas.toBlob((blob) => take(blob && new File([blob], "camera.jpg", { type: "image/jpeg" })), "image/jpeg", 0.92);
}
