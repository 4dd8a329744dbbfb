// Random styles: drawn around the styles of a domain's training images, the same ones as in Python (`--style seed:7`).
//
// mean + z @ axes, z from a normal distribution that is cut at two standard deviations; see dsmap/runtime/styles/random_styles.py.

import { DsmapError } from './errors.js'

/** @typedef {import('./site.js').DomainStyles} DomainStyles */

const MASK_64 = (1n << 64n) - 1n
const BELOW_CUT = 0.022750131948179212 // the normal distribution at -2; at 2 it is 1 minus that

/**
 * @param {DomainStyles} styles of the target domain
 * @param {number} seed a whole number of 0 or more
 * @returns {Float32Array}
 */
export function randomCode (styles, seed) {
  if (!Number.isSafeInteger(seed) || seed < 0) throw new DsmapError('input', `The seed is ${seed}. Use a whole number of 0 or more.`)
  const { mean, std } = styles
  const axes = styles.axes?.length ? styles.axes : std.map((deviation, i) => std.map((_, j) => (i === j ? deviation : 0)))
  const next = uniform(seed)
  const z = axes.map(() => inverseNormal(BELOW_CUT + next() * (1 - 2 * BELOW_CUT)))
  return Float32Array.from(mean, (value, j) => z.reduce((sum, draw, i) => sum + draw * axes[i][j], value))
}

/**
 * Numbers in [0, 1) with 53 bits, by SplitMix64 (Steele, Lea, Flood 2014).
 * @param {number} seed
 * @returns {() => number}
 */
function uniform (seed) {
  let state = BigInt(seed)
  return () => {
    state = (state + 0x9e3779b97f4a7c15n) & MASK_64
    let mixed = state
    mixed = ((mixed ^ (mixed >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK_64
    mixed = ((mixed ^ (mixed >> 27n)) * 0x94d049bb133111ebn) & MASK_64
    return Number((mixed ^ (mixed >> 31n)) >> 11n) / 2 ** 53
  }
}

/**
 * The inverse of the normal distribution, by Wichura's algorithm AS 241 (1988), to about 16 digits. Its part for the
 * far tails is left out: `probability` is between those of -2 and 2.
 * @param {number} probability
 * @returns {number}
 */
function inverseNormal (probability) {
  const q = probability - 0.5
  if (Math.abs(q) <= 0.425) return q * ratio(CENTRE, 0.180625 - q * q)
  const r = Math.sqrt(-Math.log(Math.min(probability, 1 - probability))) - 1.6
  return Math.sign(q) * ratio(TAIL, r)
}

/**
 * @param {{ over: number[], under: number[] }} polynomials their coefficients, the highest power first
 * @param {number} x
 */
function ratio ({ over, under }, x) {
  const value = (/** @type {number[]} */ factors) => factors.reduce((sum, factor) => sum * x + factor, 0)
  return value(over) / value(under)
}

const CENTRE = {
  over: [
    2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457, 13731.693765509461125,
    1971.5909503065514427, 133.14166789178437745, 3.387132872796366608
  ],
  under: [
    5226.495278852545925, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867, 5394.1960214247511077,
    687.1870074920579083, 42.313330701600911252, 1
  ]
}
const TAIL = {
  over: [
    7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
    3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734
  ],
  under: [
    1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
    0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1
  ]
}
