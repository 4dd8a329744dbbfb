// Cameras: opening one, listing them, and what is wrong with them in plain words.

/** @typedef {{device?: string, facing?: 'user' | 'environment', large?: boolean}} CameraChoice `device`: an id */

/**
 * Opens a camera. Rejects with an Error whose message is for people.
 * @param {CameraChoice} choice
 * @returns {Promise<MediaStream>}
 */
export async function openCamera (choice) {
  if (!navigator.mediaDevices?.getUserMedia)
    throw new Error('Cameras work only on pages that were opened by https or from this machine (localhost).')
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: false, video: constraints(choice) })
  } catch (error) {
    const { name, message } = /** @type {DOMException} */ (error)
    if (name === 'OverconstrainedError' && choice.device) return openCamera({ ...choice, device: undefined }) // it has been unplugged
    throw new Error(inWords(name) ?? `The camera cannot be opened: ${message}`, { cause: error })
  }
}

/** The cameras there are. Their names are empty until the user has allowed one. */
export async function listCameras () {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.().catch(() => [])) ?? []
  return devices.filter(device => device.kind === 'videoinput' && device.deviceId)
}

/** Whether this is a phone or a tablet, whose cameras are told apart by where they look. */
export function hasFacing () {
  return (
    matchMedia('(pointer: coarse)').matches && Boolean(navigator.mediaDevices?.getSupportedConstraints?.().facingMode)
  )
}

/** @param {CameraChoice} choice */
function constraints ({ device, facing, large }) {
  const size = large
    ? { width: { ideal: 1920 }, height: { ideal: 1080 } }
    : { width: { ideal: 1280 }, height: { ideal: 720 } }
  return {
    ...size,
    frameRate: { ideal: 30 },
    ...(device ? { deviceId: { exact: device } } : facing ? { facingMode: { ideal: facing } } : {})
  }
}

/** @param {string} name of a DOMException */
function inWords (name) {
  return {
    NotAllowedError:
      'The camera is not allowed. Allow it for this page beside the address (on some systems also in the privacy settings), then start again.',
    NotFoundError: 'No camera was found. Connect one, then start again.',
    NotReadableError: 'The camera does not answer: another program may be using it, or the system blocks it.',
    AbortError: 'The camera did not start. Try again, or choose another one.',
    SecurityError: 'This page may not use cameras: the page or the browser forbids it.',
    OverconstrainedError: 'There is no such camera.'
  }[name]
}
