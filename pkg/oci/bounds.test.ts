import { expect } from 'chai';
import { parseImageConfig } from './image-config.ts';
import { parseManifest } from './manifest.ts';

const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));

describe('bounds on what images hold', () => {
  it('refuses what would be work for every container, or memory for every image', () => {
    const many = (count: number, value: unknown, name = (index: number) => `/v${index}`): object =>
      Object.fromEntries(Array.from({ length: count }, (_, index) => [name(index), value]));
    const config = (fields: object): Buffer => json({ rootfs: { type: 'layers', diff_ids: [] }, config: fields });
    const bounds: readonly (readonly [at: object, beyond: object, said: RegExp])[] = [
      [{ Volumes: many(1_024, {}) }, { Volumes: many(1_025, {}) }, /declares 1025 VOLUMEs, at most 1024 are taken/],
      [{ Env: Array(16_384).fill('A=') }, { Env: Array(16_384).fill('A='), Cmd: ['x'] }, /has 16385 entries in Env/],
      [
        { Env: ['A='.padEnd(2 << 20, 'x')] },
        { Env: ['A='.padEnd((1 << 20) + 2, 'ü')] },
        /bytes in Env, Entrypoint and Cmd/,
      ],
      [
        { Entrypoint: ['x'.repeat(1 << 20)], Cmd: ['x'.repeat(1 << 20)] },
        { Cmd: ['x'.repeat((2 << 20) + 1)] },
        /bytes/,
      ],
      [{ Labels: { a: 'x'.repeat((1 << 20) - 1) } }, { Labels: { a: 'x'.repeat(1 << 20) } }, /bytes of labels/],
      [
        { ExposedPorts: many(63_000, {}, (index) => `${index}/tcp`) },
        { ExposedPorts: many(64_001, {}, (index) => `${index}/tcp`) },
        /the image config has more than 64000 members/,
      ],
    ];
    for (const [at, beyond, said] of bounds) {
      parseImageConfig(config(at));
      expect(() => parseImageConfig(config(beyond)), said.source)
        .to.throw(said)
        .with.property('code', 'ResourceExhausted');
    }
  });

  it('does not parse what would hold the event loop: 200 000 VOLUMEs, indexes of nothing but entries', () => {
    const volumes = Array.from({ length: 200_000 }, (_, index) => `"/v${index}":{}`).join();
    const documents = [
      `{"rootfs":{"type":"layers"},"config":{"Volumes":{${volumes}}}}`,
      `{"config":[${'[],'.repeat(1_000_000)}0]}`,
      `{"config":[${'0,'.repeat(1_500_000)}0]}`,
      `{"a":"${'\\\\'.repeat(100)}\\"","b":[${'{},'.repeat(400_000)}0]}`,
    ];
    const before = process.cpuUsage();
    for (const document of documents)
      expect(() => parseImageConfig(Buffer.from(document)))
        .to.throw(/more than \d+ (members|values), which no image needs/)
        .with.property('code', 'ResourceExhausted');
    expect(() => parseManifest(Buffer.from(`{"schemaVersion":2,"manifests":[${'{},'.repeat(400_000)}{}]}`), ''))
      .to.throw(/the manifest has more than/)
      .with.property('code', 'ResourceExhausted');
    const { user, system } = process.cpuUsage(before);
    expect((user + system) / 1000, 'ms of processor time').to.be.below(1_000);
  });
});
