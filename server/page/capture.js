/* Where audio comes from: microphone, a tab's sound, or a file.
 * Does: open a source and give out mono s16 packets with their rate.
 * Does not know: sockets, the protocol, the page.
 *
 * A source is {rate, label, live, fast, begin(onPacket, onEnd), stop(): Promise}. A live source runs on its
 * own clock; a file is read at the pace of speech, or as fast as `room()` allows. */

const LIVE_PACKET_MS = 40;
const FAST_PACKET_MS = 100;
const MAX_RATE = 48000;
const FILE_RATE = 16000;
const FLUSH_MS = 300;

/** A source that cannot be opened; `message` is a sentence for the person. */
export class CaptureError extends Error {}

const REFUSALS = {
  NotAllowedError: "The browser was not allowed to listen: permit it in the address bar, then start again.",
  NotFoundError: "No microphone was found: plug one in, then start again.",
  NotReadableError: "The microphone is in use by another program.",
  OverconstrainedError: "The chosen microphone is gone: pick another one.",
};

export async function openMicrophone({ deviceId, clean }) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new CaptureError("Browsers give the microphone only to pages on https or localhost.");
  }
  const audio = { echoCancellation: clean, noiseSuppression: clean, autoGainControl: clean };
  if (deviceId) audio.deviceId = { exact: deviceId };
  const stream = await permitted(navigator.mediaDevices.getUserMedia({ audio }));
  return liveSource(stream, stream.getAudioTracks()[0].label || "Microphone");
}

export async function openTab() {
  if (!navigator.mediaDevices?.getDisplayMedia) {
    throw new CaptureError("This browser cannot share the sound of a tab: Chrome and Edge can.");
  }
  const audio = { suppressLocalAudioPlayback: false, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const stream = await permitted(navigator.mediaDevices.getDisplayMedia({ video: true, audio }));
  if (stream.getAudioTracks().length === 0) {
    for (const track of stream.getTracks()) track.stop();
    throw new CaptureError("No sound was shared: start again and tick “Share tab audio”.");
  }
  for (const track of stream.getVideoTracks()) track.stop();
  return liveSource(new MediaStream(stream.getAudioTracks()), "Tab audio");
}

async function permitted(promise) {
  try {
    return await promise;
  } catch (error) {
    throw new CaptureError(REFUSALS[error.name] ?? `The audio source did not open: ${error.message}`);
  }
}

async function liveSource(stream, label) {
  let context = new AudioContext({ latencyHint: "interactive" });
  if (context.sampleRate > MAX_RATE) {
    await context.close();
    context = new AudioContext({ latencyHint: "interactive", sampleRate: MAX_RATE });
  }
  await context.audioWorklet.addModule(new URL("capture-worklet.js", import.meta.url));
  await context.resume();
  const rate = context.sampleRate;
  const node = new AudioWorkletNode(context, "capture", {
    processorOptions: { packet: Math.round((rate * LIVE_PACKET_MS) / 1000) },
  });
  const track = stream.getAudioTracks()[0];
  let flushed = () => {};
  const stop = async () => {
    if (context.state === "closed") return;
    track.onended = null;
    const end = new Promise((resolve) => { flushed = resolve; });
    node.port.postMessage("flush");
    await Promise.race([end, new Promise((resolve) => { setTimeout(resolve, FLUSH_MS); })]);
    for (const each of stream.getTracks()) each.stop();
    if (context.state !== "closed") await context.close();
  };
  return {
    rate, label, live: true, fast: false,
    begin(onPacket, onEnd) {
      node.port.onmessage = ({ data }) => {
        if (data === "flushed") flushed();
        else if (data.byteLength > 0) onPacket(new Int16Array(data));
      };
      track.onended = onEnd;
      context.createMediaStreamSource(stream).connect(node).connect(context.destination); // silent: the node writes no output
    },
    stop,
  };
}

/** A file, decoded here. `room()` resolves when the connection takes more. */
export async function openFile(file, { fast, aloud, room }) {
  const bytes = await file.arrayBuffer();
  const rate = wavRate(bytes) ?? FILE_RATE;
  let decoded;
  try {
    decoded = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes);
  } catch {
    throw new CaptureError(`“${file.name}” holds no audio that this browser can decode.`);
  }
  const samples = mono(decoded);
  const source = { rate, label: file.name, live: false, fast };
  return fast ? fastFile(source, samples, room) : pacedFile(source, samples, aloud ? decoded : null);
}

function pacedFile(source, samples, buffer) {
  const step = Math.round((source.rate * LIVE_PACKET_MS) / 1000);
  let timer = 0;
  let player = null;
  return {
    ...source,
    begin(onPacket, onEnd) {
      const startedAt = performance.now();
      let at = 0;
      if (buffer) {
        player = new AudioContext();
        const node = new AudioBufferSourceNode(player, { buffer });
        node.connect(player.destination);
        node.start();
      }
      timer = setInterval(() => {
        const due = ((performance.now() - startedAt) * source.rate) / 1000;
        while (at < samples.length && Math.min(at + step, samples.length) <= due) {
          onPacket(samples.slice(at, at + step));
          at += step;
        }
        if (at >= samples.length) {
          clearInterval(timer);
          onEnd();
        }
      }, LIVE_PACKET_MS);
    },
    async stop() {
      clearInterval(timer);
      await player?.close();
      player = null;
    },
  };
}

function fastFile(source, samples, room) {
  const step = Math.round((source.rate * FAST_PACKET_MS) / 1000);
  let running = true;
  return {
    ...source,
    async begin(onPacket, onEnd) {
      for (let at = 0; at < samples.length; at += step) {
        await room();
        if (!running) return;
        onPacket(samples.slice(at, at + step));
      }
      onEnd();
    },
    async stop() { running = false; },
  };
}

function mono(decoded) {
  const out = new Int16Array(decoded.length);
  const channels = Array.from({ length: decoded.numberOfChannels }, (_, i) => decoded.getChannelData(i));
  for (let i = 0; i < out.length; i += 1) {
    let sum = 0;
    for (const channel of channels) sum += channel[i];
    out[i] = Math.round(Math.max(-1, Math.min(1, sum / channels.length)) * 32767);
  }
  return out;
}

/** The rate in a WAV header, so that the browser need not resample; null for other files. */
export function wavRate(bytes) {
  if (bytes.byteLength < 28) return null;
  const view = new DataView(bytes);
  if (view.getUint32(0) !== 0x52494646 || view.getUint32(12) !== 0x666d7420) return null; // RIFF, fmt
  const rate = view.getUint32(24, true);
  return rate >= 8000 && rate <= MAX_RATE ? rate : null;
}
