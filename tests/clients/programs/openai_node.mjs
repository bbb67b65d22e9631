// openai for node, as OpenAI and as Azure OpenAI: URL WAV
import assert from 'node:assert'
import fs from 'node:fs'
import OpenAI, { AzureOpenAI } from 'openai'

const [url, wav] = process.argv.slice(2)
const clients = [
  new OpenAI({ baseURL: `${url}/v1`, apiKey: 'any' }),
  new AzureOpenAI({ endpoint: url, apiVersion: '2025-04-01-preview', apiKey: 'any' }),
]
for (const client of clients) {
  const text = await client.audio.transcriptions.create({ model: 'whisper-1', file: fs.createReadStream(wav) })
  assert(text.text)
  const stream = await client.audio.transcriptions.create({
    model: 'gpt-4o-transcribe', file: fs.createReadStream(wav), stream: true,
  })
  let last
  for await (const event of stream) last = event
  assert.equal(last.type, 'transcript.text.done')
  const speech = await client.audio.speech.create({ model: 'tts-1', voice: 'alloy', input: 'Good morning.' })
  assert((await speech.arrayBuffer()).byteLength)
}
console.log('OK')
