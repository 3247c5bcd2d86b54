"use strict";
// What a run came to, and what was run: tables.

/** Returns a share with its interval and what it was counted over. */
function shareInWords(share) {
  if (share.low === null) return formatPercent(share.value);
  const interval = `${formatPercent(share.low)} to ${formatPercent(share.high)}`;
  return `${formatPercent(share.value)} [${interval}], ${share.right} of ${formatCount(share.total)}`;
}

/** Returns the accuracies before and after. */
function evaluatedSection(evaluated) {
  if (evaluated.length === 0) {
    return section("accuracy", "Before and after", make("p", { textContent: "No evaluation has been logged." }));
  }
  const rows = evaluated.map(({ name, before, after }) => {
    const points = 100 * (after.value - before.value);
    const change = before.step === after.step ? "" : `${points < 0 ? "" : "+"}${points.toFixed(1)} points`;
    return [name, shareInWords(before), before.step === after.step ? "" : shareInWords(after), change];
  });
  const steps = `step ${formatCount(evaluated[0].before.step)}`;
  const last = `step ${formatCount(evaluated[0].after.step)}`;
  const known = evaluated.some((each) => each.before.low !== null);
  const about = known
    ? "In brackets the 95 % interval of each share (Wilson). Whether the difference of two is more than chance is " +
      "a question of its own, which a paired test on the same questions answers."
    : "Over how many questions these shares were counted was not written, so that they have no intervals.";
  return section("accuracy", "Before and after", table(["held-out, greedy", steps, last, "change"], rows), make("p", { textContent: about }));
}

/** Returns what was run and the settings that differ. */
function runSection(facts, settings) {
  const names = make("dl", {}, ...facts.flatMap(([name, value]) => [makeText("dt", name), makeText("dd", value)]));
  const rows = settings.map(([key, value, other]) => [make("code", {}, key), value, other]);
  const title = make("h3", { textContent: `${counted(settings.length, "setting")} other than the default` });
  return section("run", "What was run", names, title, table(["setting", "here", "default"], rows));
}

/** Returns what was said of the run's health. */
function healthSection(notes) {
  const text = (value) => (typeof value === "string" ? value : "");
  const rows = notes.map((note) => {
    const item = makeText("li", `${text(note.where)}: ${text(note.sentence)}`);
    item.className = text(note.level) === "warning" ? "warning" : "info";
    return item;
  });
  if (rows.length) return section("health", "Health", make("ul", {}, ...rows));
  return section("health", "Health", make("p", { textContent: "Nothing has been noted." }));
}
