"use strict";

// The list of sections says which one is being read, and folds away on a narrow page until it is asked for.

const places = document.querySelector("nav.places");
const links = new Map([...places.querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
const sections = [...links.keys()].map((id) => document.getElementById(id));
const narrow = window.matchMedia("(max-width: 69.99rem)");

// The last section that begins above the upper third of the window; the first one on top of the page.
function here() {
  let found = sections[0];
  for (const section of sections) if (section.getBoundingClientRect().top < window.innerHeight / 3) found = section;
  return found.id;
}

function mark() {
  const id = here();
  if (links.get(id).getAttribute("aria-current")) return;
  for (const link of links.values()) link.removeAttribute("aria-current");
  const link = links.get(id), box = places.querySelector("ul");
  link.setAttribute("aria-current", "location");
  if (!narrow.matches) box.scrollTop = link.offsetTop - box.clientHeight / 2;
  places.querySelector("summary").textContent = `Sections: ${link.textContent}`;
}

function fold() {
  places.querySelector("details").open = !narrow.matches;
}

fold();
mark();
narrow.addEventListener("change", fold);
document.addEventListener("scroll", mark, { passive: true });
places.addEventListener("click", (event) => {
  if (event.target.closest("a")) fold();
});
