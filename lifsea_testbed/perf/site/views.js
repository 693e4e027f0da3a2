// The views: all metrics, one metric, a comparison of two builds, all builds, one build.
"use strict";

const PAGE = 100;

function heading(title, ...below) {
  return el("div", {class: "heading"}, el("h1", {tabindex: "-1"}, title), ...below);
}

function table(columns, rows, className = "") {
  return el("div", {class: "scroll"}, el("table", {class: className},
    el("thead", {}, el("tr", {}, columns.map(([name, kind]) => el("th", {class: kind ?? "", scope: "col"}, name)))),
    el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map((cell, i) =>
      el(i ? "td" : "th", {class: columns[i][1] ?? "", scope: i ? null : "row", "data-name": columns[i][0]}, cell)))))));
}

// All metrics

async function metricsView(state) {
  const index = await load("index");
  const mine = index.trends.map((trend, i) => ({...trend, i})).filter((trend) => trend.setting === state.setting);
  if (!mine.length) return [heading("Metrics"), el("p", {class: "quiet"}, "The history holds no figures yet.")];
  mine.sort((a, b) => rank(a) - rank(b) || a.metric.name.localeCompare(b.metric.name));
  const list = el("ul", {class: "metrics"});
  const filters = {words: "", verdict: null};
  const show = () => {
    const shown = mine.filter((trend) => (!filters.verdict || tags(trend).includes(filters.verdict))
      && trend.metric.name.toLowerCase().includes(filters.words));
    list.replaceChildren(...(shown.length ? shown.map((trend) => el("li", {}, metricRow(trend))) : [el("li", {class: "quiet"}, "No metric matches.")]));
  };
  show();
  const search = el("input", {type: "search", placeholder: "Find a metric", "aria-label": "Find a metric",
    oninput: (event) => { filters.words = event.target.value.toLowerCase(); show(); }});
  return [
    heading("Metrics", el("p", {class: "lead"}, summary(mine))),
    el("div", {class: "tools"}, chips(mine, filters, show), search),
    el("div", {class: "metric columns", "aria-hidden": "true"}, ["Metric", "Trend", "Newest build", "Since the release", "Verdict"]
      .map((name) => el("span", {}, name))),
    list,
  ];
}

function tags(trend) {
  return overBudget(trend) ? [verdictOf(trend).name, "over budget"] : [verdictOf(trend).name];
}

function rank(trend) {
  return overBudget(trend) && verdictOf(trend).order ? 1 : verdictOf(trend).order;
}

function summary(trends) {
  const newest = trends.reduce((a, b) => (a.newest.started >= b.newest.started ? a : b)).newest;
  return `Newest build ${newest.label}, ${day(newest.started)}, compared with the last release before it.`;
}

function chips(trends, filters, show) {
  const counts = new Map();
  for (const tag of trends.flatMap(tags)) counts.set(tag, (counts.get(tag) ?? 0) + 1);
  const tones = {"over budget": "bad", ...Object.fromEntries(Object.values(VERDICTS).map(({name, tone}) => [name, tone]))};
  const buttons = [...Object.keys(tones)].filter((name) => counts.has(name)).sort((a, b) => order(a) - order(b))
    .map((name) => el("button", {type: "button", class: `chip ${tones[name]}`, "aria-pressed": "false", onclick: (event) => {
      filters.verdict = filters.verdict === name ? null : name;
      for (const button of buttons) button.setAttribute("aria-pressed", String(button === event.currentTarget && !!filters.verdict));
      show();
    }}, el("b", {}, String(counts.get(name))), ` ${name}`));
  return el("div", {class: "chips", role: "group", "aria-label": "Show only"}, buttons);
}

function order(name) {
  return name === "over budget" ? 1 : Object.values(VERDICTS).find((verdict) => verdict.name === name).order;
}

