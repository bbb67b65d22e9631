// The page's Live tab: microphone to /v1/realtime, words and turns back, answers aloud.
// Owns one session at a time, from the click to its close. Knows the realtime events and the ids of live.html, nothing
// of Gradio; page.py calls prepare, start and stop.
"use strict";
window.speechGatewayLive = (() => {
  const RATE = 24000, PIECE = 1200; // Hz; samples in one event: 50 ms
  const INPUT = "input_audio_buffer.", WORDS = "conversation.item.input_audio_transcription.";
  // Collects what the microphone gives; averages over the input where the browser cannot change the rate itself.
  const WORKLET = `registerProcessor("speech-gateway-microphone", class extends AudioWorkletProcessor {
    constructor() { super(); this.step = sampleRate / ${RATE}; this.sum = 0; this.weight = 0; this.out = []; }
    process(inputs) {
      for (const sample of inputs[0][0] ?? []) {
        let left = 1;
        while (left > 0) {
          const part = Math.min(left, this.step - this.weight);
          this.sum += part * sample; this.weight += part; left -= part;
          if (this.weight > this.step - 1e-9) { this.out.push(this.sum / this.weight); this.sum = this.weight = 0; }
        }
      }
      while (this.out.length >= ${PIECE}) this.port.postMessage(new Float32Array(this.out.splice(0, ${PIECE})));
      return true;
    }
  });`;
  let session = null, context = null;
  const at = (id) => document.getElementById(`sg-live-${id}`);

  function show(text, colour) {
    at("state").textContent = text;
    at("dot").className = `sg-dot sg-${colour}`;
  }

  function problem(text) {
    at("problem").textContent = text;
    at("problem").hidden = !text;
  }

  // --- Turns -------------------------------------------------------------------------------------------------------

  function turn(id, who) {
    let found = document.querySelector(`#sg-live-turns [data-item="${CSS.escape(id)}"]`);
    if (!found) {
      found = document.createElement("div");
      found.className = `sg-turn sg-turn-${who}`;
      found.dataset.item = id;
      found.append(document.createElement("small"), document.createElement("span"));
      found.firstChild.textContent = session?.converses ? (who === "you" ? "You" : "Answer") : "";
      found.lastChild.className = "sg-unsure";
      at("turns").append(found);
    }
    found.scrollIntoView({ block: "nearest" });
    return found;
  }

  const add = (id, who, text) => { turn(id, who).lastChild.textContent += text; };

  function settle(id, who, text, remark = "") {
    const one = turn(id, who);
    if (!text && !remark) return one.remove();
    one.lastChild.textContent = text;
    one.lastChild.className = "";
    if (remark) one.append(Object.assign(document.createElement("em"), { textContent: ` ${remark}` }));
  }

  // --- Audio out ---------------------------------------------------------------------------------------------------

  function play(item, base64) {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const samples = new Int16Array(bytes.buffer, 0, bytes.length >> 1);
    if (!samples.length || session.cut.has(item)) return;
    const buffer = context.createBuffer(1, samples.length, RATE);
    buffer.getChannelData(0).set(Float32Array.from(samples, (sample) => sample / 32768));
    const source = context.createBufferSource();
    source.buffer = buffer;
    source.connect(context.destination);
    const start = Math.max(context.currentTime, session.ends);
    source.start(start);
    session.ends = start + buffer.duration;
    session.playing.push({ source, item, start, seconds: buffer.duration });
    source.onended = () => { if (session?.microphone && silent()) show("Listening", "good"); };
    show("Speaking", "good");
  }

  const silent = () => context.currentTime >= session.ends;

  function fallSilent() {
    const last = session.playing.at(-1);
    if (!last || silent()) return;
    let played = 0;
    for (const { source, item, start, seconds } of session.playing) {
      if (item === last.item) played += Math.min(seconds, Math.max(0, context.currentTime - start));
      source.stop();
    }
    session.playing = [];
    session.ends = 0;
    session.cut.add(last.item);
    send("conversation.item.truncate",
      { item_id: last.item, content_index: 0, audio_end_ms: Math.floor(played * 1000) });
  }

  // --- Events ------------------------------------------------------------------------------------------------------

  const send = (type, fields = {}) => {
    if (session?.socket?.readyState === WebSocket.OPEN) session.socket.send(JSON.stringify({ type, ...fields }));
  };

  // Milliseconds since the turn's last sample was said, the silence that ends it included.
  const since = (milliseconds) => performance.now() - session.begun - milliseconds;

  function tellDelay(name, item) {
    const end = session.turnEnds.get(item);
    if (end === undefined) return;
    session.delays[name] = `${name} after ${(Math.max(0, since(end)) / 1000).toFixed(2)} s`;
    at("delay").textContent = Object.values(session.delays).join(", ");
    at("delay").hidden = false;
  }

  const handlers = {
    [`${INPUT}speech_started`]: () => { fallSilent(); show("Someone speaks", "wait"); },
    [`${INPUT}speech_stopped`]: (event) => {
      session.turnEnds.set(event.item_id, event.audio_end_ms);
      session.lastTurn = event.item_id;
      show("Listening", "good");
    },
    [`${INPUT}committed`]: (event) => session.owed.add(event.item_id),
    [`${INPUT}cleared`]: () => { session.over = true; },
    [`${WORDS}delta`]: (event) => add(event.item_id, "you", event.delta),
    [`${WORDS}completed`]: (event) => {
      settle(event.item_id, "you", event.transcript);
      tellDelay("Text", event.item_id);
      session.owed.delete(event.item_id);
    },
    [`${WORDS}failed`]: (event) => {
      settle(event.item_id, "you", "", event.error.message);
      session.owed.delete(event.item_id);
    },
    "response.output_audio.delta": (event) => {
      if (session.lastTurn) tellDelay("Answer", session.lastTurn);
      session.lastTurn = null;
      play(event.item_id, event.delta);
    },
    "response.output_audio_transcript.delta": (event) => add(event.item_id, "answer", event.delta),
    "response.output_audio_transcript.done": (event) => settle(event.item_id, "answer", event.transcript),
    "response.done": ({ response }) => {
      const details = response.status_details ?? {};
      if (details.error) problem(`No answer: ${details.error.message}`);
    },
    "conversation.item.truncated": (event) => {
      const one = turn(event.item_id, "answer");
      if (!one.querySelector("em")) one.append(Object.assign(document.createElement("em"), { textContent: " (interrupted)" }));
    },
    error: (event) => {
      if (event.error.code !== "input_audio_buffer_commit_empty") problem(event.error.message);
    },
  };

  function receive(message) {
    const event = JSON.parse(message.data);
    handlers[event.type]?.(event);
    if (session.over && !session.owed.size) session.socket.close(1000);
  }

  // --- Microphone --------------------------------------------------------------------------------------------------

  async function listen() {
    if (!navigator.mediaDevices) throw new Error("A browser gives the microphone only to pages of localhost and of https addresses.");
    const wanted = { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true };
    const stream = await navigator.mediaDevices.getUserMedia({ audio: wanted });
    session.microphone = stream;
    const code = URL.createObjectURL(new Blob([WORKLET], { type: "text/javascript" }));
    try {
      await attach(stream, code);
    } catch {
      context = new AudioContext(); // a browser that does not change the rate of a microphone
      await attach(stream, code);
    }
    URL.revokeObjectURL(code);
  }

  async function attach(stream, code) {
    await context.audioWorklet.addModule(code);
    const source = context.createMediaStreamSource(stream);
    const node = new AudioWorkletNode(context, "speech-gateway-microphone", { numberOfOutputs: 0 });
    node.port.onmessage = (message) => append(message.data);
    source.connect(node);
    await context.resume();
  }

  function append(samples) {
    if (!session?.microphone || session.socket?.readyState !== WebSocket.OPEN) return;
    session.begun ??= performance.now() - 1000 * samples.length / RATE;
    const pcm = Int16Array.from(samples, (sample) => Math.max(-1, Math.min(1, sample)) * 32767);
    send(`${INPUT}append`, { audio: btoa(String.fromCharCode(...new Uint8Array(pcm.buffer))) });
    const level = Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length);
    at("level").style.width = `${Math.min(100, Math.max(0, 100 + 20 * Math.log10(level + 1e-5)))}%`; // dB, 100 below full
  }

  function mute() {
    for (const track of session?.microphone?.getTracks() ?? []) track.stop();
    if (session) session.microphone = null;
    at("level").style.width = "0";
  }

  // --- From the page -----------------------------------------------------------------------------------------------

  function end(text) {
    mute();
    for (const { source } of session?.playing ?? []) source.stop();
    const socket = session?.socket;
    session = null;
    socket?.close(1000);
    context?.close();
    context = null;
    show("Not listening", "off");
    if (text) problem(text);
  }

  function open(secret) {
    const base = location.pathname.replace(/\/ui(\/.*)?$/, "");
    const url = `${location.protocol.replace("http", "ws")}//${location.host}${base}/v1/realtime`;
    const socket = new WebSocket(url, ["realtime", `openai-insecure-api-key.${secret}`]);
    return new Promise((resolve, reject) => {
      socket.onopen = () => resolve(socket);
      socket.onerror = () => reject(new Error("The server did not open a live session. Its log has the reason."));
    });
  }

  async function start(given) {
    if (!given?.secret) return end("");
    const mine = session = {
      converses: given.converses, begun: null, playing: [], ends: 0, cut: new Set(), owed: new Set(), over: false,
      turnEnds: new Map(), lastTurn: null, delays: {}, microphone: null, socket: null,
    };
    try {
      await listen();
      const socket = await open(given.secret);
      if (session !== mine) return socket.close(1000);
      session.socket = socket;
      socket.onmessage = receive;
      socket.onclose = (event) => { if (session === mine) end(event.code === 1000 && !event.reason ? "" : `The session ended: ${event.reason || event.code}`); };
      show("Listening", "good");
    } catch (error) {
      if (session === mine) end(error.name === "NotAllowedError" ? "The browser does not allow the microphone." : error.message);
    }
  }

  return {
    start,
    // Within the click, without which a browser plays nothing.
    prepare() {
      if (session) end("");
      context = new AudioContext({ sampleRate: RATE });
      context.resume();
      at("turns").replaceChildren();
      at("delay").hidden = true;
      problem("");
      show("Connecting", "wait");
    },
    // What was begun is still written down.
    stop() {
      if (!session?.socket || session.converses) return end("");
      mute();
      show("Writing the last words", "wait");
      send(`${INPUT}commit`);
      send(`${INPUT}clear`);
    },
  };
})();
