// For the type checker alone: the file itself is put here when a site is built.
export * from 'mediabunny'
