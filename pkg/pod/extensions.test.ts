import { assert } from 'chai';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { backgroundOp, type Logger, silent } from '../base/op.ts';
import { DirectoryExtensions } from './extensions.ts';

const op = backgroundOp(silent);
const spec = (device: string, env: string): string =>
  `cdiVersion: "0.6.0"\nkind: vendor.example/gpu\ndevices:\n  - {name: ${device}, containerEdits: {env: [${env}]}}\n`;

describe('extensions in directories', () => {
  let directory: string;
  let warnings: string[];
  const log: Logger = {
    ...silent,
    warn: (message, fields) => void warnings.push(`${message} ${String(fields?.['path'])}`),
  };
  const extensions = (): DirectoryExtensions =>
    new DirectoryExtensions({ cdiSpecs: [directory, join(directory, 'absent')], hooks: [directory], blockIo: '' }, log);
  const put = (name: string, text: string): Promise<void> => writeFile(join(directory, name), text);

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'berth-extensions-'));
    warnings = [];
  });
  afterEach(() => rm(directory, { recursive: true, force: true }));

  it('are classes of block I/O as the file says now; what it does not say is a warning', async () => {
    await put('blockio.yaml', 'Classes:\n  slow:\n  - Weight: 50\n');
    const found = new DirectoryExtensions({ cdiSpecs: [], hooks: [], blockIo: join(directory, 'blockio.yaml') }, log);
    assert.deepEqual(await found.blockIo(op, 'slow'), { weight: 50 });
    await put('blockio.yaml', 'Classes:\n  slow:\n  - Weight: 700\n  odd:\n  - Devices: [/dev/nothing*]\n');
    assert.deepEqual(await found.blockIo(op, 'slow'), { weight: 700 });
    assert.deepEqual(await found.blockIo(op, 'odd'), {});
    assert.isUndefined(await found.blockIo(op, 'fast'));
    await put('blockio.yaml', '{');
    assert.deepEqual(await found.blockIo(op, 'slow'), { weight: 700 });
    assert.deepEqual(
      warnings.map((line) => line.replace(` ${join(directory, 'blockio.yaml')}`, '')),
      [
        'no block device matches a pattern in blockio_config_file, ignoring',
        'a container names a class of block I/O that is not in blockio_config_file, ignoring',
        'blockio_config_file cannot be used; containers keep the classes that were read before',
      ],
    );
    assert.isUndefined(await extensions().blockIo(op, 'slow'), 'no file, no classes');
  });

  it('are none where there are no files, or no directory', async () => {
    const none = new DirectoryExtensions(
      { cdiSpecs: [join(directory, 'absent')], hooks: [join(directory, 'absent')], blockIo: '' },
      log,
    );
    assert.equal((await none.cdi(op)).devices.size, 0);
    assert.deepEqual(await none.hooks(op), []);
  });

  it('are read again only when a file has changed', async () => {
    await put('a.yaml', spec('one', 'A=1'));
    const found = extensions();
    const first = await found.cdi(op);
    assert.deepEqual([...first.devices.keys()], ['vendor.example/gpu=one']);
    assert.strictEqual(await found.cdi(op), first);
    await put('a.yaml', spec('two', 'A=1'));
    assert.deepEqual([...(await found.cdi(op)).devices.keys()], ['vendor.example/gpu=two']);
    await rm(join(directory, 'a.yaml'));
    assert.equal((await found.cdi(op)).devices.size, 0);
  });

  it('lose only what a broken file has, and say so once', async () => {
    await put('a.yaml', spec('one', 'A=1'));
    await put('b.json', '{');
    await put('c.yaml', 'a: [');
    await put('d.yaml', '{"cdiVersion": "9.9.9"}');
    const found = extensions();
    const registry = await found.cdi(op);
    assert.deepEqual([...registry.devices.keys()], ['vendor.example/gpu=one']);
    assert.deepEqual(registry.damaged.map(({ path }) => path.slice(directory.length + 1)).sort(), [
      'b.json',
      'c.yaml',
      'd.yaml',
    ]);
    assert.lengthOf(warnings, 3);
    await found.cdi(op);
    assert.lengthOf(warnings, 3);
  });

  it('are not multiplied by aliases, nor read from other names', async () => {
    const lines = [
      'a0: &a0 [x]',
      ...Array.from({ length: 30 }, (_, i) => `a${i + 1}: &a${i + 1} [*a${i}, *a${i}, *a${i}]`),
    ];
    await put('bomb.yaml', lines.join('\n'));
    await put('notes.txt', spec('one', 'A=1'));
    await put('.hidden.yaml', spec('two', 'A=1'));
    const registry = await extensions().cdi(op);
    assert.equal(registry.devices.size, 0);
    assert.lengthOf(registry.damaged, 1);
  });

  it('hold hooks of the format 1.0.0', async () => {
    await put(
      'h.json',
      JSON.stringify({ version: '1.0.0', hook: { path: '/bin/hook' }, when: { always: true }, stages: ['poststop'] }),
    );
    assert.deepEqual(
      (await extensions().hooks(op)).map(({ hook }) => hook.path),
      ['/bin/hook'],
    );
  });

  it('are YAML 1.1, as CDI reads it: octal modes, names that look like numbers, no times of day', async () => {
    await put(
      'a.yaml',
      'cdiVersion: "0.6.0"\nkind: vendor.example/gpu\ndevices:\n' +
        '  - {name: 0, containerEdits: {env: [T=1], deviceNodes: [{path: /dev/a, fileMode: 0640, uid: 0o17}], ' +
        'mounts: [{hostPath: /a, containerPath: /b, options: [12:30, 2026-01-01]}]}}\n',
    );
    const device = (await extensions().cdi(op)).devices.get('vendor.example/gpu=0');
    assert.deepEqual(warnings, []);
    assert.equal(device?.edits.deviceNodes[0]?.fileMode, 0o640);
    assert.equal(device?.edits.deviceNodes[0]?.uid, 0o17);
    assert.deepEqual(device?.edits.mounts[0]?.options, ['12:30', '2026-01-01']);
  });
});
