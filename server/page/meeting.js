/* A meeting, read along: the words of a room as they come, in the order in which they were said.
 * Does: keep one row a final by its number, open words below, names where the speaker changes, search, files, the overlay.
 * Does not know: audio, sessions. The server sends the whole text first and again after a viewer was too slow. */

import { FORMATS } from "./minutes.js";

const FIRST_DELAY_MS = 250;
const MAX_DELAY_MS = 5000;
const JITTER_MS = 500;
const AT_END_PX = 24;
const COLOURS = 6;
const OVERLAY_ROWS = 2;

const $ = (id) => document.getElementById(id);
const root = document.documentElement;
const query = new URLSearchParams(location.search);
const overlay = query.has("overlay");
const name = location.pathname.split("/").at(-1);

class Transcript {
  #rows = new Map(); // n -> {line, element}
  #speakers = new Map(); // name -> colour

  /** Take finals; those that are known already are skipped. */
  add(lines) {
    for (const line of lines) {
      if (this.#rows.has(line.n)) continue;
      const element = this.row(line, "");
      let before = $("log").lastElementChild;
      while (before && isLater(before, line)) before = before.previousElementSibling;
      if (before) before.after(element);
      else $("log").prepend(element);
      this.#rows.set(line.n, { line, element });
      label(element);
      if (element.nextElementSibling) label(element.nextElementSibling);
    }
  }

  /** Start again from the whole text: rows that it does not have are gone. */
  restore(lines) {
    const known = new Set(lines.map(({ n }) => n));
    for (const [n, { element }] of this.#rows) {
      if (known.has(n)) continue;
      element.remove();
      this.#rows.delete(n);
    }
    this.add(lines);
  }

  open(lines) {
    $("open").replaceChildren(...lines.map((line) => this.row(line, "tail")));
    for (const element of $("open").children) label(element);
  }

  row({ speaker, start_ms: startMs, n = Infinity, text, stable }, kind) {
    if (!this.#speakers.has(speaker)) this.#speakers.set(speaker, this.#speakers.size % COLOURS);
    const element = document.createElement("p");
    element.className = "said";
    Object.assign(element.dataset, { speaker: this.#speakers.get(speaker), name: speaker, start: startMs, n });
    const time = document.createElement("time");
    time.textContent = clock(startMs);
    time.setAttribute("aria-hidden", "true");
    const who = document.createElement("b");
    who.textContent = `${speaker}${overlay ? "" : ":"}`;
    const words = document.createElement("span");
    const settled = kind ? stable + (text[stable.length] === " " ? " " : "") : text;
    words.textContent = settled;
    element.append(time, who, words);
    if (text.length > settled.length) {
      const tail = document.createElement("span");
      tail.className = kind;
      tail.textContent = text.slice(settled.length);
      element.append(tail);
    }
    return element;
  }

  get text() {
    return [...$("log").children].map((row) => `${row.dataset.name}: ${row.children[2].textContent}\n`).join("");
  }

  /** Finals in the order of the page. */
  get lines() {
    return [...$("log").children].map((row) => this.#rows.get(Number(row.dataset.n)).line);
  }

  get isEmpty() { return this.#rows.size === 0 && $("open").childElementCount === 0; }
}

function isLater(element, { start_ms: startMs, n }) {
  const start = Number(element.dataset.start);
  return start > startMs || (start === startMs && Number(element.dataset.n) > n);
}

/** A name is shown where the speaker changes; it is there for screen readers on every row. */
function label(element) {
  const above = element.previousElementSibling ?? (element.parentElement === $("open") ? $("log").lastElementChild : null);
  element.toggleAttribute("data-again", above?.dataset.name === element.dataset.name);
}

function clock(ms) {
  const seconds = Math.floor(ms / 1000);
  const two = (value) => String(value).padStart(2, "0");
  const minutes = `${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`;
  return seconds < 3600 ? minutes : `${Math.floor(seconds / 3600)}:${minutes}`;
}

class Reader {
  #following = true;

  constructor() {
    $("scroller").addEventListener("scroll", () => this.#scrolled(), { passive: true });
    $("jump").addEventListener("click", () => this.follow(true));
    new ResizeObserver(() => this.stick()).observe($("scroller"));
  }

  follow(on) {
    this.#following = on;
    $("jump").hidden = on;
    this.stick();
  }

  stick() {
    if (this.#following) $("scroller").scrollTop = $("scroller").scrollHeight;
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = $("scroller");
    const atEnd = scrollHeight - scrollTop - clientHeight < AT_END_PX;
    if (atEnd !== this.#following) this.follow(atEnd);
  }
}

const transcript = new Transcript();
const reader = new Reader();

function receive(message) {
  if (message.type === "room") {
    $("log").setAttribute("aria-live", "off"); // what was said before one came is not read out
    transcript.restore(message.finals);
    $("dropped").hidden = message.dropped === 0;
    $("dropped").textContent = `The first ${message.dropped} lines are no longer kept.`;
    setTimeout(() => $("log").setAttribute("aria-live", "polite"), 500);
  } else if (message.type === "update") {
    transcript.add(message.finals);
  } else {
    return;
  }
  transcript.open(message.open);
  $("empty").hidden = !transcript.isEmpty;
  tell(message.live ? "live" : "waiting", message.live ? `Live, ${message.live} ${message.live === 1 ? "speaker" : "speakers"}` : "Nobody is here to speak");
  if (overlay) trim();
  else if ($("search").value) find();
  reader.stick();
}

/** The overlay has the newest rows only. */
function trim() {
  const rows = [...$("log").children, ...$("open").children];
  rows.forEach((row, i) => { row.hidden = i < rows.length - OVERLAY_ROWS; });
  const first = rows.find((row) => !row.hidden);
  first?.removeAttribute("data-again");
}

function find() {
  const wanted = $("search").value.trim().toLowerCase();
  let count = 0;
  for (const row of $("log").children) {
    const words = row.children[2];
    const text = words.textContent;
    const hit = wanted === "" || `${row.dataset.name} ${text}`.toLowerCase().includes(wanted);
    row.hidden = !hit;
    if (wanted && hit) count += 1;
    mark(words, text, wanted);
  }
  $("open").hidden = wanted !== "";
  $("found").textContent = wanted ? `${count} found` : "";
}

function mark(box, text, wanted) {
  const at = wanted ? text.toLowerCase().indexOf(wanted) : -1;
  if (at < 0) {
    if (box.childElementCount) box.textContent = text;
    return;
  }
  const hit = document.createElement("mark");
  hit.textContent = text.slice(at, at + wanted.length);
  box.replaceChildren(text.slice(0, at), hit, text.slice(at + wanted.length));
}

function tell(state, text) {
  root.dataset.state = state;
  if ($("state").textContent !== text) $("state").textContent = text;
}

let attempt = 0;
let isKnown = false; // the server let us in once: browsers hide why one refuses

function connect() {
  const token = query.get("token");
  const url = new URL(`/v1/meeting/${name}${token ? `?token=${encodeURIComponent(token)}` : ""}`, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url);
  socket.addEventListener("message", ({ data }) => {
    attempt = 0;
    isKnown = true;
    receive(JSON.parse(data));
  });
  socket.addEventListener("close", () => {
    const delay = Math.min(FIRST_DELAY_MS * 2 ** attempt, MAX_DELAY_MS) + Math.random() * JITTER_MS;
    attempt += 1;
    tell("lost", isKnown ? "Connection lost, trying again" : "No connection; the link may need ?token=…");
    setTimeout(connect, delay);
  });
}

function resize(step) {
  const size = Math.min(preferences.sizes - 1, Math.max(0, preferences.get("size") + step));
  preferences.set("size", size);
  reader.stick();
}

function save(format) {
  const { mime, write } = FORMATS[format];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([write(transcript.lines, `Meeting ${name}`)], { type: `${mime};charset=utf-8` }));
  link.download = `${name}.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

root.toggleAttribute("data-overlay", overlay);
document.title = `${name} · rivulet`;
$("title").textContent = name;
$("search").addEventListener("input", () => { find(); reader.stick(); });
$("smaller").addEventListener("click", () => resize(-1));
$("larger").addEventListener("click", () => resize(1));
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(transcript.text);
    $("copy").textContent = "Copied";
  } catch { // refused, or no clipboard: browsers give it only to pages on https or localhost
    $("copy").textContent = "Not allowed: save";
  }
  setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
});
for (const button of $("save").querySelectorAll("[data-format]")) {
  button.addEventListener("click", () => {
    $("save").open = false;
    save(button.dataset.format);
  });
}
document.addEventListener("click", (event) => { if (!$("save").contains(event.target)) $("save").open = false; });
$("speak").href = `/?meeting=${encodeURIComponent(name)}`;
connect();