function metricRow(trend) {
  const {metric, newest, change} = trend;
  return el("a", {class: "metric", href: `#/metric/${trend.i}`},
    el("span", {class: "name"}, el("b", {}, ...phased(metric.name)), el("small", {}, metric.definition || `${metric.better} is better`)),
    spark(trend.spark, verdictOf(trend).tone),
    el("span", {class: "value"}, el("b", {}, quantity(newest.median, metric.unit)), el("small", {}, budgetWords(trend))),
    el("span", {class: `delta ${verdictOf(trend).tone}`}, change ? percent(change.share) : "–",
      change ? el("small", {}, `from ${quantity(change.before, metric.unit)}`) : null),
    el("span", {class: "verdicts"}, badge(trend), overBudget(trend) ? el("span", {class: "badge bad"}, "over budget") : null));
}

function phased(name) {
  const [whole, phase] = name.split(/\/(.*)/s);
  return phase === undefined ? [whole] : [el("span", {class: "whole"}, `${whole} / `), phase];
}

function budgetWords(trend) {
  if (trend.budget === null) return between(trend.newest.low, trend.newest.high, trend.metric.unit);
  return `budget ${quantity(trend.budget, trend.metric.unit)}`;
}

// One metric

async function metricView(state, [place]) {
  const [index, builds, series] = await Promise.all([load("index"), load("builds"), load(`trend-${Number(place)}`)]);
  const trend = index.trends[Number(place)];
  const {metric} = trend;
  const open = (build) => { location.hash = `#/build/${build}`; };
  const holder = el("div"), phases = el("div");
  const ranges = [60, 250, 1000].filter((count) => count < trend.points);
  const buttons = [...ranges, null].map((count) => el("button", {type: "button", class: "chip", "aria-pressed": "false",
    onclick: (event) => select(count, event.currentTarget)}, count ? `last ${count}` : `all ${trend.points}`));
  const select = (count, button) => {
    for (const each of buttons) each.setAttribute("aria-pressed", String(each === button));
    const from = count ? trend.points - count : 0;
    const {frame, beyond} = trendChart({trend, series, builds, from, open});
    holder.replaceChildren(frame.node, beyond
      ? el("p", {class: "quiet"}, `The budget, ${quantity(trend.budget, metric.unit)}, lies outside this range.`) : "");
    drawPhases(index, trend, builds, series.build.slice(from), open).then((node) => phases.replaceChildren(node ?? ""));
  };
  const initial = ranges.find((count) => count >= (innerWidth < 600 ? 60 : 250)) ?? null;
  select(initial, buttons[initial ? ranges.indexOf(initial) : ranges.length]);
  return [
    heading(el("span", {}, ...phased(metric.name)), badge(trend), overBudget(trend) ? el("span", {class: "badge bad"}, "over budget") : null),
    el("p", {class: "lead"}, metric.definition ? `${metric.definition} ` : "",
      `In ${metric.unit}; ${metric.better} is better${metric.exact ? "; exact" : ""}. Definition ${metric.id.slice(0, 8)}.`),
    facts(trend),
    el("section", {class: "card"}, el("div", {class: "tools"}, el("h2", {}, "Trend"), ranges.length ? el("div", {class: "chips", role: "group", "aria-label": "Builds shown"}, buttons) : null),
      holder, legend(trend), el("p", {class: "keys", id: "chart-keys"}, "Arrow keys move from build to build, Page Up and Page Down further; Enter opens one.")),
    phases,
    stepsCard(trend, series, builds),
    el("details", {class: "card"}, el("summary", {}, "The last 30 builds as a table"), lastBuilds(metric, series, builds)),
  ];
}

