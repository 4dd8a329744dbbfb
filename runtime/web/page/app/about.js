// The about box: what the model is, where it runs and why there, and what happens to the images.

import { button, byId, el, icon } from './dom.js'
import { KEYS, keys } from './key-list.js'

export const LOCAL = 'Everything stays on your device'
const LOCAL_LONG
  = 'Images and videos are translated in this browser, on this device. Nothing is sent anywhere: the page has no server behind it, no cookies and no tracking.'
const REMOTE_LONG
  = 'Images, videos and the camera\'s frames are sent to the server that this page came from, and are translated there. Who runs that server can see them.'

/**
 * What happens to the images, in one line.
 * @param {import('./session.js').Session} session
 */
export function privacyLine (session) {
  return session.remote ? `Frames are sent to ${location.host} and translated there` : LOCAL
}

/** @param {import('./session.js').Session} session */
export function openAbout (session) {
  const box = /** @type {HTMLDialogElement} */ (byId('about'))
  const close = button({ icon: 'close', label: 'Close', class: 'ghost', onclick: () => box.close() })
  box.replaceChildren(
    el('header', {}, el('h2', { id: 'about-title' }, session.site.name), close),
    el(
      'div',
      { class: 'about-body', tabIndex: 0, role: 'region', 'aria-labelledby': 'about-title' },
      el(
        'p',
        { class: 'privacy-note' },
        icon(session.remote ? 'cloud' : 'lock'),
        el('span', {}, session.remote ? REMOTE_LONG : `${LOCAL_LONG} ${offline(session)}`)
      ),
      section('Where it runs', ...backendPart(session)),
      section('Licence of the model', el('p', { class: 'text' }, session.site.licence || 'None is named.')),
      section('About the model', el('pre', { class: 'card' }, session.site.card || 'There is no description.')),
      section(
        'Keys',
        keysSwitch(),
        el(
          'dl',
          { class: 'keys' },
          ...KEYS.flatMap(([key, what]) => [el('dt', {}, el('kbd', {}, key)), el('dd', {}, what)])
        )
      )
    )
  )
  box.onclick = (event) => {
    if (event.target === box) box.close()
  }
  box.showModal()
}

/** @param {import('./session.js').Session} session */
function offline ({ notOffline }) {
  return notOffline ? `It does not work offline: ${notOffline.replace(/[.\s]+$/, '')}.` : 'It works offline after the first visit.'
}

function keysSwitch () {
  const box = el('input', { type: 'checkbox', id: 'keys-on', checked: keys.on })
  box.addEventListener('change', () => {
    keys.on = box.checked
  })
  return el('label', { class: 'check' }, box, 'Letters are keys')
}

/**
 * @param {string} title
 * @param {...HTMLElement} parts
 */
function section (title, ...parts) {
  return el('section', {}, el('h3', {}, title), ...parts)
}

/**
 * The backend in use with the reason, and those that were refused.
 * @param {import('./session.js').Session} session
 */
function backendPart (session) {
  const { translator } = session
  if (!translator) return [el('p', {}, 'The model is still loading.')]
  const { name, reason, psnr, refused } = translator.backend
  const rows = [row(name, 'in use', reason, psnr), ...refused.map(({ name, reason }) => row(name, 'not used', reason))]
  const hint = session.remote
    ? []
    : [
        el(
          'p',
          { class: 'hint' },
          'A backend is used only if its first frame agrees with the one stored with the model (PSNR, higher is closer). Add ',
          el('code', {}, '?backend=wasm'),
          ' to the address to choose one.'
        )
      ]
  return [el('ul', { class: 'backends' }, ...rows), ...hint]
}

/**
 * @param {string} name
 * @param {string} state
 * @param {string} reason
 * @param {number | null} [psnr]
 */
function row (name, state, reason, psnr) {
  const number = typeof psnr !== 'number' ? '' : Number.isFinite(psnr) ? `PSNR ${psnr.toFixed(1)} dB` : 'PSNR: identical'
  return el(
    'li',
    {},
    el('strong', {}, name),
    el('span', { class: `pill ${state === 'in use' ? 'good' : ''}` }, state),
    el('span', { class: 'number' }, number),
    el('p', {}, reason)
  )
}
