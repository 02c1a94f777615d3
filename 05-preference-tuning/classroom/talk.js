"use strict";

const slides = [...document.querySelectorAll("section")];
const place = document.querySelector("#place");
const main = Number(document.body.dataset.main);

function show(number) {
  const now = Math.min(Math.max(number, 1), slides.length);
  slides.forEach((slide, k) => slide.classList.toggle("now", k === now - 1));
  const time = slides[now - 1].querySelector("aside").dataset.time;
  const part = now > main ? "appendix, " : "";
  place.textContent = `${part}${now} of ${slides.length}${time && ` · ${time}`}`;
  if (location.hash !== `#${now}`) history.replaceState(null, "", `#${now}`);
  return now;
}

let now = show(Number(location.hash.slice(1)) || 1);
const moves = {
  ArrowRight: () => now + 1,
  ArrowDown: () => now + 1,
  PageDown: () => now + 1,
  " ": () => now + 1,
  ArrowLeft: () => now - 1,
  ArrowUp: () => now - 1,
  PageUp: () => now - 1,
  Home: () => 1,
  End: () => slides.length,
};

document.addEventListener("keydown", (event) => {
  if (event.key in moves) {
    now = show(moves[event.key]());
    event.preventDefault();
  } else if (event.key.toLowerCase() === "n") {
    document.body.classList.toggle("notes");
  }
});
document.querySelector("#back").addEventListener("click", () => (now = show(now - 1)));
document.querySelector("#on").addEventListener("click", () => (now = show(now + 1)));
window.addEventListener("hashchange", () => (now = show(Number(location.hash.slice(1)) || 1)));
