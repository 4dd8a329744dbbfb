// Random styles: draws from N(0, I), as in training, and the same ones as in Python (`--style seed:7`).
//
// NumPy's `default_rng(seed).standard_normal`: a seed sequence, the generator PCG64 (XSL-RR), and the ziggurat method.

const MASK_32 = 0xffffffffn
const MASK_64 = (1n << 64n) - 1n
const MASK_128 = (1n << 128n) - 1n
const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n
const LAYERS = 256
const TAIL = 3.654152885361009 // where the tail of the normal distribution begins
const AREA = 0.004928673233974655 // of each layer
const TWO_52 = 2 ** 52

/**
 * @param {number} length
 * @param {number} seed a whole number of 0 or more
 * @returns {Float32Array}
 */
export function randomCode (length, seed) {
  if (!Number.isSafeInteger(seed) || seed < 0) throw new RangeError(`The seed is ${seed}. Use a whole number of 0 or more.`)
  const next = pcg64(seedWords(BigInt(seed)))
  return Float32Array.from({ length }, () => normal(next))
}

/**
 * A seed sequence's first eight words, of 32 bits.
 * @param {bigint} seed
 * @returns {number[]}
 */
function seedWords (seed) {
  /** @type {number[]} */
  const entropy = []
  for (let rest = seed; rest > 0n || !entropy.length; rest >>= 32n) entropy.push(Number(rest & MASK_32))
  let constant = 0x43b0d7e5
  const hash = (/** @type {number} */ word) => {
    let value = (word ^ constant) >>> 0
    constant = Math.imul(constant, 0x931e8875) >>> 0
    value = Math.imul(value, constant) >>> 0
    return (value ^ (value >>> 16)) >>> 0
  }
  const mix = (/** @type {number} */ one, /** @type {number} */ other) => {
    const value = (Math.imul(0xca01f9dd, one) - Math.imul(0x4973f715, other)) >>> 0
    return (value ^ (value >>> 16)) >>> 0
  }
  const pool = [0, 1, 2, 3].map((i) => hash(entropy[i] ?? 0))
  for (let from = 0; from < 4; from++) {
    for (let to = 0; to < 4; to++) if (from !== to) pool[to] = mix(pool[to], hash(pool[from]))
  }
  for (const word of entropy.slice(4)) for (let to = 0; to < 4; to++) pool[to] = mix(pool[to], hash(word))
  let out = 0x8b51f9dd
  return Array.from({ length: 8 }, (_, i) => {
    let value = (pool[i % 4] ^ out) >>> 0
    out = Math.imul(out, 0x58f38ded) >>> 0
    value = Math.imul(value, out) >>> 0
    return (value ^ (value >>> 16)) >>> 0
  })
}

/**
 * Draws of 64 random bits.
 * @param {number[]} words eight of 32 bits
 * @returns {() => bigint}
 */
function pcg64 (words) {
  const [high, low, incHigh, incLow] = [0, 2, 4, 6].map((i) => BigInt(words[i]) | (BigInt(words[i + 1]) << 32n))
  const increment = ((((incHigh << 64n) | incLow) << 1n) | 1n) & MASK_128
  let state = 0n
  const step = () => { state = (state * MULTIPLIER + increment) & MASK_128 }
  step()
  state = (state + ((high << 64n) | low)) & MASK_128
  step()
  return () => {
    step()
    const value = (state >> 64n) ^ (state & MASK_64)
    const turn = state >> 122n
    return ((value >> turn) | (value << (64n - turn))) & MASK_64
  }
}

/**
 * One draw from N(0, 1).
 * @param {() => bigint} next
 * @returns {number}
 */
function normal (next) {
  const { widths, limits, heights } = layers()
  for (;;) {
    const bits = next()
    const layer = Number(bits & 0xffn)
    const sign = (bits >> 8n) & 1n ? -1 : 1
    const size = Number((bits >> 9n) & 0xfffffffffffffn)
    const x = size * widths[layer]
    if (size < limits[layer]) return sign * x
    if (layer === 0) return ((size / 256) & 1 ? -1 : 1) * (TAIL + tail(next))
    if ((heights[layer - 1] - heights[layer]) * uniform(next) + heights[layer] < Math.exp(-0.5 * x * x)) return sign * x
  }
}

/** @param {() => bigint} next */
function tail (next) {
  for (;;) {
    const x = -Math.log1p(-uniform(next)) / TAIL
    const y = -Math.log1p(-uniform(next))
    if (y + y > x * x) return x
  }
}

/** @param {() => bigint} next */
function uniform (next) {
  return Number(next() >> 11n) / 2 ** 53
}

/** @type {{ widths: Float64Array, limits: Float64Array, heights: Float64Array } | null} */
let table = null

/** The layers of the ziggurat: 256 of the same area. */
function layers () {
  if (table) return table
  const [widths, limits, heights] = [0, 0, 0].map(() => new Float64Array(LAYERS))
  const height = (/** @type {number} */ x) => Math.exp(-0.5 * x * x)
  const base = AREA / height(TAIL)
  widths[0] = base / TWO_52
  limits[0] = Math.floor((TAIL / base) * TWO_52)
  heights[0] = 1
  widths[LAYERS - 1] = TAIL / TWO_52
  heights[LAYERS - 1] = height(TAIL)
  let x = TAIL
  for (let i = LAYERS - 2; i > 0; i--) {
    const above = Math.sqrt(-2 * Math.log(AREA / x + height(x)))
    limits[i + 1] = Math.floor((above / x) * TWO_52)
    x = above
    widths[i] = x / TWO_52
    heights[i] = height(x)
  }
  table = { widths, limits, heights }
  return table
}
