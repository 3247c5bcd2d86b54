"use strict";
// The page of one run.

/** Says which completions are here, where that is not all of them. */
function leftOut({ shown, total, unreadable }) {
  const said = [];
  if (shown < total) said.push(`Of ${formatCount(total)} completions ${formatCount(shown)} are here: whole steps, evenly over the run. scripts/report.py completions=NUMBER takes more.`);
  if (unreadable > 0) said.push(`${counted(unreadable, "line")} of the file could not be read.`);
  return make("p", { textContent: said.join(" ") });
}

async function completionsSection(about) {
  if (about.shown === 0) return section("completions", "Completions", make("p", { textContent: "There are none." }), leftOut(about));
  const columns = await unpacked("columns-0");
  const lists = ["texts", "questions"].map((name) => new LongList(name, about[name]));
  const explorer = new Explorer(new Completions(columns, ...lists), new Filter(Object.keys(columns.rewards)));
  await explorer.refresh();
  return section("completions", "Completions", leftOut(about), explorer.element);
}

async function showRun() {
  const head = await unpacked("head-0");
  document.getElementById("page").replaceChildren(
    pageHead(head.title, head.state),
    evaluatedSection(head.evaluated),
    chartsSection(head.charts),
    healthSection(head.notes),
    runSection(head.facts, head.settings),
    await completionsSection(head.completions),
  );
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
}

showRun();
