// A video's sound: its packets are copied as they are where the container takes them, else encoded again, else left out.

import { codecName, loadMediabunny } from './video-read.js'

// What players take in these containers. MP4 has PCM too, but few players do.
const COPIED = { mp4: ['aac', 'opus', 'mp3', 'flac', 'ac3', 'eac3'], webm: ['opus', 'vorbis'] }
const ENCODED = { mp4: /** @type {const} */ (['aac', 'opus']), webm: /** @type {const} */ (['opus']) }
const RATE = 48000

/**
 * @typedef {object} SoundTrack
 * @property {'copied' | 'encoded' | 'left out'} way
 * @property {string} note what happens to it, as a sentence; empty where it is copied
 * @property {import('mediabunny').AudioSource | null} source to add to the output; none where it is left out
 * @property {string} language
 * @property {AsyncGenerator<number>} steps does the work, one packet or so at a time, and tells the time it has reached
 */

/**
 * What is done with each sound track.
 * @param {import('mediabunny').InputAudioTrack[]} tracks
 * @param {'mp4' | 'webm'} container
 * @returns {Promise<SoundTrack[]>}
 */
export async function planSound (tracks, container) {
  const plans = []
  for (const track of tracks) plans.push(await planTrack(track, container))
  return plans
}

/**
 * @param {import('mediabunny').InputAudioTrack} track
 * @param {'mp4' | 'webm'} container
 * @returns {Promise<SoundTrack>}
 */
async function planTrack (track, container) {
  const { EncodedAudioPacketSource } = await loadMediabunny()
  const codec = await track.getCodec()
  const language = await track.getLanguageCode()
  const name = codecName(codec)
  if (codec && COPIED[container].includes(codec)) {
    const source = new EncodedAudioPacketSource(codec)
    return { way: 'copied', note: '', source, language, steps: copyPackets(track, source) }
  }
  const box = container === 'mp4' ? 'MP4' : 'WebM'
  const out = (/** @type {string} */ why) => ({ way: /** @type {const} */ ('left out'), note: `The sound (${name}) is left out: ${why}.`, source: null, language, steps: nothing() })
  if (!codec || !(await track.canDecode())) return out(`${box} cannot hold it, and this browser cannot decode it`)
  const encoder = await chooseEncoder(track, container)
  if (!encoder) return out(`${box} cannot hold it, and this browser cannot encode ${ENCODED[container].map(codecName).join(' or ')}`)
  const { source, steps } = await encodeAgain(track, encoder)
  return { way: 'encoded', note: `The sound is encoded again, from ${name} to ${codecName(encoder.codec)}: ${box} cannot hold ${name}.`, source, language, steps }
}

/**
 * @param {import('mediabunny').InputAudioTrack} track
 * @param {'mp4' | 'webm'} container
 */
async function chooseEncoder (track, container) {
  const { canEncodeAudio, Quality } = await loadMediabunny()
  const own = { numberOfChannels: await track.getNumberOfChannels(), sampleRate: await track.getSampleRate() }
  const quality = new Quality('high')
  for (const shape of [own, { ...own, sampleRate: RATE }, { numberOfChannels: Math.min(own.numberOfChannels, 2), sampleRate: RATE }]) {
    for (const codec of ENCODED[container]) if (await canEncodeAudio(codec, { ...shape, quality })) return { codec, quality, ...shape }
  }
  return null
}

/**
 * @param {import('mediabunny').InputAudioTrack} track
 * @param {import('mediabunny').EncodedAudioPacketSource} source
 */
async function * copyPackets (track, source) {
  const { EncodedPacketSink } = await loadMediabunny()
  const meta = { decoderConfig: await track.getDecoderConfig() ?? undefined }
  for await (const packet of new EncodedPacketSink(track).packets()) {
    await source.add(packet, meta)
    yield packet.timestamp + packet.duration
  }
}

/**
 * @param {import('mediabunny').InputAudioTrack} track
 * @param {{codec: 'aac' | 'opus', quality: import('mediabunny').Quality, numberOfChannels: number, sampleRate: number}} encoder
 */
async function encodeAgain (track, { codec, quality, numberOfChannels, sampleRate }) {
  const { AudioSampleSink, AudioSampleSource } = await loadMediabunny()
  const source = new AudioSampleSource({ codec, quality, transform: { numberOfChannels, sampleRate } })
  async function * steps () {
    for await (const sample of new AudioSampleSink(track).samples()) {
      const end = sample.timestamp + sample.duration
      await source.add(sample)
      sample.close()
      yield end
    }
  }
  return { source, steps: steps() }
}

/** @returns {AsyncGenerator<number>} */
async function * nothing () {}

/** Feeds the sound into the output alongside the frames, so that neither waits in memory for the other. */
export class SoundFeed {
  /** @param {SoundTrack[]} tracks */
  constructor (tracks) {
    this.waiting = tracks.filter(track => track.source).map(track => ({ track, reached: -Infinity, done: false }))
  }

  /**
   * All sound that starts up to this time.
   * @param {number} seconds
   */
  async until (seconds) {
    for (const entry of this.waiting) {
      while (!entry.done && entry.reached <= seconds) {
        const { value, done } = await entry.track.steps.next()
        if (done) {
          entry.done = true
          entry.track.source?.close()
        } else entry.reached = value
      }
    }
  }

  /** Stops reading. */
  async close () {
    await Promise.all(this.waiting.map(({ track }) => track.steps.return(undefined)))
  }
}
