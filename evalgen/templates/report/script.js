"use strict";
// Texts come from models and judges: they reach the page through textContent and nothing else.

const themeButton = document.getElementById("theme");
const dark = matchMedia("(prefers-color-scheme: dark)");
const showTheme = () => {
  const theme = document.documentElement.dataset.theme || (dark.matches ? "dark" : "light");
  document.getElementById("theme-name").textContent = theme;
  return theme;
};
themeButton.hidden = false;
themeButton.addEventListener("click", () => {
  document.documentElement.dataset.theme = showTheme() === "dark" ? "light" : "dark";
  showTheme();
});
dark.addEventListener("change", showTheme);
showTheme();

const MARKS = { equivalent: ["✓", "equivalent"], not_equivalent: ["✗", "not equivalent"], ungraded: ["?", "ungraded"] };
const PAGE = 20;
// What cannot be seen, or turns the line around: everything but letters, marks, numbers, punctuation, symbols and the space.
const INVISIBLE = /[^\p{L}\p{M}\p{N}\p{P}\p{S} ]/gu;

function element(name, className = "", ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function escapeOf(character) {
  const short = { "\n": "\\n", "\t": "\\t", "\r": "\\r" }[character];
  const code = character.codePointAt(0).toString(16);
  return short || (code.length > 2 ? `\\u{${code}}` : `\\x${code.padStart(2, "0")}`);
}

/** A text in an element of its own: invisible characters as escapes, spaces at its ends as dots, `query` marked. */
function visible(text, query = "") {
  const made = element("bdi");
  const add = (part, className) => part && made.append(className ? element("span", className, part) : part);
  const plain = (part) => {
    const at = query ? fold(part).indexOf(query) : -1;
    if (at < 0 || fold(part).length !== part.length) return add(part);
    add(part.slice(0, at));
    made.append(element("mark", "hit", part.slice(at, at + query.length)));
    plain(part.slice(at + query.length));
  };
  if (!text) add("empty", "escape");
  const edges = text.match(/^( *)(.*?)( *)$/su);
  add("·".repeat(edges[1].length), "space");
  let end = 0;
  for (const match of edges[2].matchAll(INVISIBLE)) {
    plain(edges[2].slice(end, match.index));
    add(escapeOf(match[0]), "escape");
    end = match.index + match[0].length;
  }
  plain(edges[2].slice(end));
  add("·".repeat(edges[3].length), "space");
  return made;
}

const fold = (text) => text.normalize("NFC").toLowerCase();
const percent = (share) => {
  if (share === 0 || share >= 0.0005) return `${(100 * share).toFixed(1)}%`;
  return `${share >= 1e-6 ? (100 * share).toPrecision(1) : (100 * share).toExponential(1)}%`;
};
const plural = (number, name) => `${number.toLocaleString("en")} ${name}${number === 1 ? "" : "s"}`;

function shareOf(completion, prompt, measure) {
  if (measure !== "draws") return completion[measure];
  return prompt.draws === null ? completion.law : completion.draws / prompt.draws;
}

function details(completion) {
  const list = element("dl");
  const add = (name, content) => content !== undefined && list.append(element("dt", "", name), element("dd", "", content));
  add("verdict", MARKS[completion.verdict][1]);
  add("judge", completion.why ? visible(completion.why) : "gave no reason");
  add("in no row", completion.out && visible(completion.out));
  add("votes", completion.votes && completion.votes.map((vote) => MARKS[vote].join(" ")).join(", "));
  add("as drawn", completion.raw && visible(completion.raw));
  add("draws", completion.draws !== undefined ? completion.draws.toLocaleString("en") : undefined);
  add("probability, T=1", completion.mass !== undefined ? percent(completion.mass) : "not known");
  add("probability, law", completion.law !== undefined ? percent(completion.law) : "not known");
  add("weight", completion.weight !== undefined ? completion.weight.toFixed(4) : undefined);
  add("tokens", completion.tokens !== undefined ? `${completion.tokens}, ended by ${completion.end}` : undefined);
  add("nested", completion.prefix ? "another kept completion goes on where this one ends" : undefined);
  return element("div", "more", list);
}

function bar(completion, prompt, options, longest) {
  const share = shareOf(completion, prompt, options.measure);
  const [mark, name] = MARKS[completion.verdict];
  const text = element("span", "text", visible(completion.text, options.query));
  if (completion.greedy) text.append(" ", element("span", "tag", "greedy"));
  if (completion.votes) {
    const agreed = completion.votes.filter((vote) => vote === completion.verdict).length;
    text.append(" ", element("span", "tag", `votes ${agreed} : ${completion.votes.length - agreed}`));
  }
  const fill = element("span", share === undefined ? "fill unknown" : "fill");
  if (share !== undefined) fill.style.width = `${100 * Math.min(1, options.stretch && longest ? share / longest : share)}%`;
  const track = element("span", "track", fill);
  track.setAttribute("aria-hidden", "true");
  const symbol = element("span", "mark", mark);
  symbol.setAttribute("role", "img");
  symbol.setAttribute("aria-label", name);
  const value = element("span", "value", share === undefined ? "not known" : percent(share));
  const made = element("details", `completion ${completion.verdict}`, element("summary", "", symbol, text, track, value));
  made.addEventListener("toggle", () => made.querySelector(".more") || made.append(details(completion)));
  return made;
}

function facts(prompt, dataset) {
  const known = (value, content) => (value === null || value === undefined ? [] : [content(value)]);
  const parts = [
    dataset.label,
    ...known(prompt.draws, (draws) => plural(draws, "draw")),
    plural(prompt.unique, "distinct completion"),
    ...known(prompt.share, (share) => `${percent(share)} of what is graded is equivalent`),
    ...known(prompt.entropy[1], () => `semantic entropy ${prompt.entropy.map((bound) => bound.toFixed(2)).join(" to ")}`),
    ...known(prompt.unseen, (unseen) => `unseen ${percent(unseen)}`),
    ...(prompt.ungraded ? [`${prompt.ungraded.toLocaleString("en")} ungraded`] : []),
  ];
  return element("p", "facts", ...parts.map((part, index) => element("span", "", index ? part : visible(part))));
}

function card({ prompt, completions }, options) {
  const shares = completions.map((completion) => shareOf(completion, prompt, options.measure) ?? -1);
  const order = [...completions.keys()].sort((first, second) => shares[second] - shares[first]);
  const made = element("article", "prompt", element("h3", "", visible(prompt.prompt, options.query)));
  made.append(element("p", "reference", "reference ", visible(prompt.reference, options.query)));
  if (prompt.greedy && !prompt.completions.some((completion) => completion.greedy)) {
    const [text, verdict] = prompt.greedy;
    made.append(element("p", "reference", "greedy ", visible(text, options.query), ` ${MARKS[verdict].join(" ")}`));
  }
  made.append(facts(prompt, data.datasets[prompt.dataset]));
  for (const index of order) made.append(bar(completions[index], prompt, options, Math.max(...shares)));
  const hidden = prompt.hidden + prompt.completions.length - completions.length;
  if (hidden) {
    const filtered = prompt.completions.length - completions.length;
    const parts = [];
    if (filtered) parts.push(`${filtered.toLocaleString("en")} filtered out`);
    if (prompt.hidden) parts.push(`${prompt.hidden.toLocaleString("en")} more in the dataset's files`);
    made.append(element("p", "facts", parts.join(", ")));
  }
  return made;
}

/** Prompts that match with the completions that do. What is searched for may be in the prompt, or in a completion. */
function found(options) {
  const matches = [];
  for (const prompt of data.prompts) {
    if (options.dataset !== "" && prompt.dataset !== Number(options.dataset)) continue;
    const inPrompt = fold(prompt.prompt).includes(options.query) || fold(prompt.reference).includes(options.query);
    const completions = prompt.completions.filter(
      (completion) =>
        options.verdicts.has(completion.verdict) &&
        (!options.split || completion.votes) &&
        (inPrompt || fold(completion.text).includes(options.query) || fold(completion.raw || "").includes(options.query)),
    );
    const isEmpty = !prompt.completions.length && inPrompt && !options.split && options.verdicts.size === 3;
    if (completions.length || isEmpty) matches.push({ prompt, completions });
  }
  return matches;
}

let data = { datasets: [], prompts: [] };
const form = document.getElementById("filters");

function start() {
  data = JSON.parse(document.getElementById("report-data").textContent);
  const [search, dataset, split, measure, stretch] = ["search", "dataset", "split", "measure", "stretch"].map((id) => document.getElementById(id));
  const list = document.getElementById("prompts");
  const more = document.getElementById("more");
  data.datasets.forEach(({ label }, index) => dataset.append(new Option(label.replace(INVISIBLE, escapeOf), index)));
  dataset.value = "";
  let matches = [];
  let options = {};
  const extend = () => {
    const size = list.children.length;
    list.append(...matches.slice(size, size + PAGE).map((match) => card(match, options)));
    more.hidden = list.children.length >= matches.length;
    more.textContent = `Show ${Math.min(PAGE, matches.length - list.children.length)} more prompts`;
  };
  const update = () => {
    const verdicts = new Set([...form.querySelectorAll("[name=verdict]:checked")].map((box) => box.value));
    options = { query: fold(search.value.trim()), dataset: dataset.value, split: split.checked, measure: measure.value, stretch: stretch.checked, verdicts };
    matches = found(options);
    list.replaceChildren();
    extend();
    const total = matches.reduce((sum, match) => sum + match.completions.length, 0);
    document.getElementById("found").textContent = `${plural(matches.length, "prompt")}, ${plural(total, "completion")}`;
  };
  search.addEventListener("input", update);
  form.addEventListener("change", (event) => event.target === search || update());
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    const size = list.children.length;
    extend();
    list.children[size]?.querySelector("summary")?.focus();
  });
  update();
}
if (form) start();
