// The buttons under the camera's picture.

import { button, el } from './dom.js'

/**
 * @typedef {object} CameraActions
 * @property {() => void} toggle starts or stops
 * @property {() => void} restart with the camera that is chosen
 * @property {() => void} flip to a phone's other camera
 * @property {() => void} mirror
 * @property {() => void} split
 * @property {() => void} snapshot
 * @property {() => void} fullScreen
 */

/** @param {CameraActions} actions */
export function createToolbar (actions) {
  const start = button({
    icon: 'play',
    text: 'Start',
    id: 'camera-start',
    class: 'primary',
    onclick: () => actions.toggle()
  })
  const devices = el('select', {
    id: 'camera-device',
    'aria-label': 'Camera',
    hidden: true,
    on: { change: () => actions.restart() }
  })
  /** @type {(name: string, label: string, act: () => void, pressed?: boolean) => HTMLButtonElement} */
  const round = (name, label, act, pressed) =>
    button({ icon: name, label, id: `camera-${name}`, pressed, onclick: () => act() })
  const flip = round('flip', 'Front or back camera', actions.flip)
  const mirror = round('mirror', 'Mirror', actions.mirror, true)
  const split = round('compare', 'Before and after', actions.split, true)
  const snapshot = round('snapshot', 'Snapshot', actions.snapshot)
  const fullScreen = round('fullscreen', 'Full screen', actions.fullScreen, false)
  const root = el(
    'div',
    { class: 'toolbar', role: 'group', 'aria-label': 'Camera' },
    ...[start, devices, flip, mirror, split, snapshot, fullScreen]
  )
  return { root, start, devices, flip, mirror, split, snapshot, fullScreen }
}
