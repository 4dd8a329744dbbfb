// @ts-check
/** Random styles: draws from N(0, I), as in training. */

/**
 * @param {number} length
 * @param {number} seed
 * @returns {Float32Array}
 */
export function randomCode (length, seed) {
  const next = uniform(seed)
  return Float32Array.from({ length }, () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next()))
}

/** @param {number} seed */
function uniform (seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}
