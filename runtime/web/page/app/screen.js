// The device's screen: full screen, and not going dark while a camera runs.

import { notify } from './notices.js'

const FILLED = 'filled'

/**
 * Whether `element` has the whole screen, or the whole page where there is no more to be had.
 * @param {HTMLElement} element
 */
export function isFull (element) {
  return document.fullscreenElement === element || element.classList.contains(FILLED)
}

/**
 * Gives `element` the whole screen, or takes it back. Phones that give it to videos only fill the page with it.
 * @param {HTMLElement} element
 */
export async function toggleFullScreen (element) {
  if (document.fullscreenElement) return document.exitFullscreen()
  if (!element.requestFullscreen) element.classList.toggle(FILLED)
  else await element.requestFullscreen().catch(() => notify('This browser does not allow full screen here.'))
}

/** Keeps the screen on while `on` is true; a wish that some systems refuse. */
export class Awake {
  /** @type {WakeLockSentinel | undefined} */
  #lock
  #wanted = false

  /** @param {boolean} on */
  async set (on) {
    if (on === this.#wanted) return
    this.#wanted = on
    const lock = on ? await navigator.wakeLock?.request('screen').catch(() => undefined) : undefined
    await this.#lock?.release().catch(() => {})
    this.#lock = lock
    if (!this.#wanted) await lock?.release().catch(() => {})
  }
}
