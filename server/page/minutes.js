/* A meeting written down: txt, Markdown minutes, srt, vtt, json.
 * Does: lines {speaker, start_ms, end_ms, text} in the order of time -> the text of a file.
 * Does not know: the page, sockets. */

import { toSrt, toVtt } from "./subtitles.js";

const PARAGRAPH_MS = 60000; // of one speaker, then the time is said again

export const FORMATS = {
  txt: { mime: "text/plain", write: toText },
  md: { mime: "text/markdown", write: toMinutes },
  srt: { mime: "application/x-subrip", write: (lines) => toSrt(finalsOf(lines), { voices: true }) },
  vtt: { mime: "text/vtt", write: (lines) => toVtt(finalsOf(lines), { voices: true }) },
  json: { mime: "application/json", write: (lines, title) => `${JSON.stringify({ title, segments: lines.map(segment) }, null, 2)}\n` },
};

export function toText(lines) {
  return lines.map(({ speaker, text }) => `${speaker}: ${text}\n`).join("");
}

/** Who was there, how long, and a paragraph for each time somebody speaks, for each minute of it; overlap is said. */
export function toMinutes(lines, title) {
  const names = [...new Set(lines.map(({ speaker }) => speaker))];
  const end = Math.max(0, ...lines.map(({ end_ms: endMs }) => endMs));
  const parts = [`# ${plain(title)}\n`];
  if (lines.length > 0) parts.push(`${names.map(plain).join(", ")}. ${clock(end)}.\n`);
  const saidUntil = new Map();
  let last = null;
  let began = 0;
  for (const line of lines) {
    if (last === line.speaker && line.start_ms - began < PARAGRAPH_MS) {
      parts.push(`${parts.pop().trimEnd()} ${plain(line.text)}\n`);
    } else {
      const others = names.filter((name) => name !== line.speaker && (saidUntil.get(name) ?? 0) > line.start_ms);
      const aside = others.length > 0 ? ` *(while ${others.map(plain).join(" and ")} spoke)*` : "";
      began = line.start_ms;
      parts.push(`**${clock(line.start_ms)} ${plain(line.speaker)}**${aside}: ${plain(line.text)}\n`);
    }
    saidUntil.set(line.speaker, line.end_ms);
    last = line.speaker;
  }
  return parts.join("\n");
}

function finalsOf(lines) {
  return {
    finals: lines.map(({ speaker, text, start_ms: startMs, end_ms: endMs }) => ({ channel: speaker, text, startMs, endMs, words: [] })),
  };
}

function segment({ speaker, start_ms: startMs, end_ms: endMs, text }) {
  return { speaker, start_ms: startMs, end_ms: endMs, text };
}

function plain(text) {
  return text.replace(/[\\`*_<>[\]#|~&$]|(?<=^\d*)[-+.)=]/g, "\\$&");
}

function clock(ms) {
  const two = (value) => String(Math.floor(value)).padStart(2, "0");
  return `${two(ms / 3600000)}:${two((ms / 60000) % 60)}:${two((ms / 1000) % 60)}`;
}
