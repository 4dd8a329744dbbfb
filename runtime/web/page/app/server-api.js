// The HTTP API of the server that the page came from: requests, and its errors in words.

/** What the server refused, or that it cannot be reached; the message is for people. */
export class ServerError extends Error {
  /**
   * @param {string} message
   * @param {number} [status] of HTTP; 0 without an answer
   */
  constructor (message, status = 0) {
    super(message)
    this.name = 'ServerError'
    this.status = status
    /** Whether live video cannot pass between here and the server, although requests can. */
    this.blocked = false
  }

  /** Whether everything is taken, so that trying again later helps. */
  get busy () { return this.status === 503 }
}

/**
 * Asks the server. Rejects with a `ServerError`, or as `fetch` when it is aborted.
 * @param {string} path below the page's folder, such as `v1/images`
 * @param {RequestInit} [request]
 * @returns {Promise<Response>} with a status of 200 to 299
 */
export async function ask (path, request = {}) {
  let answer
  try {
    answer = await fetch(new URL(path, document.baseURI), { cache: 'no-store', ...request })
  } catch (error) {
    if (request.signal?.aborted) throw error
    throw new ServerError('The server cannot be reached. Check that it runs, and the network.')
  }
  if (!answer.ok) throw await refusal(answer)
  return answer
}

/** @param {Response} answer */
async function refusal (answer) {
  const body = await answer.json().catch(() => ({}))
  return new ServerError(body.fact ? inWords(body) : `The server answered ${answer.status}.`, answer.status)
}

/**
 * The server's fact and advice as sentences.
 * @param {{fact: string, advice: string}} problem
 */
export function inWords ({ fact, advice }) {
  const [first, second] = [fact, advice ?? ''].map(text => text && text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? '' : '.'))
  return `${first} ${second}`.trim()
}

/**
 * Signs the page in with the token after # in its address, which is removed from there, or finds that it is signed in.
 * Rejects with a `ServerError` that says what to do.
 */
export async function signIn () {
  const given = new URLSearchParams(location.hash.slice(1)).get('token')
  if (given) {
    history.replaceState(null, '', location.pathname + location.search)
    await ask('v1/session', { method: 'POST', headers: { Authorization: `Bearer ${given}` } })
    return
  }
  try {
    await ask('v1/model')
  } catch (error) {
    if (!(error instanceof ServerError) || error.status !== 401) throw error
    throw new ServerError('This server wants a token. Open its address with #token=… and your token at the end.', 401)
  }
}