function facts(trend) {
  const {metric, newest, change, budget} = trend;
  const items = [
    ["Newest build", quantity(newest.median, metric.unit), `${newest.label}, ${day(newest.started)}`],
    ["Interval of the median", between(newest.low, newest.high, metric.unit), "95 % confidence"],
    ["Since the release", change ? percent(change.share) : "–", change ? `from ${quantity(change.before, metric.unit)}` : "no release in this setting"],
    budget === null ? null : ["Budget", quantity(budget, metric.unit), overBudget(trend) ? "over budget" : "kept"],
  ];
  return [el("dl", {class: "facts"}, items.filter(Boolean).map(([name, value, more]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, value), el("dd", {class: "more"}, more)))),
  change ? el("p", {class: "sentence"}, sentence(change.sentence)) : null];
}

function legend(trend) {
  const key = (name, text) => el("span", {}, el("i", {class: `key-${name}`}), text);
  return el("p", {class: "legend"}, key("curve", "median"), key("interval", "its interval"), key("range", "all samples"),
    key("level", "level"), key("step", "change point"), trend.budget === null ? null : key("budget", "budget"), key("release", "release"));
}

async function drawPhases(index, trend, builds, indexes, open) {
  const parts = partsOf(index, trend);
  if (!parts.length) return null;
  const loaded = await Promise.all(parts.map((part) => load(`trend-${part.i}`)));
  const phases = parts.map((part, k) => {
    const values = new Map(loaded[k].build.map((build, i) => [build, loaded[k].median[i]]));
    return {name: part.metric.name.split("/")[1], values: indexes.map((build) => values.get(build) ?? null)};
  });
  const frame = phaseChart({name: trend.metric.name, unit: trend.metric.unit, phases, builds, indexes, open});
  return el("section", {class: "card"}, el("h2", {}, "Phases"), frame.node);
}

function partsOf(index, trend) {
  return index.trends.map((part, i) => ({...part, i})).filter((part) => part.setting === trend.setting
    && part.metric.unit === trend.metric.unit && part.metric.name.startsWith(`${trend.metric.name}/`))
    .sort((a, b) => a.order - b.order);
}

function stepsCard(trend, series, builds) {
  const {metric} = trend;
  const rows = [...series.steps].reverse().map((step) => {
    const build = series.build[step.index];
    return [el("a", {href: `#/build/${build}`}, builds.label[build]), day(builds.started[build]),
      quantity(step.before, metric.unit), quantity(step.after, metric.unit),
      el("span", {class: `delta ${tone(metric, step.share)}`}, percent(step.share)),
      el("a", {href: `#/compare/${series.build[step.index - 1]}/${build}`}, "Compare")];
  });
  return el("section", {class: "card"}, el("h2", {}, "Change points"), rows.length
    ? table([["First build"], ["Date"], ["Before", "right"], ["After", "right"], ["Change", "right"], ["With the one before"]], rows, "steps")
    : el("p", {class: "quiet"}, "None: the metric has one level over its whole history."));
}

function lastBuilds(metric, series, builds) {
  const rows = series.build.map((build, i) => [el("a", {href: `#/build/${build}`}, builds.label[build]), day(builds.started[build]),
    quantity(series.median[i], metric.unit), between(series.low[i], series.high[i], metric.unit), String(series.count[i])]);
  return table([["Build"], ["Date"], ["Median", "right"], ["Interval", "right"], ["Samples", "right"]], rows.slice(-30).reverse());
}

// Two builds

