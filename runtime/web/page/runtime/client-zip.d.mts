// The types of the file that a site has here.
export * from 'client-zip'
