/* A conversation that survives the network: reconnects with back-off, keeps audio meanwhile.
 * Does: queue audio until the server is ready, ask one that loads its model again, start a new session
 * after a loss, stop cleanly.
 * Does not know: audio devices, the page. (Resuming the same session is not built yet.)
 *
 * Tells `on`: session {baseMs, ready}, every server message, loading {}, lost {attempt}, failed {message}, ended {}. */

import { Conversation, closeReason } from "./protocol.js";

const FIRST_DELAY_MS = 250;
const MAX_DELAY_MS = 5000;
const JITTER_MS = 500;
const QUEUE_MS = 20000;
const DONE_TIMEOUT_MS = 15000;
const LOADING_S = 1;
const MISSING = "The last words may be missing.";
const RECONNECTABLE = new Set([1001, 1005, 1006, 1011, 1012, 1013]);

export class Link {
  #options;
  #on;
  #isLoading;
  #talk = null;
  #queue = [];
  #queued = 0;
  #captured = 0;
  #wasReady = false;
  #attempt = 0;
  #stopping = false;
  #over = false;
  #timer = 0;
  #waiting = [];

  /** `isLoading` says (later) whether a server that refuses has no model yet. */
  constructor({ url, token, start, live, isLoading, on }) {
    this.#options = { url, token, start };
    this.#isLoading = isLoading;
    this.rate = start.audio.rate;
    this.live = live;
    this.#on = on;
    this.#connect();
  }

  push(packet) {
    if (this.#over || this.#stopping) return;
    this.#captured += packet.length;
    if (this.#talk?.ready) {
      this.#talk.audio(packet, { live: this.live });
      return;
    }
    this.#queue.push(packet);
    this.#queued += packet.length;
    while ((this.#queued * 1000) / this.rate > QUEUE_MS) this.#queued -= this.#queue.shift().length;
  }

  /** Resolves when the flow window takes more audio (or the link is over). */
  room() {
    if (this.#over || this.#talk?.hasRoom(1000)) return yieldToEvents();
    return new Promise((resolve) => { this.#waiting.push(resolve); });
  }

  /** Favour these phrases from here on, also in a session after this one. */
  boost(phrases) {
    this.#options.start = { ...this.#options.start, boost: phrases };
    if (this.#talk?.ready) this.#talk.configure({ boost: phrases });
  }

  /** Ask for the last words; `ended` follows when they are there. */
  stop() {
    if (this.#over || this.#stopping) return;
    this.#stopping = true;
    if (this.#talk?.ready) this.#requestDone();
    else if (!this.#talk && this.#wasReady) this.#fail(`${closeReason(1006)} ${MISSING}`);
    else if (!this.#talk) this.#end();
  }

  /** Leave at once. */
  close() {
    this.#talk?.close();
    this.#end();
  }

  #connect() {
    this.#talk = new Conversation({ ...this.#options, on: (type, message) => this.#receive(type, message) });
  }

  #requestDone() {
    this.#talk.stop();
    this.#timer = setTimeout(() => this.#fail("The server did not send the last words in time."), DONE_TIMEOUT_MS);
  }

  #receive(type, message) {
    if (this.#over) return;
    if (type === "ready") this.#begin(message);
    else if (type === "ack") this.#release();
    if (type === "close") this.#lost(message.code);
    else if (type === "done") this.#finish(message);
    else if (type === "error" && message.fatal && message.code !== "internal") this.#refused(message);
    else this.#on(type, message);
  }

  async #refused({ code, message, retry_after: seconds = LOADING_S }) {
    this.#talk.close();
    this.#talk = null;
    const again = code === "over_capacity" && !this.#wasReady && !this.#stopping && (await this.#isLoading());
    if (this.#over) return; // stopped meanwhile
    if (!again) {
      this.#fail(code === "unauthorized" ? closeReason(4401) : message);
      return;
    }
    this.#on("loading", {});
    this.#timer = setTimeout(() => this.#connect(), seconds * 1000);
  }

  #begin(ready) {
    const baseMs = Math.round(((this.#captured - this.#queued) * 1000) / this.rate);
    this.#on("session", { ready, baseMs, again: this.#wasReady });
    this.#wasReady = true;
    this.#attempt = 0;
    for (const packet of this.#queue) this.#talk.audio(packet, { live: false });
    this.#queue = [];
    this.#queued = 0;
    if (this.#stopping) this.#requestDone();
    this.#release();
  }

  #release() {
    if (!this.#talk?.hasRoom(1000)) return;
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  #finish(message) {
    this.#on("done", message);
    this.#talk.close();
    this.#end();
  }

  #lost(code) {
    this.#talk = null;
    if (this.#stopping) {
      this.#fail(`${closeReason(code)} ${MISSING}`);
    } else if (!this.#wasReady || !RECONNECTABLE.has(code)) {
      this.#fail(code === 1006 && !this.#wasReady ? "The server cannot be reached." : closeReason(code));
    } else {
      this.#attempt += 1;
      this.#on("lost", { attempt: this.#attempt });
      const delay = Math.min(FIRST_DELAY_MS * 2 ** (this.#attempt - 1), MAX_DELAY_MS);
      this.#timer = setTimeout(() => this.#connect(), delay + Math.random() * JITTER_MS);
    }
  }

  #fail(message) {
    if (this.#over) return;
    this.#on("failed", { message });
    this.#talk?.close();
    this.#end();
  }

  #end() {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#timer);
    for (const resolve of this.#waiting.splice(0)) resolve();
    this.#on("ended", {});
  }
}

function yieldToEvents() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => { port1.close(); resolve(); };
    port2.postMessage(null);
  });
}
