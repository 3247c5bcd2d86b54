"use strict";
// The page of several runs.

/** Returns the runs: how far each came, its accuracies and its last rewards. */
function runsSection(runs, leftOut) {
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.evaluated)))];
  const cells = (run, name) => {
    const found = run.evaluated[name];
    return found === undefined ? ["", ""] : [shareInWords(found.before), shareInWords(found.after)];
  };
  const header = ["run", "state", ...names.flatMap((name) => [`${name} before`, "after"]), "mean of the last rewards", "folder"];
  const rows = runs.map((run) => [
    run.label,
    run.state,
    ...names.flatMap((name) => cells(run, name)),
    formatNumber(run.reward),
    run.folder,
  ]);
  const about = leftOut ? [make("p", { textContent: `${counted(leftOut, "more run")} of the sweep: see its leaderboard.` })] : [];
  return section("runs", "Runs", table(header, rows), ...about);
}

/** Returns the settings that differ. */
function settingsSection(settings, runs) {
  if (settings.length === 0) return section("settings", "Settings that differ", make("p", { textContent: "None differs." }));
  const rows = settings.map(([key, values]) => [make("code", {}, key), ...values]);
  return section("settings", "Settings that differ", table(["setting", ...runs.map((run) => run.label)], rows));
}

/** Returns how the runs do on the questions that they share. */
function pairsSection(pairs) {
  const title = "On the same questions";
  if (pairs.length === 0) {
    const hint = "No two of these runs were evaluated on the same questions: python scripts/evaluate.py run=RUN, for each of them, does that.";
    return section("pairs", title, make("p", { textContent: hint }));
  }
  const signed = (value) => `${value < 0 ? "" : "+"}${(100 * value).toFixed(1)}`;
  const rows = pairs.map((pair) => [
    pair.task,
    pair.run,
    pair.other,
    formatCount(pair.questions),
    `${formatCount(pair.right)} : ${formatCount(pair.other_right)}`,
    `${signed(pair.difference.value)} points [${signed(pair.difference.low)} to ${signed(pair.difference.high)}]`,
    formatNumber(pair.difference.p_value),
    pair.difference.verdict,
  ]);
  const about = "Greedy answers. The p-value is McNemar's, exact; in brackets the 95 % interval of the difference. Of many comparisons one in twenty shows a difference by chance.";
  const header = ["task", "run", "against", "questions", "right", "difference", "p", "verdict"];
  return section("pairs", title, table(header, rows), make("p", { textContent: about }));
}

async function showComparison() {
  const head = await unpacked("head-0");
  document.getElementById("page").replaceChildren(
    pageHead(head.title, ""),
    runsSection(head.runs, head.left_out),
    settingsSection(head.settings, head.runs),
    pairsSection(head.pairs),
    chartsSection(head.charts),
  );
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
}

showComparison();
