// Video: not there yet.

import { el } from './dom.js'

/**
 * @param {HTMLElement} root
 * @param {import('./session.js').Session} session
 */
export function mount (root, session) {
  const place = el('p', { class: 'empty' }, 'Not there yet.')
  root.append(place)
  return { unmount () { place.remove() } }
}
