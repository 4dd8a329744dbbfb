// How fast frames come, and how late they are.

const WINDOW_MS = 2000

/** Frames per second and the median delay of the last two seconds. */
export class Meter {
  /** @type {{at: number, delay: number}[]} */
  #frames = []
  /** How many frames were counted in all. */
  count = 0

  /** @param {number} delay of the frame that is shown now, in milliseconds */
  tick (delay) {
    const at = performance.now()
    this.#frames.push({ at, delay })
    while (this.#frames.length > 2 && at - this.#frames[0].at > WINDOW_MS) this.#frames.shift()
    this.count++
  }

  /** Forgets the past, after a pause. */
  reset () {
    this.#frames = []
  }

  /** undefined until there are two frames */
  get fps () {
    const frames = this.#frames
    if (frames.length < 2) return undefined
    return (1000 * (frames.length - 1)) / Math.max(1, frames[frames.length - 1].at - frames[0].at)
  }

  /** Milliseconds; undefined before the first frame. */
  get delay () {
    const sorted = this.#frames.map(frame => frame.delay).sort((a, b) => a - b)
    return sorted.length ? sorted[sorted.length >> 1] : undefined
  }
}
