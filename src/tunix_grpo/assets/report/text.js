"use strict";
// Text that a model or a user has written, shown as text: what would be invisible, or would turn its surroundings
// around, is shown by name.

// Control and format characters (those of text direction among them), line and paragraph separators, lone surrogates,
// private and unassigned characters; not the line feed and the tab.
const INVISIBLE = /(?![\n\t])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Co}\p{Cn}]/gu;
const LONGEST_SHOWN = 6000;

/** Returns what a character that cannot be seen is called: a picture for the old control codes, else U+202E. */
function nameOfCharacter(character) {
  const code = character.codePointAt(0);
  if (code < 0x20) return String.fromCharCode(0x2400 + code);
  if (code === 0x7f) return "\u2421";
  return `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
}

/** Returns a text in which such characters are replaced by their names, for places that take nothing but text. */
function visibleText(text) {
  return text.replace(INVISIBLE, nameOfCharacter);
}

/** Appends a text to an element; where `wanted`, a global expression, matches, the text is marked. */
function appendText(element, text, wanted = null) {
  let end = 0;
  for (const found of text.matchAll(INVISIBLE)) {
    appendMarked(element, text.slice(end, found.index), wanted);
    const name = document.createElement("span");
    name.className = "invisible";
    name.textContent = nameOfCharacter(found[0]);
    name.title = `U+${found[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
    element.append(name);
    end = found.index + found[0].length;
  }
  appendMarked(element, text.slice(end), wanted);
}

function appendMarked(element, text, wanted) {
  let end = 0;
  for (const found of wanted === null ? [] : text.matchAll(wanted)) {
    if (found[0] === "") continue;
    const mark = document.createElement("mark");
    mark.textContent = found[0];
    element.append(text.slice(end, found.index), mark);
    end = found.index + found[0].length;
  }
  element.append(text.slice(end));
}

/** Returns a block of text; of a very long one the beginning, with a button for the rest. */
function textBlock(text, wanted = null) {
  const block = make("pre", { className: "text" });
  if (text.length <= LONGEST_SHOWN) {
    appendText(block, text, wanted);
    return block;
  }
  appendText(block, text.slice(0, LONGEST_SHOWN), wanted);
  const more = make("button", { type: "button", textContent: `all ${formatCount(text.length)} letters` });
  more.addEventListener("click", () => {
    block.replaceChildren();
    appendText(block, text, wanted);
  });
  block.append("\n", more);
  return block;
}

/** Returns an expression that finds a text as it stands, whatever its case. */
function expressionFor(text, flags) {
  return new RegExp(text.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&"), `iu${flags}`);
}
