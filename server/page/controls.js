/* Buttons, pickers, keys and settings.
 * Does: bind every control to the page's verbs and to preferences; show what is possible now.
 * Does not know: audio, sockets, captions. */

import { FORMATS, toText } from "./subtitles.js";

const COSTS = {
  low: "Words every 160 ms: the least delay, a few more slips.",
  balanced: "Words every 560 ms: a good place to start.",
  accurate: "Words every 1120 ms: hears the most before it decides.",
};
const LOOK_AHEADS = { low: 1, balanced: 6, accurate: 13 };
const TOAST_MS = 1600;

const $ = (id) => document.getElementById(id);
const root = document.documentElement;
const { preferences } = globalThis;

export function bindControls(page) {
  let file = null;
  const verbs = { ...viewVerbs(page), ...transcriptVerbs(page) };
  verbs.toggle = () => (page.running ? page.stop() : page.start(choice(file)));

  $("dock").addEventListener("submit", (event) => { event.preventDefault(); verbs.toggle(); });
  for (const name of ["smaller", "larger", "pause", "copy", "clear"]) $(name).addEventListener("click", verbs[name]);
  $("jump").addEventListener("click", () => { page.view.follow(true); $("scroller").focus({ preventScroll: true }); });
  // What hides itself hands the focus on: a keyboard would begin at the top again.
  $("undo").addEventListener("click", () => { page.undo(); $("clear").focus({ preventScroll: true }); });
  $("error").querySelector("button").addEventListener("click", () => { page.error(""); $("toggle").focus({ preventScroll: true }); });
  $("settings-open").addEventListener("click", verbs.settings);
  bindRadio("view", (value) => { $("scroller").tabIndex = value === "lines" ? -1 : 0; }); // out of sight there
  bindRadio("theme", () => page.ribbon.repaint());
  bindRadio("source", (value) => { root.dataset.source = value; });
  bindRadio("latency", (value) => { $("cost").textContent = COSTS[value]; });
  for (const name of ["announce", "clean", "readable", "shortcuts"]) bindSwitch(name);
  $("vocabulary").value = preferences.get("vocabulary");
  $("vocabulary").addEventListener("change", () => { preferences.set("vocabulary", $("vocabulary").value); page.boost(); });
  bindMenu(page);
  bindFile(page, (chosen) => { file = chosen; });
  bindKeys(verbs);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => page.ribbon.repaint());
  navigator.mediaDevices?.addEventListener?.("devicechange", listDevices);
  listDevices();
  return { listDevices, showLanguage, showModel, showState, showContent };
}

function choice(file) {
  return {
    kind: checked("source"), latency: checked("latency"), deviceId: $("device").value,
    clean: preferences.get("clean"), pace: $("pace").value, file,
  };
}

function checked(name) {
  return document.querySelector(`input[name="${name}"]:checked`).value;
}

function viewVerbs(page) {
  const resize = (by) => {
    const size = Math.max(0, Math.min(preferences.sizes - 1, preferences.get("size") + by));
    preferences.set("size", size);
    $("size").value = String(size);
    page.view.follow(page.view.following);
  };
  $("size").max = String(preferences.sizes - 1);
  $("size").value = String(preferences.get("size"));
  $("size").addEventListener("input", () => resize(Number($("size").value) - preferences.get("size")));
  return {
    smaller: () => resize(-1),
    larger: () => resize(1),
    pause: () => page.view.follow(!page.view.following),
    settings: () => { if (!$("settings").open) $("settings").showModal(); },
    view() {
      const next = preferences.get("view") === "lines" ? "transcript" : "lines";
      document.querySelector(`input[name="view"][value="${next}"]`).click();
    },
  };
}

function transcriptVerbs(page) {
  return {
    clear: () => page.clear(),
    save: () => { if (isEmpty()) return; $("save").open = true; $("save").querySelector("[data-format]").focus(); },
    async copy() {
      if (page.transcript.finals.length === 0) return;
      try {
        await navigator.clipboard.writeText(toText(page.transcript));
        page.kept();
        page.notice("Transcript copied.");
        $("copy").classList.add("done");
        setTimeout(() => { $("copy").classList.remove("done"); }, TOAST_MS);
      } catch {
        page.error("The browser did not allow copying: download the text instead.");
      }
    },
  };
}

function bindRadio(name, apply) {
  const inputs = document.querySelectorAll(`input[name="${name}"]`);
  const stored = preferences.get(name);
  const first = [...inputs].find((input) => input.value === stored) ?? inputs[0];
  first.checked = true;
  apply(first.value);
  for (const input of inputs) {
    input.addEventListener("change", () => { preferences.set(name, input.value); apply(input.value); });
  }
}

