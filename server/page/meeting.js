/* A meeting, read along: the words of a room as they come, in the order in which they were said.
 * Does: keep one row a final by its number, open words below, names where the speaker changes, search, files, the overlay.
 * Does not know: audio, sessions. The server sends the whole text first and again after a viewer was too slow. */

import { FORMATS } from "./minutes.js";

const FIRST_DELAY_MS = 250;
const MAX_DELAY_MS = 5000;
const JITTER_MS = 500;
const AT_END_PX = 24;
const COLOURS = 6;
const FIRST_OF_OURS = 4000; // close codes from here on are the server's own
const REFUSED = { 4401: "The link has no token that is good (?token=…): ask for a new one" };
const OVERLAY_ROWS = 2;
const OVERLAY_CLEAR_MS = 6000; // behind the last new words, as on television

const $ = (id) => document.getElementById(id);
const root = document.documentElement;
const query = new URLSearchParams(location.search);
const overlay = query.has("overlay");
const name = location.pathname.split("/").at(-1);

class Transcript {
  #rows = new Map(); // n -> element, of the room as it lives now
  #lines = new Map(); // element -> line, of all that is shown
  #speakers = new Map(); // name -> colour
  #life = "";
  #baseMs = 0; // where this life begins

  /** Take finals; those that are known already are skipped. Returns the new rows. */
  add(lines) {
    const fresh = lines.filter(({ n }) => !this.#rows.has(n)).map((line) => this.#moved(line));
    return fresh.map((line) => {
      const element = this.row(line, "");
      let before = $("log").lastElementChild;
      while (before && isLater(before, line)) before = before.previousElementSibling;
      if (before) before.after(element);
      else $("log").prepend(element);
      this.#rows.set(line.n, element);
      this.#lines.set(element, line);
      label(element);
      if (element.nextElementSibling) label(element.nextElementSibling);
      return element;
    });
  }

  /** Start again from the whole text: rows that it does not have are gone. A room that began anew goes on behind what was read before. */
  restore({ life, finals }) {
    if (life !== this.#life) {
      this.#life = life;
      this.#baseMs = this.lines.reduce((end, line) => Math.max(end, line.end_ms), 0);
      this.#rows.clear();
    }
    const known = new Set(finals.map(({ n }) => n));
    for (const [n, element] of this.#rows) {
      if (known.has(n)) continue;
      element.remove();
      this.#rows.delete(n);
      this.#lines.delete(element);
    }
    this.add(finals);
  }

  #moved(line) {
    const ends = line.end_ms === undefined ? {} : { end_ms: line.end_ms + this.#baseMs };
    return { ...line, ...ends, start_ms: line.start_ms + this.#baseMs };
  }

  open(lines) {
    $("open").replaceChildren(...lines.map((line) => this.row(this.#moved(line), "tail")));
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
    words.className = "words";
    const settled = kind ? stable + (text[stable.length] === " " ? " " : "") : text;
    words.textContent = settled;
    element.append(time, who, words);
    if (text.length > settled.length) {
      const tail = document.createElement("span");
      tail.className = kind;
      tail.textContent = text.slice(settled.length);
      words.append(tail);
    }
    return element;
  }

  get text() {
    return [...$("log").children].map((row) => `${row.dataset.name}: ${row.children[2].textContent}\n`).join("");
  }

  /** Finals in the order of the page. */
  get lines() {
    return [...$("log").children].map((row) => this.#lines.get(row));
  }

  get isEmpty() { return this.#lines.size === 0 && $("open").childElementCount === 0; }
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
  let fresh = [];
  if (message.type === "room") {
    $("log").setAttribute("aria-live", "off"); // what was said before one came is not read out
    transcript.restore(message);
    $("dropped").hidden = message.dropped === 0;
    $("dropped").textContent = `The first ${message.dropped} lines are no longer kept.`;
    if (preferences.get("announce") && !overlay) setTimeout(() => $("log").setAttribute("aria-live", "polite"), 500);
  } else if (message.type === "update") {
    fresh = transcript.add(message.finals);
  } else {
    return;
  }
  transcript.open(message.open);
  $("empty").hidden = !transcript.isEmpty;
  tell(message.live ? "live" : "waiting", message.live ? `Live, ${message.live} ${message.live === 1 ? "speaker" : "speakers"}` : "Nobody is here to speak");
  if (overlay) trim();
  else if (message.type === "room") find();
  else fresh.forEach(seek);
  reader.stick();
}

let newest = ""; // what the overlay shows, or showed last
let clearing = 0;

/** The overlay has the newest rows only, of a long one its end, and for a while. */
function trim() {
  const rows = [...$("log").children, ...$("open").children].filter((row) => !("gone" in row.dataset));
  const said = rows.map((row) => row.children[2].textContent).join("\n");
  if (said !== newest) {
    newest = said;
    $("open").hidden = false;
    clearTimeout(clearing);
    clearing = setTimeout(clear, OVERLAY_CLEAR_MS);
  } else if ($("open").hidden) clear(); // open words that became final after all
  rows.forEach((row, i) => { row.hidden = i < rows.length - OVERLAY_ROWS; });
  const shown = rows.filter((row) => !row.hidden);
  shown[0]?.removeAttribute("data-again");
  for (const row of shown) row.children[2].scrollTop = row.children[2].scrollHeight;
}

/** Rows that were cleared do not come back, neither above new words nor with a new connection. */
function clear() {
  for (const row of $("log").children) {
    row.dataset.gone = "";
    row.hidden = true;
  }
  $("open").hidden = true;
  newest = [...$("open").children].map((row) => row.children[2].textContent).join("\n");
}

let wanted = null; // what is searched for
let hits = 0;

function find() {
  const text = $("search").value.trim();
  wanted = text === "" ? null : new RegExp(text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&").replace(/\s+/g, "\\s+"), "giu");
  hits = 0;
  root.toggleAttribute("data-finding", wanted !== null);
  for (const row of $("log").children) seek(row);
  $("open").hidden = wanted !== null;
  if (wanted === null) $("found").textContent = "";
}

/** Show a row if it has what is searched for, and where. */
function seek(row) {
  const words = row.children[2];
  const text = words.textContent;
  const found = wanted === null ? [] : [...text.matchAll(wanted)];
  row.hidden = wanted !== null && found.length === 0 && row.dataset.name.search(wanted) < 0;
  if (found.length > 0 || words.childElementCount > 0) mark(words, text, found);
  if (wanted === null) return;
  if (!row.hidden) hits += 1;
  $("found").textContent = `${hits} found`;
}

function mark(box, text, found) {
  let at = 0;
  box.replaceChildren();
  for (const { index, 0: hit } of found) {
    const marked = document.createElement("mark");
    marked.textContent = hit;
    box.append(text.slice(at, index), marked);
    at = index + hit.length;
  }
  box.append(text.slice(at));
}

function tell(state, text) {
  root.dataset.state = state;
  if ($("state").textContent !== text) $("state").textContent = text;
}

let attempt = 0;
let isKnown = false; // the server let us in once

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
  socket.addEventListener("close", ({ code, reason }) => {
    if (code >= FIRST_OF_OURS) { // asking again would not help
      tell("lost", REFUSED[code] ?? reason);
      return;
    }
    const delay = Math.min(FIRST_DELAY_MS * 2 ** attempt, MAX_DELAY_MS) + Math.random() * JITTER_MS;
    attempt += 1;
    tell("lost", isKnown ? "Connection lost, trying again" : `No connection${reason && `: ${reason}`}, trying again`);
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
    closeMenu();
    save(button.dataset.format);
  });
}
/** What hides itself hands the focus on: a keyboard would begin at the top again. */
function closeMenu() {
  $("save").open = false;
  $("save").firstElementChild.focus();
}
$("save").addEventListener("keydown", ({ key }) => { if (key === "Escape") closeMenu(); });
document.addEventListener("click", (event) => { if (!$("save").contains(event.target)) $("save").open = false; });
$("speak").href = `/?meeting=${encodeURIComponent(name)}`;
connect();
