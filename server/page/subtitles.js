/* A transcript as txt, srt, vtt or json.
 * Does: cut finals into cues of at most two lines of 42 characters, format times.
 * Does not know: the page, files, sockets. */

import { splitWords } from "./captions.js";

const LINE_CHARS = 42;
const CUE_LINES = 2;
const CUE_MS = 7000;
const MIN_CUE_MS = 700;
const READ_MS = 50; // a character needs so long to be read: 20 a second
const LABEL_CHARS = 18;

export const FORMATS = {
  txt: { mime: "text/plain", write: toText },
  srt: { mime: "application/x-subrip", write: toSrt },
  vtt: { mime: "text/vtt", write: toVtt },
  json: { mime: "application/json", write: toJson },
};

export function toText(transcript) {
  return transcript.finals.map((final) => `${final.text}\n`).join("");
}

/** `voices`: channels are names, and each cue says whose it is. */
export function toSrt(transcript, { voices = false } = {}) {
  return cues(transcript, { labels: voices })
    .map((cue, i) => `${i + 1}\n${stamp(cue.startMs, ",")} --> ${stamp(cue.endMs, ",")}\n${cue.lines.join("\n")}\n`)
    .join("\n");
}

/** `voices`: channels are names, and each cue says whose it is. */
export function toVtt(transcript, { voices = false } = {}) {
  const body = cues(transcript).map((cue) => {
    const voice = voices ? `<v ${escapeVtt(cue.channel)}>` : "";
    return `${stamp(cue.startMs, ".")} --> ${stamp(cue.endMs, ".")}\n${voice}${cue.lines.map(escapeVtt).join("\n")}\n`;
  });
  return ["WEBVTT\n", ...body].join("\n");
}

export function toJson(transcript) {
  const segments = transcript.finals.map((final) => ({
    channel: final.channel,
    start_ms: final.startMs,
    end_ms: final.endMs,
    text: final.text,
    confidence: final.confidence,
    cause: final.cause,
    words: final.words.map(({ w, startMs, endMs, confidence }) => ({ w, start_ms: startMs, end_ms: endMs, confidence })),
  }));
  return `${JSON.stringify({ model: transcript.model, language: transcript.language, segments }, null, 2)}\n`;
}

/** Cues in order: {channel, startMs, endMs, lines}; none overlaps the next of its channel. Each stays until it can be read, or the next one comes. */
export function cues(transcript, { labels = false } = {}) {
  const all = transcript.finals.flatMap((final) => {
    const label = labels ? [`${shortened(final.channel)}:`] : [];
    const groups = evenGroups(timedWords(final), label);
    return groups.map((group) => toCue(group, final.channel, label));
  });
  all.sort((a, b) => a.startMs - b.startMs);
  const nextOf = new Map(); // channel -> when its next cue begins
  for (let i = all.length - 1; i >= 0; i -= 1) {
    const cue = all[i];
    const toRead = cue.startMs + Math.min(CUE_MS, READ_MS * cue.lines.join("").length);
    const readable = Math.max(cue.endMs, Math.min(toRead, all[i + 1]?.startMs ?? Infinity));
    cue.endMs = Math.max(cue.startMs + 1, Math.min(readable, nextOf.get(cue.channel) ?? Infinity));
    nextOf.set(cue.channel, cue.startMs);
  }
  return all;
}

function toCue(group, channel, label) {
  const startMs = group[0].startMs;
  const endMs = Math.max(group.at(-1).endMs, startMs + MIN_CUE_MS);
  return { channel, startMs, endMs, lines: balance([...label, ...group.map(({ w }) => w)]) };
}

function shortened(name) {
  const letters = [...name];
  return letters.length > LABEL_CHARS ? `${letters.slice(0, LABEL_CHARS - 1).join("")}…` : name;
}

/** As few cues as fit, of about the same length: no cue of one stray word. */
function evenGroups(words, label) {
  const fewest = groupUpTo(words, label, Infinity);
  const total = words.map(({ w }) => w).join(" ").length;
  for (let chars = Math.ceil(total / fewest.length); chars < total; chars += 1) {
    const groups = groupUpTo(words, label, chars);
    if (groups.length <= fewest.length) return groups;
  }
  return fewest;
}

function groupUpTo(words, label, chars) {
  const groups = [];
  for (const word of words) {
    const next = [...(groups.at(-1) ?? []), word];
    const said = next.map(({ w }) => w);
    const fits = wrap([...label, ...said]).length <= CUE_LINES && said.join(" ").length <= chars && word.endMs - next[0].startMs <= CUE_MS;
    if (groups.length > 0 && fits) groups[groups.length - 1] = next;
    else groups.push([word]);
  }
  return groups;
}

/** The final's words with times; spread by length where the server sent no word times. */
function timedWords(final) {
  const words = splitWords(final.text);
  if (final.words.length === words.length) {
    return final.words.map(({ startMs, endMs }, i) => ({ w: words[i], startMs, endMs }));
  }
  const total = words.reduce((sum, w) => sum + w.length + 1, 0);
  const span = final.endMs - final.startMs;
  let chars = 0;
  return words.map((w) => {
    const startMs = Math.round(final.startMs + (span * chars) / total);
    chars += w.length + 1;
    return { w, startMs, endMs: Math.round(final.startMs + (span * chars) / total) };
  });
}

/** Greedy lines of at most `width` characters (a longer word stands alone). */
export function wrap(words, width = LINE_CHARS) {
  const lines = [];
  for (const word of words) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= width) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines;
}

/** Two lines of about the same length read better than a full one and a stray word. */
function balance(words) {
  const greedy = wrap(words);
  if (greedy.length < 2) return greedy;
  for (let width = Math.ceil(words.join(" ").length / 2); width < LINE_CHARS; width += 1) {
    const lines = wrap(words, width);
    if (lines.length <= greedy.length) return lines;
  }
  return greedy;
}

function stamp(ms, mark) {
  const two = (value) => String(Math.floor(value)).padStart(2, "0");
  return `${two(ms / 3600000)}:${two((ms / 60000) % 60)}:${two((ms / 1000) % 60)}${mark}${String(ms % 1000).padStart(3, "0")}`;
}

function escapeVtt(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
