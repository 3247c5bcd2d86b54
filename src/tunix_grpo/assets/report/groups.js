"use strict";
// Groups side by side: a prompt, the completions that answer it, and what each of them got.

const GROUPS_A_PAGE = 10;

/** The part of the page that shows completions. */
class Explorer {
  constructor(completions, filter) {
    this.completions = completions;
    this.filter = filter;
    this.page = 0;
    this.asked = 0; // counts what was asked for, so that an answer that comes late is dropped
    this.found = { wanted: new Uint8Array(0), groups: [] };
    this.status = make("p", { id: "found", role: "status" });
    this.followed = make("div", { id: "followed" });
    this.list = make("div", { id: "groups" });
    this.pagings = [this.paging(), this.paging()];
    const parts = [this.form(), this.status, this.followed, this.pagings[0].element, this.list, this.pagings[1].element];
    this.element = make("div", {}, ...parts);
  }

  /** Finds what the filter wants and shows its first page. */
  async refresh() {
    const mine = ++this.asked;
    if (this.filter.text !== "") this.status.textContent = "searching";
    const found = await this.completions.chosen(this.filter, () => mine === this.asked);
    if (found === null || mine !== this.asked) return;
    this.found = found;
    this.page = 0;
    const count = found.wanted.reduce((sum, each) => sum + each, 0);
    const of = `of ${counted(this.completions.count, "completion")} in ${counted(this.completions.numGroups, "group")}`;
    this.status.textContent = `${formatCount(count)} in ${counted(found.groups.length, "group")}, ${of}`;
    await this.show();
  }

  /** Shows a page of groups. */
  async show() {
    const mine = ++this.asked;
    const last = Math.max(0, Math.ceil(this.found.groups.length / GROUPS_A_PAGE) - 1);
    this.page = Math.min(Math.max(this.page, 0), last);
    const shown = this.found.groups.slice(this.page * GROUPS_A_PAGE, (this.page + 1) * GROUPS_A_PAGE);
    const elements = await Promise.all(shown.map((group) => this.groupElement(group)));
    if (mine !== this.asked) return;
    this.list.replaceChildren(...elements);
    for (const paging of this.pagings) paging.show(this.page, last);
  }

  paging() {
    const back = make("button", { type: "button", textContent: "previous" });
    const on = make("button", { type: "button", textContent: "next" });
    const place = make("input", { type: "number", min: 1, ariaLabel: "page" });
    const of = make("span");
    const turn = (page) => {
      this.page = page;
      this.show().then(() => this.status.scrollIntoView({ block: "nearest" }));
    };
    back.addEventListener("click", () => turn(this.page - 1));
    on.addEventListener("click", () => turn(this.page + 1));
    place.addEventListener("change", () => turn(Number(place.value) - 1));
    const show = (page, last) => {
      [place.value, place.max, of.textContent] = [page + 1, last + 1, `of ${formatCount(last + 1)}`];
      [back.disabled, on.disabled] = [page === 0, page === last];
    };
    return { element: make("nav", { className: "paging" }, back, make("span", { textContent: "page" }), place, of, on), show };
  }

  form() {
    const field = (label, input) => make("label", {}, label, input);
    const number = (label, key) => field(label, this.input("number", key, (value) => (value === "" ? null : Number(value))));
    const choice = (label, key, options) => {
      const select = make("select", { name: key }, ...Object.entries(options).map(([value, textContent]) => make("option", { value, textContent })));
      select.addEventListener("change", () => this.change(key, select.value));
      return field(label, select);
    };
    const again = make("input", { type: "checkbox", name: "again" });
    again.addEventListener("change", () => this.change("again", again.checked));
    const named = (names) => Object.fromEntries(names.map((name) => [name, visibleText(name)]));
    return make(
      "form",
      { className: "filter", onsubmit: (event) => event.preventDefault() },
      field("text in prompt, answer or completion", this.input("search", "text", (value) => value)),
      number("from step", "firstStep"),
      number("to step", "lastStep"),
      choice("reward", "rewardOf", { "": "total", ...named(this.filter.partNames) }),
      number("at least", "lowest"),
      number("at most", "highest"),
      choice("truncated", "truncated", { "": "either", yes: "yes", no: "no" }),
      choice("order", "order", named(Object.keys(ORDERS))),
      make("label", { className: "check" }, again, "asked more than once"),
    );
  }

  input(type, key, read) {
    const input = make("input", { type, name: key, step: "any" });
    let timer = null;
    input.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.change(key, read(input.value)), 200);
    });
    return input;
  }

  change(key, value) {
    this.filter[key] = value;
    return this.refresh();
  }

  /** Shows one question over the steps, or all of them where it is null. */
  async follow(question) {
    this.filter.question = question;
    this.followed.replaceChildren();
    if (question !== null) {
      const { steps, mean, lowest, highest } = this.completions.overSteps(question);
      const line = (label, values, look) => ({ label, values, look, color: 0 });
      const series = [line("mean", mean, "dots"), line("lowest", lowest, "low"), line("highest", highest, "high")];
      const title = `Reward of question ${formatCount(question + 1)} over ${counted(steps.length, "step")}`;
      const all = make("button", { type: "button", textContent: "all questions again" });
      all.addEventListener("click", () => this.follow(null));
      this.followed.append(figureOf({ title, about: "", percent: false, logged: 0, steps, series }), all);
    }
    await this.refresh();
    this.status.scrollIntoView();
  }

  async groupElement(group) {
    const { columns, questions } = this.completions;
    const question = columns.group_question[group];
    const [prompt, answer] = await questions.item(question);
    const wanted = this.filter.text === "" ? null : expressionFor(this.filter.text, "g");
    const times = this.completions.timesAsked.get(question);
    const follow = make("button", { type: "button", className: "follow" });
    follow.textContent = times === 1 ? "asked once" : `follow, asked ${formatCount(times)} times`;
    follow.disabled = times === 1 || this.filter.question !== null;
    follow.addEventListener("click", () => this.follow(question));
    const about = `step ${formatCount(columns.group_step[group])}, question ${formatCount(question + 1)}`;
    const gold = make("span", {}, "answer: ");
    appendText(gold, answer, wanted);
    const head = make("div", {}, make("strong", { textContent: about }), follow, gold);
    const text = textBlock(prompt, wanted);
    text.classList.add("prompt");
    const rows = [];
    for (let row = columns.group_start[group]; row < this.completions.end(group); row++) rows.push(row);
    const answers = await Promise.all(rows.map((row) => this.completionElement(row, wanted)));
    return make("article", { className: "group" }, head, text, make("div", { className: "completions" }, ...answers));
  }

  async completionElement(row, wanted) {
    const { columns, texts } = this.completions;
    const value = (name, number, className = "") => {
      const shown = makeText("span", `${name} `);
      shown.append(make("b", { className, textContent: formatNumber(number) }));
      return shown;
    };
    const advantage = columns.advantage[row];
    const values = [value("reward", columns.reward[row])];
    if (advantage !== null) values.push(value("advantage", advantage, advantage > 0 ? "up" : advantage < 0 ? "down" : ""));
    if (columns.length[row] !== null) values.push(value("tokens", columns.length[row]));
    if (columns.truncated[row] === 1) values.push(make("b", { className: "down", textContent: "truncated" }));
    for (const [name, column] of Object.entries(columns.rewards)) {
      if (column[row] !== null) values.push(value(name, column[row]));
    }
    const className = this.filter.isOn() && !this.found.wanted[row] ? "completion other" : "completion";
    const text = textBlock(await texts.item(row), wanted);
    return make("div", { className }, make("div", { className: "values" }, ...values), text);
  }
}
