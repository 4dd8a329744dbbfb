import js from '@eslint/js'
import stylistic from '@stylistic/eslint-plugin'

const DANGEROUS = ['innerHTML', 'outerHTML', 'insertAdjacentHTML', 'setHTMLUnsafe', 'srcdoc']

export default [
  js.configs.recommended,
  stylistic.configs.customize({ indent: 2, quotes: 'single', semi: false, arrowParens: false, commaDangle: 'never' }),
  {
    files: ['**/*.js'],
    rules: {
      'no-loss-of-precision': 'off', // constants as they were published
      'no-undef': 'off', // TypeScript checks names, with the types of browsers
      'no-unused-vars': ['error', { caughtErrors: 'none' }],
      'eqeqeq': 'error',
      'no-eval': 'error',
      'no-implied-eval': 'error',
      'no-var': 'error',
      'prefer-const': 'error',
      'no-restricted-properties': ['error', { object: 'document', property: 'write' }, ...DANGEROUS.map((property) => ({
        property, message: 'Names in a bundle come from anybody: use textContent'
      }))],
      '@stylistic/space-before-function-paren': ['error', 'always'],
      '@stylistic/brace-style': ['error', '1tbs', { allowSingleLine: true }],
      '@stylistic/arrow-parens': 'off',
      '@stylistic/generator-star-spacing': 'off',
      '@stylistic/list-style': 'off',
      '@stylistic/operator-linebreak': 'off',
      '@stylistic/indent-binary-ops': 'off',
      '@stylistic/lines-between-class-members': 'off',
      '@stylistic/multiline-ternary': 'off',
      '@stylistic/max-len': ['error', { code: 180, ignoreComments: true, ignoreStrings: true, ignoreTemplateLiterals: true }],
      '@stylistic/max-statements-per-line': 'off',
      '@stylistic/quote-props': 'off'
    }
  }
]