function bindSwitch(name) {
  const box = $(name);
  const apply = () => { if (name === "announce") $("log").setAttribute("aria-live", box.checked ? "polite" : "off"); };
  box.checked = preferences.get(name);
  apply();
  box.addEventListener("change", () => { preferences.set(name, box.checked); apply(); });
}

function isEmpty() { return $("save").firstElementChild.ariaDisabled === "true"; }

function bindMenu(page) {
  const menu = $("save");
  menu.firstElementChild.addEventListener("click", (event) => { if (isEmpty()) event.preventDefault(); });
  for (const button of menu.querySelectorAll("[data-format]")) {
    button.addEventListener("click", () => {
      menu.open = false;
      menu.firstElementChild.focus();
      download(page.transcript, button.dataset.format);
      page.kept();
    });
  }
  document.addEventListener("click", (event) => { if (!menu.contains(event.target)) menu.open = false; });
  menu.addEventListener("focusout", ({ relatedTarget: next }) => { if (next && !menu.contains(next)) menu.open = false; });
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    menu.open = false;
    menu.firstElementChild.focus();
  });
}

function download(transcript, format) {
  const { mime, write } = FORMATS[format];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([write(transcript)], { type: `${mime};charset=utf-8` }));
  link.download = `captions.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function bindFile(page, choose) {
  const take = (file) => {
    if (!file) return;
    choose(file);
    $("file-name").textContent = file.name;
    page.error("");
  };
  $("file").addEventListener("change", () => take($("file").files[0]));
  document.addEventListener("dragover", (event) => { event.preventDefault(); root.classList.toggle("dropping", !page.running); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) root.classList.remove("dropping"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    root.classList.remove("dropping");
    if (page.running || event.dataTransfer.files.length === 0) return;
    document.querySelector('input[name="source"][value="file"]').click();
    take(event.dataTransfer.files[0]);
  });
}

function bindKeys(verbs) {
  const keys = {
    s: "toggle", c: "copy", x: "clear", d: "save", v: "view", p: "pause",
    "+": "larger", "=": "larger", "-": "smaller", "?": "settings",
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !preferences.get("shortcuts")) return;
    if ($("settings").open || event.target.closest("select, textarea, input:not([type=radio])")) return;
    const verb = keys[event.key.toLowerCase()];
    if (!verb) return;
    event.preventDefault();
    verbs[verb]();
  });
}

/** Fill the microphone picker; names come only after permission was given once. */
async function listDevices() {
  const found = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  const inputs = found.filter(({ kind, deviceId }) => kind === "audioinput" && deviceId && deviceId !== "default");
  const chosen = $("device").value;
  const options = inputs.map(({ deviceId, label }, i) => new Option(label || `Microphone ${i + 1}`, deviceId));
  $("device").replaceChildren(new Option("Default microphone", ""), ...options);
  if (inputs.some(({ deviceId }) => deviceId === chosen)) $("device").value = chosen;
}

function showLanguage(tag) {
  let name = tag;
  try {
    name = new Intl.DisplayNames("en", { type: "language" }).of(tag);
  } catch {
    // not a language tag ("auto"): shown as it is
  }
  $("language").textContent = name || "–";
}

/** Offer only the look-aheads the model has. */
function showModel({ id, precision, look_aheads: offered }) {
  $("model").textContent = `Model: ${id}, ${precision}.`;
  $("model").hidden = false;
  const inputs = [...document.querySelectorAll('input[name="latency"]')];
  for (const input of inputs) input.disabled = !offered.includes(LOOK_AHEADS[input.value]);
  const free = inputs.find((input) => !input.disabled);
  if (free && inputs.some((input) => input.checked && input.disabled)) free.click();
}

function showState({ state, running }) {
  $("toggle-text").textContent = { connecting: "Connecting", finishing: "Finishing" }[state] ?? (running ? "Stop" : "Start");
  $("toggle").ariaDisabled = String(state === "finishing"); // `disabled` would take the focus away
  for (const id of ["source-setup", "delay-setup"]) $(id).disabled = running;
}

function showContent({ empty }) {
  for (const id of ["copy", "clear"]) $(id).ariaDisabled = String(empty);
  for (const button of document.querySelectorAll("[data-format]")) button.disabled = empty;
  $("save").firstElementChild.ariaDisabled = String(empty); // a summary has no disabled of its own
  if (empty) $("save").open = false;
}
