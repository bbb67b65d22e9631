// Vercel's AI SDK: URL WAV
import assert from 'node:assert'
import fs from 'node:fs'
import { createOpenAI } from '@ai-sdk/openai'
import { experimental_generateSpeech as generateSpeech, experimental_transcribe as transcribe, generateText } from 'ai'

const [url, wav] = process.argv.slice(2)
const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: 'any' })
const audio = fs.readFileSync(wav)
for (const options of [undefined, { openai: { language: 'en' } }])
  for (const model of ['whisper-1', 'gpt-4o-transcribe']) {
    const heard = await transcribe({ model: openai.transcription(model), audio, providerOptions: options })
    assert(heard.text)
  }
const said = await generateSpeech({ model: openai.speech('tts-1'), voice: 'alloy', text: 'Good morning.' })
assert(said.audio.uint8Array.length)
const answer = await generateText({ model: openai.chat('gpt-4o-audio-preview'), prompt: 'hi' })
assert(answer.text)
console.log('OK')
