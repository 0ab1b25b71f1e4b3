/* What a person chose: theme, text size, view and switches, kept in this browser only.
 * Does: load, apply to <html>, store. Does not know: captions, audio, sockets.
 * A classic script (not a module), so that the theme is there before the first paint. */

"use strict";

globalThis.preferences = (() => {
  const KEY = "rivulet.preferences";
  const SIZES = [1, 1.25, 1.5, 1.875, 2.25, 2.75, 3.5]; // rem
  const DEFAULTS = {
    theme: "system", size: 2, view: "transcript", shortcuts: true, announce: true, clean: true, readable: false, vocabulary: "",
    latency: "balanced", source: "microphone",
  };
  const stored = () => {
    try {
      return JSON.parse(localStorage.getItem(KEY)) ?? {};
    } catch {
      return {}; // storage is blocked, or holds something else
    }
  };
  const values = { ...DEFAULTS, ...stored() };

  function apply() {
    const root = document.documentElement;
    root.dataset.theme = values.theme;
    root.dataset.view = values.view;
    root.style.setProperty("--caption", `${SIZES[values.size] ?? SIZES[DEFAULTS.size]}rem`);
  }

  function set(name, value) {
    values[name] = value;
    apply();
    try {
      localStorage.setItem(KEY, JSON.stringify(values));
    } catch {
      // storage is blocked: the choice lasts as long as the page
    }
  }

  apply();
  return { get: (name) => values[name], set, sizes: SIZES.length };
})();