async function compareView(state, [first, second]) {
  const [index, builds] = await Promise.all([load("index"), load("builds")]);
  const mine = builds.token.map((_, i) => i).filter((i) => builds.setting[i] === state.setting).reverse();
  if (mine.length < 2) return [heading("Compare"), el("p", {class: "quiet"}, "A comparison needs two builds in one setting.")];
  const after = mine.includes(Number(second)) && second !== undefined ? Number(second) : mine[0];
  const before = mine.includes(Number(first)) && first !== undefined ? Number(first) : lastRelease(builds, mine, after);
  const pick = (name, chosen, go) => el("label", {}, name, el("select", {onchange: (event) => go(event.target.value)},
    mine.map((i) => el("option", {value: i, selected: i === chosen},
      `${builds.label[i]} · ${day(builds.started[i])}${builds.kind[i] === "release" ? " · release" : ""}`))));
  return [
    heading("Compare two builds"),
    el("div", {class: "tools pair"},
      pick("Before", before, (value) => { location.hash = `#/compare/${value}/${after}`; }),
      el("a", {class: "chip", href: `#/compare/${after}/${before}`, "aria-label": "Swap the two builds"}, "⇄ swap"),
      pick("After", after, (value) => { location.hash = `#/compare/${before}/${value}`; })),
    ...comparison(index, builds, before, after, ...await Promise.all([samplesOf(index, before), samplesOf(index, after)])),
  ];
}

function lastRelease(builds, mine, after) {
  const earlier = mine.filter((i) => i < after);
  return earlier.find((i) => builds.kind[i] === "release" && builds.image_digest[i] !== builds.image_digest[after]) ?? earlier[0] ?? mine[1];
}

async function samplesOf(index, build) {
  const chunk = await load(`samples-${Math.floor(build / index.chunk)}`);
  return new Map((chunk[build] ?? []).map((each) => [each.trend, each.tests.flatMap((test) => test.values)]));
}

function comparison(index, builds, before, after, old, now) {
  const both = [...now.keys()].filter((trend) => old.has(trend)).map((i) => {
    const values = [old.get(i), now.get(i)], [a, b] = values.map(median);
    return {i, trend: index.trends[i], values, a, b, share: a === 0 ? (b === 0 ? 0 : null) : (b - a) / Math.abs(a)};
  });
  both.sort((x, y) => Math.abs(y.share ?? Infinity) - Math.abs(x.share ?? Infinity));
  const rows = both.map(({i, trend, values, a, b, share}) => [
    el("a", {href: `#/metric/${i}`}, ...phased(trend.metric.name)), quantity(a, trend.metric.unit), quantity(b, trend.metric.unit),
    el("span", {class: `delta ${overlaps(values) ? "calm" : tone(trend.metric, share)}`}, percent(share)),
    el("span", {}, overlaps(values) ? "overlap" : "apart"), dots(values, trend.budget)]);
  const missing = [...old.keys(), ...now.keys()].filter((i) => !old.has(i) || !now.has(i)).map((i) => index.trends[i].metric.name);
  return [
    ...wholes(index, both, builds, before, after),
    both.length ? el("section", {class: "card"}, el("h2", {}, "Metrics"), table([["Metric"], ["Before", "right"], ["After", "right"], ["Change", "right"],
      ["Samples"], ["Before over after"]], rows, "comparison"),
    el("p", {class: "keys"}, "“Apart” means that no sample of one build lies among those of the other. The largest change comes first."))
      : el("p", {class: "quiet"}, "The two builds have no metric in common."),
    missing.length ? el("p", {class: "quiet"}, `Measured in one build only: ${[...new Set(missing)].join(", ")}.`) : null,
  ];
}

function overlaps([a, b]) {
  return Math.max(...a) >= Math.min(...b) && Math.max(...b) >= Math.min(...a);
}

function wholes(index, both, builds, before, after) {
  const found = new Map(both.map((each) => [each.i, each]));
  return both.filter(({trend}) => !trend.metric.name.includes("/")).map(({trend}) => {
    const parts = partsOf(index, trend).filter((part) => found.has(part.i)).map((part) => found.get(part.i));
    if (parts.length < 2) return null;
    const names = parts.map((part) => part.trend.metric.name.split("/")[1]);
    const shown = [["Before", before, "a"], ["After", after, "b"]].map(([label, , side]) => ({label, values: parts.map((part) => part[side])}));
    return el("section", {class: "card"}, el("h2", {}, `${trend.metric.name}, by phases`), phaseBars(shown, trend.metric.unit, names),
      el("p", {class: "legend"}, names.map((name, k) => el("span", {}, el("i", {class: `phase${k % 8}`}), `${name} `,
        el("b", {}, percent((parts[k].b - parts[k].a) / Math.abs(parts[k].a || 1)))))));
  });
}

