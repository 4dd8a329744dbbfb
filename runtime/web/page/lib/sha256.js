/** SHA-256, also on pages without HTTPS, where browsers withhold theirs. */

/**
 * 64 hex digits.
 * @param {ArrayBuffer} bytes
 * @returns {Promise<string>}
 */
export async function sha256 (bytes) {
  const digest = globalThis.crypto?.subtle
    ? new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))
    : digestHere(new Uint8Array(bytes))
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('')
}

/**
 * FIPS 180-4.
 * @param {Uint8Array} bytes
 * @returns {Uint8Array} 32 bytes
 */
export function digestHere (bytes) {
  const padded = new Uint8Array(((bytes.length + 72) >> 6) << 6)
  padded.set(bytes)
  padded[bytes.length] = 0x80
  const view = new DataView(padded.buffer)
  view.setBigUint64(padded.length - 8, BigInt(bytes.length) * 8n)
  const { constants, start } = tables()
  const state = Int32Array.from(start)
  const words = new Int32Array(64)
  for (let at = 0; at < padded.length; at += 64) {
    for (let i = 0; i < 16; i++) words[i] = view.getInt32(at + 4 * i)
    mixBlock(state, words, constants)
  }
  const out = new DataView(new ArrayBuffer(32))
  state.forEach((word, i) => out.setInt32(4 * i, word))
  return new Uint8Array(out.buffer)
}

/**
 * @param {Int32Array} state 8 words, changed
 * @param {Int32Array} w 64 words, of which the first 16 are the block
 * @param {Int32Array} k
 */
function mixBlock (state, w, k) {
  for (let i = 16; i < 64; i++) {
    const s0 = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ (w[i - 15] >>> 3)
    const s1 = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ (w[i - 2] >>> 10)
    w[i] = w[i - 16] + s0 + w[i - 7] + s1
  }
  let [a, b, c, d, e, f, g, h] = state
  for (let i = 0; i < 64; i++) {
    const one = h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + k[i] + w[i]
    const two = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    [h, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0]
  }
  [a, b, c, d, e, f, g, h].forEach((word, i) => (state[i] += word))
}

/**
 * @param {number} word
 * @param {number} by
 */
function turn (word, by) {
  return (word >>> by) | (word << (32 - by))
}

/** The first 32 bits of the fractions of the roots of the first primes: cube roots, and square roots of eight. */
function tables () {
  /** @type {number[]} */
  const primes = []
  for (let n = 2; primes.length < 64; n++) if (primes.every((p) => n % p)) primes.push(n)
  const bits = (/** @type {number} */ root) => ((root % 1) * 2 ** 32) | 0
  return {
    constants: Int32Array.from(primes, (p) => bits(Math.cbrt(p))),
    start: Int32Array.from(primes.slice(0, 8), (p) => bits(Math.sqrt(p)))
  }
}
