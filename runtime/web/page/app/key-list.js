// The keys that the page knows, and whether they are on.

/** Off: letters do nothing. */
export const keys = { on: true }

/** Each key, and what it does. */
export const KEYS = [
  ['D', 'the other direction'],
  ['S', 'next style'],
  ['R', 'random style'],
  ['B', 'before and after, on and off'],
  ['Space', 'start or stop the camera'],
  ['M', 'mirror'],
  ['C', 'snapshot'],
  ['F', 'full screen'],
  ['?', 'this box']
]
