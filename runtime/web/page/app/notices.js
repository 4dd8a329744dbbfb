// Short messages at the edge of the page; screen readers read them out.

import { button, byId, el, icon } from './dom.js'

const SECONDS = 7
const MOST = 3

/**
 * Shows `text`. Errors stay until they are closed; of the same text there is only one.
 * @param {string} text
 * @param {'info' | 'error'} [kind]
 */
export function notify (text, kind = 'info') {
  const list = byId('notices')
  for (const old of [...list.children]) if (old.querySelector('p')?.textContent === text) old.remove()
  while (list.children.length >= MOST) list.firstElementChild?.remove()
  const notice = el(
    'div',
    { class: `notice ${kind}`, role: kind === 'error' ? 'alert' : undefined },
    icon(kind === 'error' ? 'warning' : 'info'),
    el('p', {}, text),
    button({ icon: 'close', label: 'Close this message', class: 'ghost small', onclick: () => notice.remove() })
  )
  list.append(notice)
  if (kind === 'info') setTimeout(() => notice.remove(), SECONDS * 1000)
}
