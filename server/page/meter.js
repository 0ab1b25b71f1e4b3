/* What can be seen of the stream: the ribbon of sound, and the lag of its words.
 * Does: draw levels with a mark where recognition has come to; keep lag figures and their sparkline.
 * Does not know: sockets, captions, audio devices. */

const BAR = 3;
const GAP = 2;
const SPARK = { points: 40, width: 96, height: 24 };
const FLOOR_DB = -56;
const TOP_DB = -8;

/** Bars of loudness, newest at the right; those already decoded are solid. */
export class Ribbon {
  #bars = [];
  #done = 0;
  #dirty = true;
  #calm = matchMedia("(prefers-reduced-motion: reduce)");
  #drawnAt = 0;

  constructor(canvas) {
    this.canvas = canvas;
    new ResizeObserver(() => { this.#dirty = true; }).observe(canvas);
    const frame = (now) => {
      if (this.#dirty && (!this.#calm.matches || now - this.#drawnAt > 1000)) this.#draw(now);
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  reset() {
    this.#bars = [];
    this.#done = 0;
    this.#dirty = true;
  }

  add(end, level) {
    this.#bars.push({ end, level });
    if (this.#bars.length > 1200) this.#bars.splice(0, 400);
    this.#dirty = true;
  }

  decoded(done) {
    this.#done = done;
    this.#dirty = true;
  }

  repaint() { this.#dirty = true; }

  #draw(now) {
    this.#dirty = false;
    this.#drawnAt = now;
    const { canvas } = this;
    const scale = devicePixelRatio;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const style = getComputedStyle(canvas);
    const solid = style.getPropertyValue("--accent");
    const open = style.getPropertyValue("--ribbon-open");
    const rest = style.getPropertyValue("--ribbon-rest");
    const step = BAR + GAP;
    const count = Math.ceil(width / step);
    for (let i = 0; i < count; i += 1) {
      const bar = this.#bars[this.#bars.length - 1 - i];
      const tall = bar ? Math.max(BAR, bar.level * (height - 4)) : BAR;
      pen.fillStyle = !bar ? rest : bar.end <= this.#done ? solid : open;
      pen.beginPath();
      pen.roundRect(width - (i + 1) * step + GAP, (height - tall) / 2, BAR, tall, BAR / 2);
      pen.fill();
    }
  }
}

/** Loudness of a packet on a scale of 0 to 1 (and whether it is digital silence). */
export function level(packet) {
  let sum = 0;
  for (const value of packet) sum += value * value;
  const rms = Math.sqrt(sum / packet.length) / 32768;
  const db = 20 * Math.log10(Math.max(rms, 1e-9));
  return { level: Math.min(1, Math.max(0, (db - FLOOR_DB) / (TOP_DB - FLOOR_DB))) ** 1.6, silent: sum === 0 };
}

/** Lag figures: the last, the median, a sparkline. */
export class LagMeter {
  #all = [];

  constructor(parts) {
    this.parts = parts; // {name, value, unit, line}
  }

  get median() {
    const sorted = [...this.#all].sort((a, b) => a - b);
    return sorted.length > 0 ? Math.round(sorted[Math.floor(sorted.length / 2)]) : null;
  }

  /** A file sent as fast as it goes has a speed instead of a lag. */
  reset({ isSpeed }) {
    this.#all = [];
    this.parts.name.textContent = isSpeed ? "Speed" : "Lag";
    this.parts.unit.textContent = isSpeed ? "× time" : "ms";
    this.parts.value.textContent = "–";
    this.parts.line.setAttribute("points", "");
  }

  speed(times) {
    this.parts.value.textContent = times.toFixed(times < 10 ? 1 : 0);
  }

  add(ms) {
    this.#all.push(ms);
    if (this.#all.length > 4000) this.#all.splice(0, 2000);
    this.parts.value.textContent = String(Math.round(ms));
    const recent = this.#all.slice(-SPARK.points);
    const top = Math.max(200, ...recent);
    const points = recent.map((each, i) => {
      const x = SPARK.width - ((recent.length - 1 - i) * SPARK.width) / (SPARK.points - 1);
      return `${x.toFixed(1)},${(SPARK.height - 2 - (each / top) * (SPARK.height - 4)).toFixed(1)}`;
    });
    this.parts.line.setAttribute("points", points.join(" "));
  }
}
