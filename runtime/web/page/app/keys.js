// Keys of the whole page: one letter each, and off for those whom they disturb.

import { openAbout } from './about.js'
import { another, set } from './controls-style.js'
import { chooseTarget } from './controls.js'
import { keys } from './key-list.js'
import { notify } from './notices.js'

/** @typedef {import('./session.js').Session} Session */
/**
 * `key`: whether the mode has used the key. `question`: what to ask before it is left, if something would be lost.
 * @typedef {{unmount: () => void, key?: (key: string) => boolean, question?: () => string | null}} Mode
 */

/**
 * Keys of the whole page. Not while something is typed, and not with Ctrl, Alt or the command key.
 * @param {KeyboardEvent} event
 * @param {Session} session
 * @param {Mode | null} mode
 */
export function onKey (event, session, mode) {
  if (!keys.on) return
  const on = /** @type {HTMLElement} */ (event.target)
  if (
    event.ctrlKey
    || event.altKey
    || event.metaKey
    || event.repeat
    || on.closest('input:not([type=range]):not([type=radio]), select, textarea, dialog')
  )
    return
  if (event.key === ' ' && on.closest('button, input, a')) return
  const key = event.key.toLowerCase()
  if (mode?.key?.(key)) return event.preventDefault()
  if (key === 'd') nextDirection(session)
  else if ((key === 's' || key === 'r') && !session.hasStyles) notify('This model has no styles.')
  else if (key === 's') nextStyle(session)
  else if (key === 'r') another(session)
  else if (key === '?') openAbout(session)
}

/** @param {Session} session */
function nextDirection (session) {
  const targets = session.directions.map((/** @type {{target: string}} */ direction) => direction.target)
  if (targets.length > 1) chooseTarget(session, targets[(targets.indexOf(session.wanted) + 1) % targets.length])
}

/** @param {Session} session */
function nextStyle (session) {
  const names = ['', ...session.named]
  const at
    = session.choice.kind === 'named' ? names.indexOf(session.choice.name) : session.choice.kind === 'mean' ? 0 : -1
  const name = names[(at + 1) % names.length]
  return set(session, name ? { kind: 'named', name } : { kind: 'mean' })
}
