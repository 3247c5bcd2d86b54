"use strict";
// Light or dark: as the system has it, unless the button says otherwise.

const LOOKS = ["as the system", "light", "dark"];

/** Returns the button that changes the look. */
function lookButton() {
  const button = make("button", { type: "button", id: "look", textContent: `look: ${LOOKS[0]}` });
  button.addEventListener("click", () => {
    const now = LOOKS.indexOf(document.documentElement.dataset.look ?? LOOKS[0]);
    const next = LOOKS[(now + 1) % LOOKS.length];
    document.documentElement.dataset.look = next;
    button.textContent = `look: ${next}`;
    redrawCharts();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawCharts);
  return button;
}

/** Returns the top of a page: its name, what is said below it, and the button. */
function pageHead(title, below) {
  document.title = visibleText(title);
  return make("header", {}, make("div", {}, makeText("h1", title), makeText("p", below)), lookButton());
}