// All builds, and one

async function buildsView(state) {
  const builds = await load("builds");
  const mine = builds.token.map((_, i) => i).filter((i) => builds.setting[i] === state.setting).reverse();
  const holder = el("div");
  let shown = 0;
  const more = el("button", {type: "button", class: "chip", onclick: () => show()}, "Show more");
  const rows = [];
  const show = () => {
    rows.push(...mine.slice(shown, shown + PAGE).map((i) => [el("a", {href: `#/build/${i}`}, builds.label[i]), day(builds.started[i]),
      builds.kind[i] === "release" ? el("span", {class: "badge"}, "release") : "", el("code", {}, builds.revision[i].slice(0, 12)),
      el("code", {}, builds.image_digest[i].slice(0, 12)), builds.qemu[i]]));
    shown += PAGE;
    holder.replaceChildren(table([["Build"], ["Date"], [""], ["Revision"], ["Image"], ["QEMU"]], rows));
    more.hidden = shown >= mine.length;
  };
  show();
  return [heading("Builds", el("p", {class: "lead"}, `${mine.length} in this setting, newest first.`)), el("section", {class: "card"}, holder, more)];
}

async function buildView(state, [place]) {
  const [index, builds] = await Promise.all([load("index"), load("builds")]);
  const i = Number(place), chunk = await load(`samples-${Math.floor(i / index.chunk)}`);
  const setting = index.settings[builds.setting[i]];
  const items = {Started: builds.started[i].replace("T", " ").replace("Z", " UTC"), Version: builds.image_version[i] || "–",
    "Image (SHA-256)": el("code", {}, builds.image_digest[i]), Revision: el("code", {}, builds.revision[i] || "–"), Kind: builds.kind[i],
    Profile: setting.profile, Instance: setting.instance_type, Accelerator: setting.accelerator, QEMU: builds.qemu[i],
    Host: setting.host_class, Processor: setting.processor || "not recorded", Workers: setting.workers || "not recorded",
    "Memory (MiB)": setting.memory || "not recorded", Run: el("code", {}, builds.token[i]),
    Reports: builds.reports[i] ? link(builds.reports[i], builds.reports[i]) : "not published"};
  return [
    heading(builds.label[i], builds.kind[i] === "release" ? el("span", {class: "badge"}, "release") : null),
    el("p", {class: "lead"}, el("a", {href: `#/compare/${lastRelease(builds, builds.token.map((_, k) => k)
      .filter((k) => builds.setting[k] === builds.setting[i]).reverse(), i) ?? i}/${i}`}, "Compare with the release before it")),
    el("section", {class: "card"}, el("dl", {class: "pairs"}, Object.entries(items).map(([name, value]) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, value))))),
    el("section", {class: "card"}, el("h2", {}, "Samples"), samplesTable(index, builds, i, chunk[i] ?? [])),
  ];
}

function samplesTable(index, builds, i, taken) {
  const base = builds.reports[i].replace(/\/*$/, "/");
  const rows = taken.flatMap(({trend, tests}) => tests.map(({name, folder, values}) => {
    const {metric, budget} = index.trends[trend];
    return [el("a", {href: `#/metric/${trend}`}, ...phased(metric.name)), quantity(median(values), metric.unit), dots([values], budget),
      el("details", {}, el("summary", {}, values.length === 1 ? "1 value" : `${values.length} values`), values.map((value) => quantity(value, metric.unit, 6)).join(", ")),
      builds.reports[i] ? link(`${base}evidence/${folder}/`, name) : name];
  }));
  return table([["Metric"], ["Median", "right"], ["Samples"], ["Values"], ["Test and its evidence"]], rows, "samples");
}
