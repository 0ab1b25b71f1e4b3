/* The transcript as a value: finals that never change, and one open partial a channel.
 * Does: place messages on one timeline, keep a partial from getting shorter, close a lost session.
 * Does not know: the page, sockets, time of day. */

export function splitWords(text) {
  return text.split(/\s+/).filter(Boolean);
}

export class Transcript {
  #base = 0;
  #last = new Map(); // channel -> id of its last final in this session

  finals = [];
  partials = new Map(); // channel -> {id, words, stable, startMs, endMs}
  language = "";
  model = "";

  get isEmpty() { return this.finals.length === 0 && this.partials.size === 0; }
  get endMs() { return Math.max(0, ...this.finals.map((final) => final.endMs)); }
  get words() { return this.finals.reduce((sum, final) => sum + splitWords(final.text).length, 0); }

  /** A new session begins at `baseMs` of this transcript; its ids start at 0 again. */
  beginSession(baseMs) {
    this.#base = baseMs;
    this.#last.clear();
  }

  /** Take a partial. It replaces the last one, but never has fewer words: an older tail stays until replaced. */
  partial(message) {
    const { channel, id } = message;
    if (id <= (this.#last.get(channel) ?? -1)) return null; // late: its final is there
    const before = this.partials.get(channel);
    const words = splitWords(message.text);
    if (before?.id === id) words.push(...before.words.slice(words.length));
    const partial = {
      id, channel, words,
      stable: splitWords(message.stable).length,
      startMs: this.#base + message.start_ms,
      endMs: this.#base + message.end_ms,
    };
    this.partials.set(channel, partial);
    return partial;
  }

  /** Take a final; null when it is a repeat or has no words. */
  final(message) {
    const { channel, id } = message;
    if (id <= (this.#last.get(channel) ?? -1)) return null;
    this.#last.set(channel, id);
    this.partials.delete(channel);
    if (message.language) this.language = message.language;
    if (message.text.trim() === "") return null;
    return this.#keep({
      channel,
      text: message.text.trim(),
      startMs: this.#base + message.start_ms,
      endMs: this.#base + message.end_ms,
      confidence: message.confidence ?? null,
      cause: message.cause,
      words: (message.words ?? []).map(({ w, s, e, c }) => ({ w, startMs: this.#base + s, endMs: this.#base + e, confidence: c ?? null })),
    });
  }

  /** An empty transcript that goes on in the same session. */
  emptied() {
    const next = new Transcript();
    next.#base = this.#base;
    next.#last = new Map(this.#last);
    next.language = this.language;
    next.model = this.model;
    return next;
  }

  /** The session is lost: what was on screen stays, marked as cut. Returns the new finals. */
  cut() {
    const open = [...this.partials.values()].filter((partial) => partial.words.length > 0);
    this.partials.clear();
    return open.map(({ channel, words, startMs, endMs }) =>
      this.#keep({ channel, text: words.join(" "), startMs, endMs, confidence: null, cause: "lost", words: [] }));
  }

  #keep(final) {
    this.finals.push(Object.freeze(final));
    return final;
  }
}
