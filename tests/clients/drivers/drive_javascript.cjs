// Deepgram's JavaScript SDK: node drive_javascript.cjs MODE HOST FILE RATE prints one JSON line.
const { DeepgramClient } = require("@deepgram/sdk");
const { readFileSync } = require("fs");
const [, host, path, rate] = process.argv.slice(2);
const data = readFileSync(path);
const { version } = JSON.parse(readFileSync(require.resolve("@deepgram/sdk/package.json")));
(async () => {
  const ws = `ws://${host}`, http = `http://${host}`;
  const client = new DeepgramClient({ apiKey: "key", environment: { base: http, production: ws, agent: ws, agentRest: http } });
  const socket = await client.listen.v1.connect({ model: "nova-3", encoding: "linear16", sample_rate: Number(rate), interim_results: "true" });
  const texts = []; let messages = 0;
  const closed = new Promise((done) => {
    socket.on("message", (m) => {
      messages++;
      if (m.type === "Results" && m.is_final) texts.push(m.channel.alternatives[0].transcript);
      if (m.type === "Metadata") done();
    });
    socket.on("error", (e) => { console.error(e); process.exit(1); });
  });
  socket.connect(); await socket.waitForOpen();
  for (let at = 0; at < data.length; at += 3200) socket.sendMedia(data.subarray(at, at + 3200));
  socket.sendCloseStream({ type: "CloseStream" });
  await closed;
  console.log(JSON.stringify({ text: texts.join(" ").trim(), messages, client: `@deepgram/sdk ${version}` }));
  process.exit(0);
})();
