// @openai/agents-realtime over WebSocket, in text and in audio, with a key made for a page: URL WAV.
import { readFileSync } from "node:fs";
import { RealtimeAgent, RealtimeSession } from "@openai/agents-realtime";

const [url, wav] = process.argv.slice(2);
const LIMIT = 60_000; // ms; ends a hang
const sound = readFileSync(wav).subarray(44);

const check = (good, told) => {
  if (!good) throw new Error(told);
};

const secret = async () => {
  const made = await fetch(`${url}/v1/realtime/client_secrets`, {
    method: "POST",
    headers: { authorization: "Bearer any", "content-type": "application/json" },
    body: JSON.stringify({ session: { type: "realtime", model: "gpt-realtime" } }),
  });
  return (await made.json()).value;
};

const converse = async (modality, path) => {
  const agent = new RealtimeAgent({ name: "Assistant", instructions: "Be nice." });
  const session = new RealtimeSession(agent, {
    transport: "websocket",
    model: "gpt-realtime",
    tracingDisabled: true,
    config: { outputModalities: [modality] },
  });
  const kinds = new Set();
  let bytes = 0;
  let fail;
  const failed = new Promise((_, reject) => {
    fail = reject;
  });
  session.on("transport_event", (event) => kinds.add(event.type));
  const retrieved = new Promise((resolve) => {
    session.on("transport_event", (event) => event.type === "conversation.item.retrieved" && resolve());
  }); // it asks for each item whose words it was told
  session.on("audio", (event) => {
    bytes += event.data.byteLength;
  });
  session.on("error", (event) => fail(new Error(JSON.stringify(event))));
  const ended = () => Promise.race([failed, new Promise((resolve) => session.once("agent_end", resolve))]);
  await session.connect({ apiKey: await secret(), url: `${url.replace("http", "ws")}${path}` });
  let answer = ended();
  session.sendMessage("Good morning.");
  await answer;
  answer = ended();
  for (let start = 0; start < sound.length; start += 4800) {
    const part = sound.subarray(start, start + 4800);
    session.sendAudio(part.buffer.slice(part.byteOffset, part.byteOffset + part.length));
  }
  await Promise.all([answer, Promise.race([failed, retrieved])]);
  const roles = session.history.map((item) => item.role).join(" ");
  console.log(modality, roles, bytes, [...kinds].sort().join(" "));
  check(roles === "user assistant user assistant", `history: ${roles}`);
  check((bytes > 0) === (modality === "audio"), `audio: ${bytes} bytes`);
  session.close();
};

setTimeout(() => {
  console.error("nothing came for too long");
  process.exit(1);
}, LIMIT).unref();
await converse("text", "/v1/realtime?model=gpt-realtime");
await converse("audio", "/v1/realtime?model=gpt-realtime");
console.log("OK");
process.exit(0);
