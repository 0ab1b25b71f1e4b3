/* A meeting written down: txt, Markdown minutes, srt, vtt, json.
 * Does: lines {speaker, start_ms, end_ms, text} in the order of time -> the text of a file.
 * Does not know: the page, sockets. */

import { toSrt, toVtt } from "./subtitles.js";

export const FORMATS = {
  txt: { mime: "text/plain", write: toText },
  md: { mime: "text/markdown", write: toMinutes },
  srt: { mime: "application/x-subrip", write: (lines) => toSrt(finalsOf(lines, ({ speaker, text }) => `${speaker}: ${text}`)) },
  vtt: { mime: "text/vtt", write: (lines) => toVtt(finalsOf(lines, ({ text }) => text), { voices: true }) },
  json: { mime: "application/json", write: (lines, title) => `${JSON.stringify({ title, segments: lines.map(segment) }, null, 2)}\n` },
};

export function toText(lines) {
  return lines.map(({ speaker, text }) => `${speaker}: ${text}\n`).join("");
}

/** Who was there, how long, and a paragraph for each time somebody speaks; overlap is said. */
export function toMinutes(lines, title) {
  const names = [...new Set(lines.map(({ speaker }) => speaker))];
  const end = Math.max(0, ...lines.map(({ end_ms: endMs }) => endMs));
  const parts = [`# ${plain(title)}\n`];
  if (lines.length > 0) parts.push(`${names.map(plain).join(", ")}. ${clock(end)}.\n`);
  const saidUntil = new Map();
  let last = null;
  for (const line of lines) {
    if (last === line.speaker) {
      parts.push(`${parts.pop().trimEnd()} ${plain(line.text)}\n`);
    } else {
      const others = names.filter((name) => name !== line.speaker && (saidUntil.get(name) ?? 0) > line.start_ms);
      const aside = others.length > 0 ? ` *(while ${others.map(plain).join(" and ")} spoke)*` : "";
      parts.push(`**${clock(line.start_ms)} ${plain(line.speaker)}**${aside}: ${plain(line.text)}\n`);
    }
    saidUntil.set(line.speaker, line.end_ms);
    last = line.speaker;
  }
  return parts.join("\n");
}

function finalsOf(lines, textOf) {
  return {
    finals: lines.map((line) => ({
      channel: line.speaker, text: textOf(line), startMs: line.start_ms, endMs: line.end_ms, words: [],
    })),
  };
}

function segment({ speaker, start_ms: startMs, end_ms: endMs, text }) {
  return { speaker, start_ms: startMs, end_ms: endMs, text };
}

function plain(text) {
  return text.replace(/[\\`*_<>[\]#|]/g, "\\$&");
}

function clock(ms) {
  const two = (value) => String(Math.floor(value)).padStart(2, "0");
  return `${two(ms / 3600000)}:${two((ms / 60000) % 60)}:${two((ms / 1000) % 60)}`;
}
