"use strict";
// Elements and numbers. Text goes into elements as text; nothing is ever read as HTML.

/** Returns an element with properties and children, which are elements or texts. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  Object.assign(element, properties);
  element.append(...children);
  return element;
}

/** Returns an element whose text may come from anywhere. */
function makeText(tag, text, properties = {}) {
  const element = make(tag, properties);
  appendText(element, text);
  return element;
}

/** Returns a part of the page with a heading. */
function section(id, title, ...children) {
  return make("section", { id }, make("h2", { textContent: title }), ...children);
}

/** Returns a table; its cells are texts from anywhere, or elements. */
function table(header, rows) {
  const cell = (tag, content) => (content instanceof Node ? make(tag, {}, content) : makeText(tag, String(content)));
  const head = make("thead", {}, make("tr", {}, ...header.map((name) => cell("th", name))));
  const body = make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((each) => cell("td", each)))));
  return make("div", { className: "wide" }, make("table", {}, head, body));
}

function formatCount(number) {
  return number.toLocaleString("en-US");
}

/** Returns a number with four digits that count, such as 0.0001235, 12.35 or 12,346. */
function formatNumber(number) {
  if (number === null || number === undefined) return "";
  if (Number.isInteger(number)) return formatCount(number);
  const size = Math.abs(number);
  if (size >= 1e-4 && size < 1e7) return String(Number(number.toPrecision(4)));
  return number.toExponential(3);
}

function formatPercent(number) {
  return `${(100 * number).toFixed(1)} %`;
}

/** Returns a count with its word: 1 group, 2 groups. */
function counted(number, word) {
  return `${formatCount(number)} ${word}${number === 1 ? "" : "s"}`;
}
