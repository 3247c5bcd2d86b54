"use strict";
// Which completions are wanted: by text, step, reward, truncation, question; and in which order their groups come.

const ORDERS = {
  "as they came": (one, other) => one.group - other.group,
  "latest first": (one, other) => other.group - one.group,
  "highest reward first": (one, other) => other.highest - one.highest || one.group - other.group,
  "lowest reward first": (one, other) => one.lowest - other.lowest || one.group - other.group,
  "longest first": (one, other) => other.longest - one.longest || one.group - other.group,
};

/** What the fields of the form say. */
class Filter {
  constructor(partNames) {
    this.text = "";
    this.firstStep = this.lastStep = this.lowest = this.highest = null;
    this.rewardOf = ""; // a part's name, or nothing for the total
    this.truncated = ""; // yes, no, or nothing for both
    this.question = null; // the only one that is wanted
    this.again = false; // only questions that were asked more than once
    this.order = Object.keys(ORDERS)[0];
    this.partNames = partNames;
  }

  /** Says whether there is anything that a completion must have, beside its question. */
  isOn() {
    return this.text !== "" || this.lowest !== null || this.highest !== null || this.truncated !== "";
  }
}

/** All completions by their numbers. */
class Completions {
  constructor(columns, texts, questions) {
    this.columns = columns;
    this.texts = texts;
    this.questions = questions;
    this.count = columns.reward.length;
    this.numGroups = columns.group_start.length;
    this.timesAsked = new Map();
    for (const question of columns.group_question) {
      this.timesAsked.set(question, (this.timesAsked.get(question) ?? 0) + 1);
    }
  }

  /** Returns the row behind the last one of a group. */
  end(group) {
    return this.columns.group_start[group + 1] ?? this.count;
  }

  /** Says whether a group is of the wanted steps and questions. */
  groupFits(group, filter) {
    const step = this.columns.group_step[group];
    const question = this.columns.group_question[group];
    if (filter.firstStep !== null && step < filter.firstStep) return false;
    if (filter.lastStep !== null && step > filter.lastStep) return false;
    if (filter.question !== null && question !== filter.question) return false;
    return !filter.again || this.timesAsked.get(question) > 1;
  }

  /** Says whether the numbers of a row are the wanted ones. */
  rowFits(row, filter) {
    const column = filter.rewardOf === "" ? this.columns.reward : this.columns.rewards[filter.rewardOf];
    const reward = column[row];
    if (filter.lowest !== null && !(reward !== null && reward >= filter.lowest)) return false;
    if (filter.highest !== null && !(reward !== null && reward <= filter.highest)) return false;
    return filter.truncated === "" || this.columns.truncated[row] === (filter.truncated === "yes" ? 1 : 0);
  }

  /**
   * Returns the groups that hold a wanted completion, in the wanted order, and which rows are wanted (1).
   * Between pieces of text it asks `goesOn`, and returns null where that says no.
   */
  async chosen(filter, goesOn) {
    const wanted = new Uint8Array(this.count);
    for (let group = 0; group < this.numGroups; group++) {
      if (!this.groupFits(group, filter)) continue;
      for (let row = this.columns.group_start[group]; row < this.end(group); row++) {
        wanted[row] = this.rowFits(row, filter) ? 1 : 0;
      }
    }
    if (filter.text !== "" && !(await this.keepThoseWith(filter.text, wanted, goesOn))) return null;
    return { wanted, groups: this.ordered(wanted, filter.order) };
  }

  /** Clears the rows that hold a text neither in the completion nor in the question or its answer. */
  async keepThoseWith(text, wanted, goesOn) {
    const expression = expressionFor(text, "");
    const asked = new Set();
    for (let place = 0; place < this.questions.starts.length; place++) {
      const piece = await this.questions.piece(place);
      piece.forEach((each, index) => each.some((part) => expression.test(part)) && asked.add(this.questions.starts[place] + index));
      if (!goesOn()) return false;
    }
    const questionOf = new Int32Array(this.count);
    for (let group = 0; group < this.numGroups; group++) {
      questionOf.fill(this.columns.group_question[group], this.columns.group_start[group], this.end(group));
    }
    for (let place = 0; place < this.texts.starts.length; place++) {
      const start = this.texts.starts[place];
      const end = this.texts.starts[place + 1] ?? this.count;
      if (wanted.subarray(start, end).every((each) => each === 0)) continue;
      const piece = await this.texts.piece(place);
      for (let row = start; row < end; row++) {
        if (wanted[row] && !asked.has(questionOf[row]) && !expression.test(piece[row - start])) wanted[row] = 0;
      }
      if (!goesOn()) return false;
    }
    return true;
  }

  /** Returns the groups with a wanted row, in order. */
  ordered(wanted, order) {
    const found = [];
    for (let group = 0; group < this.numGroups; group++) {
      const one = { group, highest: -Infinity, lowest: Infinity, longest: -Infinity };
      let any = false;
      for (let row = this.columns.group_start[group]; row < this.end(group); row++) {
        if (!wanted[row]) continue;
        any = true;
        one.highest = Math.max(one.highest, this.columns.reward[row] ?? -Infinity);
        one.lowest = Math.min(one.lowest, this.columns.reward[row] ?? Infinity);
        one.longest = Math.max(one.longest, this.columns.length[row] ?? -Infinity);
      }
      if (any) found.push(one);
    }
    return found.sort(ORDERS[order]).map((one) => one.group);
  }

  /** Returns the steps that asked a question and the mean reward there, for a chart. */
  overSteps(question) {
    const sums = new Map();
    for (let group = 0; group < this.numGroups; group++) {
      if (this.columns.group_question[group] !== question) continue;
      const rewards = this.columns.reward.slice(this.columns.group_start[group], this.end(group));
      const at = this.columns.group_step[group];
      sums.set(at, [...(sums.get(at) ?? []), ...rewards.filter((reward) => reward !== null)]);
    }
    const steps = [...sums.keys()].sort((one, other) => one - other);
    const over = (join) => steps.map((step) => (sums.get(step).length ? join(sums.get(step)) : null));
    return {
      steps,
      mean: over((values) => values.reduce((sum, value) => sum + value, 0) / values.length),
      lowest: over((values) => Math.min(...values)),
      highest: over((values) => Math.max(...values)),
    };
  }
}
