/* Collects the frames of one audio source into mono s16 packets.
 * Does: mix to mono, clamp, round, post a packet of `packet` samples.
 * Does not know: devices, sockets, time. Runs on the audio thread. */

class Capture extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.size = processorOptions.packet;
    this.packet = new Int16Array(this.size);
    this.filled = 0;
    this.port.onmessage = () => this.flush();
  }

  /** Post what is there (the last packet is short), then say that it was the last. */
  flush() {
    const rest = this.packet.slice(0, this.filled);
    this.filled = 0;
    this.port.postMessage(rest.buffer, [rest.buffer]);
    this.port.postMessage("flushed");
  }

  process([channels]) {
    if (channels.length === 0) return true; // the track is stopped or muted: no frames
    const frames = channels[0].length;
    for (let i = 0; i < frames; i += 1) {
      let sum = 0;
      for (const channel of channels) sum += channel[i];
      const value = Math.max(-1, Math.min(1, sum / channels.length));
      this.packet[this.filled] = Math.round(value * 32767);
      this.filled += 1;
      if (this.filled === this.size) {
        this.port.postMessage(this.packet.buffer, [this.packet.buffer]);
        this.packet = new Int16Array(this.size);
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
