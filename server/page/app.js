/* The page: joins source, link, transcript and view, and keeps one state.
 * Does: idle -> connecting -> live (<-> lost) -> finishing -> finished; says each in words.
 * Does not know: how audio is captured, how messages look on the wire, how captions are drawn. */

import { Transcript } from "./captions.js";
import { CaptureError, openFile, openMicrophone, openTab } from "./capture.js";
import { bindControls } from "./controls.js";
import { Link } from "./link.js";
import { LagMeter, Ribbon, level } from "./meter.js";
import { CaptionView, clock } from "./view.js";

const NO_AUDIO_MS = 2000;
const NOTICE_MS = 10000;
const STATES = {
  idle: "Ready", connecting: "Connecting…", live: "Live", lost: "Reconnecting…",
  finishing: "Finishing…", finished: "Finished",
};
const PHRASES = 1000;
const PHRASE_CHARS = 64;
const REPLACE = "A file begins a new transcript, and the one that is here was neither copied nor downloaded. Go on without it?";
const ROOM = /^[A-Za-z0-9_-]{1,64}$/;
const TOKEN = /^[!#$%&'*+.^_`|~\w-]*$/; // as a WebSocket's subprotocol takes it
const RUNNING = new Set(["connecting", "live", "lost", "finishing"]);

const $ = (id) => document.getElementById(id);
const root = document.documentElement;

/** The server's models, none while it loads one; null where it does not tell. */
async function models() {
  try {
    return (await (await fetch("v1/models")).json()).models;
  } catch {
    return null; // an older or a guarded server: all three look-aheads stay on offer
  }
}

class Page {
  state = "idle";
  transcript = new Transcript();
  #source = null;
  #link = null;
  #undo = null;
  #base = 0; // where this recording starts on the transcript's timeline
  #captured = 0; // samples of this recording
  #sessionBase = 0; // samples of this recording before the present session
  #startedAt = 0;
  #lastFrame = 0;
  #lastSound = 0;
  #watch = 0;
  #wakeLock = null;
  #audioNotice = "";
  #noticeTimer = 0;
  #noticeStays = false;
  #kept = null; // the last final when the transcript was copied or downloaded
  #room = null;
  #wasLoading = false;

  constructor() {
    this.ribbon = new Ribbon($("ribbon"));
    this.lag = new LagMeter({ name: $("lag-name"), value: $("lag"), unit: $("lag-unit"), line: $("spark") });
    this.view = new CaptionView({
      scroller: $("scroller"), log: $("log"), open: $("open"), roll: $("roll"), jump: $("jump"),
      onFollow: (on) => $("pause").setAttribute("aria-pressed", String(!on)),
    });
    this.controls = bindControls(this);
    document.addEventListener("visibilitychange", () => { if (!document.hidden && RUNNING.has(this.state)) this.#keepAwake(); });
    addEventListener("beforeunload", (event) => { if (this.running || this.#isUnsaved) event.preventDefault(); });
    addEventListener("pagehide", () => this.#link?.close());
    this.#refresh();
    this.#join();
    this.#askForModel();
  }

  get running() { return RUNNING.has(this.state); }

  get #isUnsaved() { return this.transcript.finals.length > 0 && this.transcript.finals.at(-1) !== this.#kept; }

  /** The transcript as it is now is in the clipboard or in a file. */
  kept() { this.#kept = this.transcript.finals.at(-1); }

  async start(choice) {
    if (this.running) return;
    this.error("");
    this.notice("");
    if (choice.kind === "file" && !choice.file) {
      this.error("Choose a file first.");
      return;
    }
    if (!TOKEN.test(token())) {
      this.error("The token in this page's address cannot be one: was it cut, or pasted with more?");
      return;
    }
    if (choice.kind === "file" && this.#isUnsaved && !confirm(REPLACE)) return;
    this.#enter("connecting");
    try {
      this.#source = await this.#open(choice);
    } catch (error) {
      if (!(error instanceof CaptureError)) throw error;
      this.error(error.message);
      this.#enter(this.transcript.isEmpty ? "idle" : "finished");
      return;
    }
    if (choice.kind === "file") this.#empty();
    this.#begin(choice);
  }

  stop() {
    if (this.#link && this.state !== "finishing") this.#finish();
  }

  clear() {
    if (this.transcript.isEmpty) return;
    this.#undo = this.transcript.finals;
    this.#empty();
    this.notice("Transcript cleared.", { undo: true });
    if (!this.running) this.#enter("idle");
    this.#refresh();
  }

  #empty() {
    this.transcript = this.transcript.emptied();
    this.view.clear();
  }

  /** What was cleared comes back, before what was said since then. */
  undo() {
    if (!this.#undo) return;
    this.transcript.finals.unshift(...this.#undo);
    this.#undo = null;
    this.view.restore(this.transcript.finals);
    this.notice("Transcript is back.");
    if (!this.running) this.#enter("finished");
    this.#refresh();
  }

  /** Say something that passes; `stays` for what holds until it is taken back. */
  notice(text, { undo = false, stays = false } = {}) {
    clearTimeout(this.#noticeTimer);
    this.#noticeStays = stays;
    $("notice").firstElementChild.textContent = text;
    $("undo").hidden = !undo;
    if (text && !stays) this.#noticeTimer = setTimeout(() => this.notice(""), NOTICE_MS);
  }

  error(text) {
    $("error").firstElementChild.textContent = text;
    $("error").hidden = text === "";
  }

  async #open({ kind, deviceId, clean, file, pace }) {
    if (kind === "microphone") return openMicrophone({ deviceId, clean });
    if (kind === "tab") return openTab();
    return openFile(file, { fast: pace === "fast", aloud: pace === "aloud", room: () => this.#link?.room() ?? 0 });
  }

  #begin({ latency }) {
    const source = this.#source;
    this.#base = this.transcript.isEmpty ? 0 : this.transcript.endMs;
    this.#captured = 0;
    this.#sessionBase = 0;
    this.#undo = null;
    this.ribbon.reset();
    this.lag.reset({ isSpeed: source.fast });
    if (!this.transcript.isEmpty) this.view.divide(source.label);
    this.view.follow(true);
    let begun = false;
    this.#link = new Link({
      url: new URL("v1/stream", document.baseURI).href.replace(/^http/, "ws"),
      token: token(),
      start: { audio: { encoding: "pcm_s16le", rate: source.rate, channels: 1 }, latency, partials: "all", words: true, ...this.#wishes() },
      live: source.live,
      isLoading: async () => (await models())?.length === 0,
      on: (type, message) => {
        if (type === "session" && !source.live && !begun) {
          begun = true;
          source.begin((packet) => this.#packet(packet), () => this.stop());
        }
        this.#receive(type, message);
      },
    });
    if (source.live) source.begin((packet) => this.#packet(packet), () => this.#sourceEnded());
    this.#startedAt = this.#lastFrame = this.#lastSound = performance.now();
    this.#watch = setInterval(() => this.#watchAudio(), 500);
    this.#keepAwake();
    this.controls.listDevices();
  }

  /** ?meeting=ID&name=NAME: what is said here goes into a room that others read along. */
  #join() {
    const query = new URLSearchParams(location.search);
    const room = query.get("meeting") ?? "";
    if (!ROOM.test(room)) return;
    this.#room = room;
    $("join").hidden = false;
    $("speaker").value = (query.get("name") ?? "").slice(0, 64);
    $("read-along").href = `meeting/${room}`;
  }

  /** Names and terms were changed: a running session is told. */
  boost() { this.#link?.boost(phrases()); }

  #wishes() {
    const wishes = {};
    if (phrases().length > 0) wishes.boost = phrases();
    const name = $("speaker").value.trim();
    if (this.#room) wishes.meeting = { id: this.#room, speakers: name ? [name] : [] };
    if (preferences.get("readable")) wishes.readable = {};
    return wishes;
  }

  #sourceEnded() {
    this.notice("The audio source was closed, so listening stopped.");
    this.stop();
  }

  #packet(packet) {
    if (!this.#link) return; // the audio thread's last packet may come after the end
    const now = performance.now();
    const { level: loud, silent } = level(packet);
    this.#captured += packet.length;
    this.#lastFrame = now;
    if (!silent) this.#lastSound = now;
    this.ribbon.add(this.#captured, loud);
    this.#link.push(packet);
    $("time").textContent = clock((this.#captured * 1000) / this.#source.rate);
  }

  /** Two seconds without frames, or with frames of pure zeros, are worth a word. */
  #watchAudio() {
    if (this.state !== "live" || !this.#source.live) return;
    const now = performance.now();
    const what = this.#source.label;
    let text = "";
    if (now - this.#lastFrame > NO_AUDIO_MS) text = `No audio is arriving from ${what}.`;
    else if (now - this.#lastSound > NO_AUDIO_MS) text = `${what} is silent: is it muted?`;
    if (text !== (this.#audioNotice)) {
      this.#audioNotice = text;
      this.notice(text, { stays: true });
    }
  }

  #receive(type, message) {
    const handlers = {
      session: () => this.#session(message),
      partial: () => this.#partial(message),
      final: () => this.#final(message),
      ack: () => this.#ack(message),
      lag: () => { if (message.level !== "ok") this.notice(`The server is ${(message.ms / 1000).toFixed(1)} s behind.`); },
      gap: () => this.notice("Some audio was lost on the way."),
      goaway: () => this.notice("The server moves this session soon."),
      error: () => this.error(message.message),
      configured: () => this.notice("Names and terms are heard from here on."),
      loading: () => this.#loading(),
      lost: () => this.#lost(message),
      failed: () => this.error(message.message),
      done: () => this.ribbon.decoded(this.#sessionBase + message.samples),
      ended: () => this.#ended(),
    };
    handlers[type]?.();
  }

  #session({ ready, baseMs, again }) {
    this.transcript.beginSession(this.#base + baseMs);
    this.#sessionBase = Math.round((baseMs * this.#source.rate) / 1000);
    this.transcript.model = ready.model;
    this.transcript.language = ready.applied?.language ?? this.transcript.language;
    $("step").textContent = String(ready.chunk_ms);
    this.controls.showLanguage(this.transcript.language);
    if (again) this.notice("Connected again, in a new session.");
    if (this.#wasLoading) {
      this.#wasLoading = false;
      this.notice("");
      this.#askForModel();
    }
    if (this.state !== "finishing") this.#enter("live");
  }

  #partial(message) {
    const partial = this.transcript.partial(message);
    if (partial) this.view.partial(partial);
    this.#refresh();
  }

  #final(message) {
    const final = this.transcript.final(message);
    if (final) this.view.final(final);
    else if (this.transcript.partials.size === 0) this.view.dropOpen();
    this.controls.showLanguage(this.transcript.language);
    this.#refresh();
  }

  #ack({ done, lagMs }) {
    this.ribbon.decoded(this.#sessionBase + done);
    if (this.#source.fast) {
      const seconds = (this.#sessionBase + done) / this.#source.rate;
      this.lag.speed((seconds * 1000) / (performance.now() - this.#startedAt));
    } else if (lagMs !== null) {
      this.lag.add(lagMs);
    }
  }

  #loading() {
    this.#wasLoading = true;
    this.notice("The server loads its model: listening goes on, words follow.", { stays: true });
  }

  #lost({ attempt }) {
    for (const final of this.transcript.cut()) this.view.final(final);
    if (attempt === 1) this.notice("The connection was lost: listening goes on, words follow in a new session.", { stays: true });
    this.#enter("lost");
  }

  async #finish() {
    this.#enter("finishing");
    await this.#source?.stop(); // the last packet comes before this resolves
    this.#link?.stop();
  }

  async #ended() {
    clearInterval(this.#watch);
    for (const final of this.transcript.cut()) this.view.final(final);
    if (this.#noticeStays) this.notice("");
    this.#audioNotice = "";
    this.#wasLoading = false;
    await this.#source?.stop();
    this.#source = this.#link = null;
    this.#wakeLock?.release();
    this.#wakeLock = null;
    if (this.transcript.isEmpty && $("error").hidden) this.notice("No words were heard.");
    this.#enter(this.transcript.isEmpty ? "idle" : "finished");
    this.#refresh();
  }

  #enter(state) {
    this.state = state;
    root.dataset.state = state;
    const words = STATES[state];
    const more = state === "finished" ? summary(this.transcript, this.lag.median) : "";
    if ($("state-text").textContent !== words) $("state-text").textContent = words;
    if ($("state-more").textContent !== more) $("state-more").textContent = more;
    this.controls?.showState({ state, running: this.running });
    if (this.controls) this.#refresh();
  }

  #refresh() {
    const empty = this.transcript.isEmpty;
    root.toggleAttribute("data-empty", empty);
    $("hello").hidden = !empty || this.running;
    $("waves").toggleAttribute("hidden", !empty || this.running);
    this.controls.showContent({ empty: this.transcript.finals.length === 0 });
  }

  /** Which look-aheads the server's model has, and its name; not knowing them does no harm. */
  async #askForModel() {
    const [model] = (await models()) ?? [];
    if (model) this.controls.showModel(model);
  }

  async #keepAwake() {
    try {
      this.#wakeLock = (await navigator.wakeLock?.request("screen")) ?? null;
    } catch {
      // refused (battery saver): captions work all the same
    }
  }
}

/** Of the server, where the address of this page brings one. */
function token() { return new URLSearchParams(location.hash.slice(1)).get("token") ?? ""; }

/** What the person listens for, as the protocol takes it. */
function phrases() {
  const texts = preferences.get("vocabulary").split(/[\n,]/).map((text) => text.trim());
  const known = new Set(texts.filter((text) => text.length > 0 && text.length <= PHRASE_CHARS));
  return [...known].slice(0, PHRASES).map((phrase) => ({ phrase }));
}

function summary(transcript, medianLag) {
  const words = `: ${transcript.words} ${transcript.words === 1 ? "word" : "words"}`;
  return medianLag === null ? words : `${words}, median lag ${medianLag} ms`;
}

new Page();
