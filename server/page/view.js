/* The captions on the page: a log of finals, the open words after it, and the two-line view.
 * Does: draw changes only, grow and never shrink, follow the end until the reader scrolls away.
 * Does not know: sockets, audio, the protocol. */

const KEEP_LINES = 8;
const MAX_CHARS = 42;
const AT_END_PX = 24;

export class CaptionView {
  #following = true;
  #missed = 0;
  #tall = 0;

  constructor({ scroller, log, open, roll, jump, onFollow }) {
    Object.assign(this, { scroller, log, open, jump, onFollow });
    this.rolling = new RollingLines(roll);
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    new ResizeObserver(() => this.#stick()).observe(scroller);
  }

  get following() { return this.#following; }

  follow(on) {
    this.#following = on;
    if (on) this.#missed = 0;
    this.#stick();
    this.#tell();
  }

  partial(partial) {
    fill(this.open, marked(partial.words, partial.stable));
    this.#grow();
    this.rolling.open(partial.words, partial.stable);
    this.#stick();
  }

  final(final) {
    this.log.append(row(final));
    this.#settle();
    this.rolling.settle(final.text.split(" "));
    if (!this.#following) this.#missed += 1;
    this.#stick();
    this.#tell();
  }

  /** The open words are gone without a final (it was empty). */
  dropOpen() {
    this.#settle();
    this.rolling.open([], 0);
  }

  divide(text) {
    const line = document.createElement("p");
    line.className = "divider";
    line.textContent = text;
    this.log.append(line);
    this.#stick();
  }

  clear() {
    this.log.replaceChildren();
    this.#settle();
    this.rolling.clear();
    this.follow(true);
  }

  /** Show a transcript from the start (after undo). */
  restore(finals) {
    this.clear();
    this.log.append(...finals.map(row));
    for (const final of finals.slice(-KEEP_LINES)) this.rolling.settle(final.text.split(" "));
    this.#stick();
  }

  #grow() {
    const height = this.open.offsetHeight;
    if (height > this.#tall) {
      this.#tall = height;
      this.open.style.minHeight = `${height}px`;
    }
  }

  #settle() {
    this.open.replaceChildren();
    this.open.style.minHeight = "";
    this.#tall = 0;
  }

  #stick() {
    if (this.#following) this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    const atEnd = scrollHeight - scrollTop - clientHeight < AT_END_PX;
    if (atEnd !== this.#following) this.follow(atEnd);
  }

  #tell() {
    this.jump.hidden = this.#following;
    const words = this.#missed === 0 ? "Follow live" : `Follow live, ${this.#missed} new`;
    if (this.jump.lastElementChild.textContent !== words) this.jump.lastElementChild.textContent = words;
    this.onFollow(this.#following);
  }
}

function row(final) {
  const line = document.createElement("p");
  line.className = "final";
  line.dataset.channel = String(final.channel);
  if (final.cause === "lost") line.dataset.cut = "";
  const time = document.createElement("time");
  time.textContent = clock(final.startMs);
  time.setAttribute("aria-hidden", "true");
  const text = document.createElement("span");
  text.textContent = final.text;
  line.append(time, text);
  return line;
}

export function clock(ms) {
  const seconds = Math.floor(ms / 1000);
  const two = (value) => String(value).padStart(2, "0");
  const minutes = `${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`;
  return seconds < 3600 ? minutes : `${Math.floor(seconds / 3600)}:${minutes}`;
}

/** One span a word: unchanged words are left alone, so only what changed moves. */
function fill(box, words) {
  while (box.children.length > words.length) {
    box.lastElementChild.remove();
    if (box.lastChild?.nodeType === Node.TEXT_NODE) box.lastChild.remove();
  }
  words.forEach(({ word, kind }, i) => {
    let span = box.children[i];
    if (!span) {
      if (i > 0) box.append(" ");
      span = document.createElement("span");
      box.append(span);
    }
    if (span.textContent !== word) span.textContent = word;
    if (span.className !== kind) span.className = kind;
  });
}

function marked(words, stable) {
  return words.map((word, i) => ({ word, kind: i < stable ? "stable" : "tail" }));
}

/** Broadcast captions: whole lines roll up, a line that is full is never wrapped again. */
class RollingLines {
  #settled = []; // words of finals, each {word, kind, first}: first starts a line
  #open = { words: [], stable: 0 };
  #shown = 1;
  #chars = MAX_CHARS;

  constructor(box) {
    this.box = box;
    new ResizeObserver(() => this.#measure()).observe(box); // of the window and of the letters
  }

  open(words, stable) {
    this.#open = { words, stable };
    this.#draw();
  }

  settle(words) {
    this.#settled.push(...words.map((word, i) => ({ word, kind: "settled", first: i === 0 })));
    this.open([], 0);
  }

  clear() {
    this.#settled = [];
    this.#shown = 1;
    this.open([], 0);
  }

  #measure() {
    const probe = document.createElement("span");
    probe.className = "probe";
    probe.textContent = "the water runs on and reads what was said x"; // 43 characters
    this.box.append(probe);
    const each = probe.getBoundingClientRect().width / probe.textContent.length;
    probe.remove();
    const style = getComputedStyle(this.box);
    const inner = this.box.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    if (each > 0 && inner > 0) this.#chars = Math.max(12, Math.min(MAX_CHARS, Math.floor(inner / each)));
    this.#draw();
  }

  #lines() {
    const tail = marked(this.#open.words, this.#open.stable).map((each, i) => ({ ...each, first: i === 0 }));
    const lines = [];
    let length = 0;
    for (const each of [...this.#settled, ...tail]) {
      if (lines.length === 0 || each.first || length + 1 + each.word.length > this.#chars) {
        lines.push([]);
        length = -1;
      }
      lines.at(-1).push(each);
      length += 1 + each.word.length;
    }
    return lines;
  }

  #draw() {
    let lines = this.#lines();
    while (lines.length > KEEP_LINES && lines[0].every(({ kind }) => kind === "settled")) {
      this.#settled.splice(0, lines[0].length);
      if (this.#settled[0]) this.#settled[0].first = true;
      lines = lines.slice(1);
    }
    this.#shown = Math.max(this.#shown, Math.min(2, lines.length));
    const visible = lines.slice(-this.#shown);
    while (this.box.children.length < this.#shown) this.box.append(document.createElement("div"));
    [...this.box.children].forEach((div, i) => fill(div, visible[i] ?? []));
  }
}
