"use strict";
// One image in full, or two side by side at 100 %, which move together; with the map over them on demand.

const viewer = { panes: [], full: false, mapped: false };  // panes: {item, element, address}

function openViewer(chosen) {
  closeViewer();
  viewer.panes = chosen.map((item) => {
    const element = $("pane").content.firstElementChild.cloneNode(true);
    const address = URL.createObjectURL(item.file), image = element.querySelector(".whole");
    element.querySelector(".name").textContent = item.name;
    element.querySelector(".value").textContent = item.state === "scored" ? valueText(item.result) : "";
    image.addEventListener("load", size);
    image.addEventListener("error", () => (element.querySelector(".sheet").textContent = "The browser cannot show this format."));
    image.src = address;
    const scroller = element.querySelector(".scroller");
    scroller.addEventListener("scroll", () => follow(scroller));
    scroller.addEventListener("pointermove", (event) => {
      if (event.pointerType === "mouse" && event.buttons === 1) scroller.scrollBy(-event.movementX, -event.movementY);
    });
    scroller.addEventListener("dragstart", (event) => event.preventDefault());
    return { item, element, address };
  });
  $("panes").replaceChildren(...viewer.panes.map((pane) => pane.element));
  $("where").hidden = !about.saliency || !chosen.every((item) => item.state === "scored");
  $("viewer").showModal();
  setFull(chosen.length > 1);
  setMapped(false);
}

function closeViewer() {
  for (const { address } of viewer.panes) URL.revokeObjectURL(address);
  viewer.panes = [];
  $("panes").replaceChildren();
  if ($("viewer").open) $("viewer").close();
}

// 100 %: a pixel of the image is a pixel of the screen. Else the image fits, and is not enlarged.
function size() {
  $("panes").classList.toggle("full", viewer.full);
  for (const { element } of viewer.panes) {
    const image = element.querySelector(".whole"), { clientWidth: width, clientHeight: height } = element.querySelector(".scroller");
    if (!image?.naturalWidth) continue;
    const fit = Math.min(1 / devicePixelRatio, width / image.naturalWidth, height / image.naturalHeight);
    image.style.width = `${image.naturalWidth * (viewer.full ? 1 / devicePixelRatio : fit)}px`;
  }
}

function setFull(full) {
  viewer.full = full;
  $("zoom").setAttribute("aria-pressed", full);
  size();
}

// The other pane shows the same part; sizes may differ, so it is the same fraction.
function follow(scroller) {
  const place = (at, seen, all) => (all > seen ? at / (all - seen) : 0);
  const x = place(scroller.scrollLeft, scroller.clientWidth, scroller.scrollWidth);
  const y = place(scroller.scrollTop, scroller.clientHeight, scroller.scrollHeight);
  for (const { element } of viewer.panes) {
    const other = element.querySelector(".scroller");
    if (other === scroller) continue;
    const left = x * (other.scrollWidth - other.clientWidth), top = y * (other.scrollHeight - other.clientHeight);
    // A pixel of rounding would be sent back and forth.
    if (Math.abs(other.scrollLeft - left) > 1 || Math.abs(other.scrollTop - top) > 1) other.scrollTo(left, top);
  }
}

async function setMapped(mapped) {
  viewer.mapped = mapped;
  $("where").setAttribute("aria-pressed", mapped);
  const panes = viewer.panes, said = [];
  $("legend").textContent = mapped ? "…" : "";
  for (const { item, element } of panes) {
    const image = element.querySelector(".map");
    said.push(mapped ? await showMap(item, image) : "");
    if (panes !== viewer.panes || mapped !== viewer.mapped) return;  // closed or pressed again meanwhile
    if (image) image.hidden = !mapped || !image.src;
  }
  $("legend").textContent = [...new Set(said)].join(" · ");
}

$("zoom").addEventListener("click", () => setFull(!viewer.full));
$("where").addEventListener("click", () => setMapped(!viewer.mapped));
$("close").addEventListener("click", closeViewer);
$("viewer").addEventListener("close", closeViewer);
addEventListener("resize", size);
