import { stringify } from 'yaml';
import { describeEmptiness } from '../../base/fake-emptiness.ts';
import { parseRegistriesD } from './registries-d.ts';

const section = (lookaside: string): object => ({
  lookaside,
  'lookaside-staging': 'file:///s',
  'sigstore-staging': 'file:///s',
  'use-sigstore-attachments': true,
});
const keys = {
  lookaside: 'unset',
  'lookaside-staging': 'ignored',
  'sigstore-staging': 'ignored',
  'use-sigstore-attachments': 'unset',
} as const;
const below = (at: string): object =>
  Object.fromEntries(Object.entries(keys).map(([key, rule]) => [`${at}.${key}`, rule]));

describeEmptiness({
  name: 'registries.d',
  notation: 'yaml',
  samples: [
    { 'default-docker': section('https://a'), docker: { 'b.example': section('https://b') } },
    { 'default-docker': { sigstore: 'https://a' }, docker: { 'b.example': { sigstore: 'https://b' } } },
  ],
  names: ['docker'],
  // The container tools read it with a reader of YAML that wants the names as they are.
  spelling: 'exact',
  read: (document) => parseRegistriesD(stringify(document), 'test'),
  keys: {
    'default-docker': 'unset',
    'default-docker.sigstore': 'unset',
    ...below('default-docker'),
    docker: 'unset',
    'docker.*': { absent: 'unset', empty: 'own', why: 'a scope of which nothing is said stands in one file, too' },
    'docker.*.sigstore': 'unset',
    ...below('docker.*'),
  },
});
