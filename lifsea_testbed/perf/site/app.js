// Selects the view by the part of the address after "#", so that every view can be linked to.
"use strict";

const VIEWS = {"": metricsView, metric: metricView, compare: compareView, builds: buildsView, build: buildView};
const state = {setting: 0};
const titles = {"": "Metrics", metric: "Metric", compare: "Compare", builds: "Builds", build: "Build"};

async function show(focus) {
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  const main = document.getElementById("main");
  const current = location.hash;
  document.querySelectorAll("nav a").forEach((each) => {
    const mine = {metrics: ["", "metric"], compare: ["compare"], builds: ["builds", "build"]}[each.dataset.view];
    if (mine.includes(name)) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  });
  try {
    await settle(name, rest);
    const nodes = await (VIEWS[name] ?? VIEWS[""])(state, rest);
    if (location.hash !== current) return;
    main.replaceChildren(...nodes.flat().filter(Boolean));
  } catch (error) {
    main.replaceChildren(heading("Nothing to show"), el("p", {class: "quiet"}, `${error.message}. `), el("a", {href: "#/"}, "To all metrics"));
  }
  const title = main.querySelector("h1");
  document.title = `${title.textContent} – Figures`;
  if (focus) { scrollTo(0, 0); title.focus({preventScroll: true}); }
  document.documentElement.dataset.shown = current || "#/";
}

// A link to a metric or build selects its setting.
async function settle(name, [place]) {
  const index = await load("index");
  if (name === "metric" && index.trends[place]) state.setting = index.trends[place].setting;
  if ((name === "build" || name === "compare") && place !== undefined) state.setting = (await load("builds")).setting[place] ?? state.setting;
  document.getElementById("setting").value = String(state.setting);
}

async function start() {
  const index = await load("index");
  const select = document.getElementById("setting");
  select.append(...index.settings.map((each, i) =>
    el("option", {value: i}, [each.profile, each.instance_type, each.accelerator,
      each.host_class, each.processor, `QEMU ${each.qemu}`, each.workers ? `${each.workers} workers` : "",
      each.memory ? `${each.memory} MiB` : ""].filter((part) => part).join(" · "))));
  select.parentElement.hidden = !index.settings.length;
  state.setting = newest(index);
  select.addEventListener("change", () => {
    state.setting = Number(select.value);
    if (/^#\/(metric|build|compare)\//.test(location.hash)) location.hash = location.hash.startsWith("#/compare") ? "#/compare" : "#/";
    else show(false);
  });
  document.getElementById("foot").textContent = `${index.builds} builds, ${number(index.samples)} samples in ${index.trends.length} series. Made ${index.made}.`;
  await show(false);
}

// The setting of the newest build comes first.
function newest(index) {
  const last = index.trends.reduce((a, b) => (a && a.newest.started >= b.newest.started ? a : b), null);
  return last ? last.setting : 0;
}

addEventListener("hashchange", () => show(true));
start().catch((error) => document.getElementById("main").replaceChildren(heading("Nothing to show"), el("p", {class: "quiet"}, error.message)));
