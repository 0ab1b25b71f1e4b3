/* One rivulet.v1 conversation over a WebSocket, and the clock that measures its delay.
 * Does: open, start, send audio, stop, tell messages to `on(type, message)`.
 * Does not know: audio devices, the page, reconnecting. */

export const SUBPROTOCOL = "rivulet.v1";
const BUFFERED_MS = 2000;
const DEFAULT_WINDOW_MS = 30000;

const CLOSE_REASONS = {
  1006: "The connection to the server was lost.",
  1001: "The server is shutting down.",
  1009: "The server refused a message as too big.",
  1011: "The server had an internal error.",
  4401: "The server asks for a token and got none that is good: open this page with #token=… in its address.",
  4403: "The server does not allow this page's origin.",
  4408: "The server closed an idle session.",
  4413: "Audio was sent faster than the server takes it.",
  4429: "The server is full: try again in a moment.",
};

/** A sentence for a close code. */
export function closeReason(code) {
  return CLOSE_REASONS[code] ?? `The server closed the connection (${code}).`;
}

/** When each sample was sent, to say how late its result is. */
export class SendClock {
  #sent = [];

  note(end, at) { this.#sent.push({ end, at }); }

  /** Milliseconds since the packet that completes sample `done` was sent; null if unknown. */
  lag(done, now) {
    while (this.#sent.length > 0 && this.#sent[0].end < done) this.#sent.shift();
    return done > 0 && this.#sent.length > 0 ? now - this.#sent[0].at : null;
  }
}

export class Conversation {
  #socket;
  #clock = new SendClock();
  #dropped = 0;
  #windowMs = DEFAULT_WINDOW_MS;
  #on;

  sent = 0;
  done = 0;
  ready = false;

  constructor({ url, token, start, on }) {
    this.#on = on;
    this.rate = start.audio.rate;
    this.#socket = new WebSocket(url, token ? [SUBPROTOCOL, `auth.${token}`] : [SUBPROTOCOL]);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onopen = () => this.#send({ type: "start", v: 1, ...start });
    this.#socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    this.#socket.onclose = ({ code }) => on("close", { code });
  }

  /** Send a packet; one that a slow network cannot take is dropped and declared as a gap. */
  audio(packet, { live }) {
    if (live && this.#socket.bufferedAmount > (BUFFERED_MS * this.rate * 2) / 1000) {
      this.#dropped += packet.length;
      return;
    }
    if (this.#dropped > 0) {
      this.#send({ type: "gap", samples: this.#dropped });
      this.sent += this.#dropped;
      this.#dropped = 0;
    }
    this.#socket.send(packet);
    this.sent += packet.length;
    this.#clock.note(this.sent, performance.now());
  }

  /** Whether the flow window takes another `ms` of audio. */
  hasRoom(ms) {
    const openMs = ((this.sent - this.done) * 1000) / this.rate;
    return this.ready && openMs + ms <= this.#windowMs * 0.8;
  }

  configure(changes) { this.#send({ type: "configure", req: "page", ...changes }); }

  stop() { this.#send({ type: "stop" }); }

  close() {
    this.#socket.onclose = null;
    this.#socket.onmessage = null;
    this.#socket.close(1000);
  }

  #send(message) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #receive(message) {
    if (message.type === "ready") {
      this.ready = true;
      this.#windowMs = message.limits?.window_ms ?? DEFAULT_WINDOW_MS;
    } else if (message.type === "ack") {
      this.#progress(message);
    }
    this.#on(message.type, message);
  }

  #progress(message) {
    const moved = message.done > this.done;
    this.done = message.done;
    message.lagMs = moved ? this.#clock.lag(message.done, performance.now()) : null;
  }
}
