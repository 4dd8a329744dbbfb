// Writes a video with WebCodecs and mediabunny: which encoder and container, the frames, and where the file is kept meanwhile.

import { BT709, toI420 } from './video-colours.js'
import { VideoError } from './video-error.js'
import { codecName } from './video-read.js'

/** @typedef {'mp4' | 'webm'} Container */
/**
 * @typedef {object} Encoding
 * @property {Container} container
 * @property {'avc' | 'vp9' | 'av1' | 'vp8'} codec
 * @property {string} name of the codec
 * @property {VideoEncoderConfig} config
 */

const SECONDS_BETWEEN_KEY_FRAMES = 2
// Frames inside the encoder at once.
const MOST_QUEUED = 4
// H.264: level, most macroblocks in a frame and in a second, most bits per second.
const LEVELS_AVC = /** @type {const} */ ([['1f', 3600, 108_000, 14e6], ['28', 8192, 245_760, 20e6], ['33', 36_864, 983_040, 240e6], ['3e', 139_264, 16_711_680, 800e6]])
// VP9 and AV1: their levels for frames of up to so many pixels.
const LEVELS_VP9 = /** @type {const} */ ([['31', 983_040], ['41', 2_228_224], ['51', 8_912_896], ['61', Infinity]])
const LEVELS_AV1 = /** @type {const} */ ([['05', 665_856], ['08', 2_359_296], ['13', 8_912_896], ['17', Infinity]])

/**
 * The codec strings to try, the most wanted first.
 * @param {number} width
 * @param {number} height
 * @param {number} frameRate
 * @param {number} bitrate
 * @returns {[Container, Encoding['codec'], string][]}
 */
function candidates (width, height, frameRate, bitrate) {
  const blocks = Math.ceil(width / 16) * Math.ceil(height / 16)
  const level = LEVELS_AVC.find(([, frame, second, bits]) => blocks <= frame && blocks * frameRate <= second && bitrate <= bits) ?? LEVELS_AVC[3]
  const fits = (/** @type {readonly (readonly [string, number])[]} */ levels) => levels.find(([, most]) => width * height <= most)?.[0]
  return [
    ['mp4', 'avc', `avc1.6400${level[0]}`],
    ['mp4', 'avc', `avc1.4d00${level[0]}`],
    ['mp4', 'avc', `avc1.42e0${level[0]}`],
    ['webm', 'vp9', `vp09.00.${fits(LEVELS_VP9)}.08`],
    ['webm', 'av1', `av01.0.${fits(LEVELS_AV1)}M.08`],
    ['webm', 'vp8', 'vp8']
  ]
}

/**
 * The first encoding of MP4 with H.264, then WebM with VP9, AV1 or VP8, that the browser says it can do.
 * @param {{width: number, height: number, frameRate: number}} video
 * @returns {Promise<Encoding>}
 * @throws {VideoError} none
 */
export async function chooseEncoding ({ width, height, frameRate }) {
  const even = { width: width + width % 2, height: height + height % 2 }
  // A quarter of a bit per pixel keeps film grain; small frames need more.
  const bitrate = Math.round(Math.max(2e6, 0.25 * even.width * even.height * Math.min(frameRate, 60)))
  for (const [container, codec, string] of candidates(even.width, even.height, frameRate, bitrate)) {
    /** @type {VideoEncoderConfig} */
    const config = { codec: string, ...even, bitrate, bitrateMode: 'variable', framerate: frameRate, latencyMode: 'quality' }
    if (codec === 'avc') config.avc = { format: 'avc' }
    const supported = await VideoEncoder.isConfigSupported(config).then(answer => answer.supported, () => false)
    if (supported) return { container, codec, name: codecName(codec), config }
  }
  throw new VideoError(`This browser has no encoder for video of ${width} x ${height} pixels`, 'Choose a smaller size, or another browser')
}

/** Encodes frames in order and hands the packets to a mediabunny source, each with the frame's exact time. */
export class FrameWriter {
  /**
   * @param {Encoding} encoding
   * @param {import('mediabunny').EncodedVideoPacketSource} source
   * @param {Mediabunny} mediabunny
   * @typedef {typeof import('mediabunny')} Mediabunny
   */
  constructor (encoding, source, { EncodedPacket }) {
    this.config = encoding.config
    this.planes = new Uint8Array(this.config.width * this.config.height * 3 / 2)
    /** @type {Map<number, {timestamp: number, duration: number}>} exact times by what the encoder was told, in microseconds */
    this.times = new Map()
    this.last = -Infinity
    this.nextKey = -Infinity
    this.written = 0
    /** @type {Error | null} */
    this.error = null
    this.added = Promise.resolve()
    this.encoder = new VideoEncoder({
      output: (chunk, meta) => {
        const time = this.times.get(chunk.timestamp)
        this.times.delete(chunk.timestamp)
        this.written++
        const packet = EncodedPacket.fromEncodedChunk(chunk).clone(time)
        this.added = this.added.then(() => source.add(packet, tagged(meta)))
        this.added.catch((error) => { this.error ??= error })
      },
      error: (error) => { this.error ??= error }
    })
    this.encoder.configure(this.config)
  }

  /**
   * Waits while the encoder or the file cannot take more.
   * @param {ImageData} image
   * @param {{timestamp: number, duration: number}} time in seconds
   */
  async write (image, time) {
    const { width, height } = this.config
    // Two frames never share a time, whatever the file says.
    const timestamp = Math.max(Math.round(time.timestamp * 1e6), this.last + 1)
    this.last = timestamp
    this.times.set(timestamp, time)
    const frame = new VideoFrame(toI420(image, width, height, this.planes), {
      format: 'I420',
      codedWidth: width,
      codedHeight: height,
      timestamp,
      duration: Math.round(time.duration * 1e6),
      colorSpace: BT709
    })
    const keyFrame = time.timestamp >= this.nextKey
    if (keyFrame) this.nextKey = time.timestamp + SECONDS_BETWEEN_KEY_FRAMES
    if (this.error) throw this.error
    this.encoder.encode(frame, { keyFrame })
    frame.close()
    while (this.encoder.encodeQueueSize > MOST_QUEUED && !this.error) {
      await new Promise(resolve => this.encoder.addEventListener('dequeue', resolve, { once: true }))
    }
    await this.added
    if (this.error) throw this.error
  }

  /** Waits until the last frame is in the file. */
  async finish () {
    await this.encoder.flush()
    await this.added
    if (this.error) throw this.error
    this.close()
  }

  close () {
    if (this.encoder.state !== 'closed') this.encoder.close()
  }
}

/**
 * An encoder's description with the colours that the frames were made in, for encoders that forget them.
 * @param {EncodedVideoChunkMetadata | undefined} meta
 */
function tagged (meta) {
  return meta?.decoderConfig ? { ...meta, decoderConfig: { ...meta.decoderConfig, colorSpace: BT709 } } : meta
}
